import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Which rooms the files of a room may import; beside these only their own. A file may be named where its room may not. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  protocol: [],
  schedule: ['protocol'],
  runtime: ['protocol'],
  lua: ['protocol', 'runtime/clock.ts'],
  registry: ['protocol', 'schedule', 'lua'],
  scheduler: ['protocol', 'schedule', 'runtime', 'lua', 'registry'],
  client: ['protocol', 'schedule', 'lua', 'registry'],
  worker: ['protocol', 'runtime', 'lua', 'client'],
  cli: ['protocol', 'schedule', 'runtime', 'lua', 'registry', 'scheduler', 'worker', 'client'],
};

interface Source {
  readonly path: string;
  readonly room: string;
  /** Paths of our own files that it imports, if only their types. */
  readonly imports: readonly string[];
  /** Those of which it needs more than types. */
  readonly needs: readonly string[];
  readonly packages: readonly string[];
}

function readSource(path: string): Source {
  const text = readFileSync(join(ROOT, path), 'utf8');
  const imports: string[] = [];
  const needs: string[] = [];
  const packages: string[] = [];
  for (const [statement, named, bare] of text.matchAll(
    /^(?:import|export)\b[^;]*?\bfrom '([^']+)';|^import '([^']+)';/gms,
  )) {
    const specifier = named ?? bare!;
    if (!specifier.startsWith('.')) {
      packages.push(specifier);
      continue;
    }
    const target = normalize(join(dirname(path), specifier));
    imports.push(target);
    if (!/^(import|export) type\b/.test(statement)) needs.push(target);
  }
  return { path, room: path.split('/')[0]!, imports, needs, packages };
}

const sources = Object.keys(ALLOWED)
  .flatMap((room) =>
    readdirSync(join(ROOT, room), { recursive: true, encoding: 'utf8' }).map((file) => `${room}/${file}`),
  )
  .filter((path) => path.endsWith('.ts'))
  .map(readSource);

t.test('a room imports only the rooms that it may', async (t) => {
  t.ok(sources.length > 50);
  const trespasses = sources.flatMap(({ path, room, imports }) =>
    imports
      .filter((target) => !target.startsWith(`${room}/`))
      .filter((target) => !ALLOWED[room]!.some((allowed) => target === allowed || target.startsWith(`${allowed}/`)))
      .map((target) => `${path} -> ${target}`),
  );
  t.same(trespasses, []);
});

t.test('what the package exports comes from client and worker', async (t) => {
  const index = readSource('index.ts');
  t.not(index.imports.length, 0);
  t.same(
    index.imports.filter((target) => !/^(client|worker|protocol)\//.test(target)),
    [],
  );
});

t.test('protocol and schedule know neither Redis nor a clock', async (t) => {
  for (const { path, room, packages } of sources) {
    if (room !== 'protocol' && room !== 'schedule') continue;
    t.same(
      packages.filter((name) => /^(ioredis|node:(timers|perf_hooks|fs|net))/.test(name)),
      [],
      path,
    );
    t.notMatch(readFileSync(join(ROOT, path), 'utf8'), /Date\.now\(|performance\.now\(/, path);
  }
});

t.test('no file imports itself by way of others', async (t) => {
  const graph = new Map(sources.map(({ path, needs }) => [path, needs]));
  const finished = new Set<string>();
  const cycles: string[] = [];
  const visit = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) cycles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '));
    if (finished.has(path) || trail.includes(path)) return;
    for (const target of graph.get(path) ?? []) visit(target, [...trail, path]);
    finished.add(path);
  };
  for (const { path } of sources) visit(path, []);
  t.same(cycles, []);
});

t.test('every import of our own names a file that is there', async (t) => {
  const paths = new Set(sources.map(({ path }) => path));
  t.same(
    sources.flatMap(({ path, imports }) =>
      imports.filter((target) => !paths.has(target)).map((to) => `${path} -> ${to}`),
    ),
    [],
  );
});
