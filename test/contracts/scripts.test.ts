import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { definedScripts } from '../../lua/script.ts';
import { withRedis } from '../support/redis-server.ts';

const SOURCES = new URL('../../../lua/', import.meta.url);
const COMPILED = new URL('../../lua/', import.meta.url);
const names = readdirSync(SOURCES)
  .filter((file) => file.endsWith('.lua'))
  .map((file) => file.replace(/\.lua$/, ''));
for (const name of names) await import(new URL(`${name}.js`, COMPILED).href);

interface Parameter {
  readonly kind: 'KEYS' | 'ARGV';
  readonly position: number;
  readonly name: string;
  /** Stands for this one and all that follow. */
  readonly isRest: boolean;
}

const HEADER_LINE = /^-- (KEYS|ARGV)\[(\d+)(\.{2,3})?\] +([a-z_]+(?:, [a-z_]+)*)/;

function headerOf(source: string): Parameter[] {
  const lines = source.split('\n');
  const header = lines.slice(
    0,
    lines.findIndex((line) => !line.startsWith('--')),
  );
  return header.flatMap((line) => {
    const match = HEADER_LINE.exec(line);
    if (match === null) return [];
    const [, kind, position, rest, name] = match;
    return [{ kind: kind as 'KEYS', position: Number(position), name: name!, isRest: rest !== undefined }];
  });
}

function bodyOf(source: string): string {
  return source.replace(/^--.*$/gm, '');
}

/** `local a, b = KEYS[1], tonumber(ARGV[2])` -> [KEYS 1 a], [ARGV 2 b]. */
function bindingsOf(body: string): { kind: string; position: number; name: string }[] {
  return [...body.matchAll(/^local ([\w, ]+) = (.*(?:KEYS|ARGV)\[\d+\].*)$/gm)].flatMap(([, left, right]) => {
    const names = left!.split(', ');
    return right!.split(', ').flatMap((expression, i) => {
      const match = /(KEYS|ARGV)\[(\d+)\]/.exec(expression);
      return match === null ? [] : [{ kind: match[1]!, position: Number(match[2]), name: names[i] ?? '' }];
    });
  });
}

t.test('every script has one typed binding of the same name', async (t) => {
  t.same(
    definedScripts()
      .map(({ name }) => name)
      .sort(),
    names.sort(),
  );
});

for (const name of names) {
  t.test(`${name}: header and body agree`, async (t) => {
    const source = readFileSync(new URL(`${name}.lua`, SOURCES), 'utf8');
    const lines = source.split('\n');
    t.ok(lines[0]!.startsWith(`-- ${name}: `), 'the header begins with the name and what it does');
    t.ok(lines.some((line) => /^-- Returns /.test(line)) && lines.some((line) => /^-- Cost /.test(line)));
    const parameters = headerOf(source);
    const body = bodyOf(source);
    for (const kind of ['KEYS', 'ARGV'] as const) {
      const listed = parameters.filter((parameter) => parameter.kind === kind);
      t.same(
        listed.map(({ position }) => position),
        listed.map((_, i) => i + 1),
        `${kind} are listed in order, none left out`,
      );
      const used = new Set([...body.matchAll(new RegExp(`${kind}\\[(\\d+)\\]`, 'g'))].map(([, at]) => Number(at)));
      const fixed = listed.filter(({ isRest }) => !isRest).map(({ position }) => position);
      t.same(
        [...used].sort((a, b) => a - b).filter((at) => at <= (fixed.at(-1) ?? 0)),
        fixed,
        `the body uses all ${kind}`,
      );
      t.ok(Math.max(0, ...used) <= listed.length, `and no ${kind} that the header does not list`);
    }
    for (const { kind, position, name } of bindingsOf(body)) {
      const parameter = parameters.find((parameter) => parameter.kind === kind && parameter.position === position);
      t.equal(name, parameter?.name, `${kind}[${position}]`);
    }
  });

  t.test(`${name}: says that it may refuse when it may`, async (t) => {
    const source = readFileSync(new URL(`${name}.lua`, SOURCES), 'utf8');
    const codes = new Set([...bodyOf(source).matchAll(/error_reply\('([A-Z_]+)/g)].map(([, code]) => code));
    const listed = new Set(/^-- Errors +(.*)$/m.exec(source)?.[1]?.match(/[A-Z_]{4,}/g) ?? []);
    t.same([...codes].sort(), [...listed].sort());
  });
}

t.test('Redis accepts every script, includes and all', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  for (const { name, source } of definedScripts()) {
    t.match(await redis.script('LOAD', source), /^[0-9a-f]{40}$/, name);
    t.notMatch(source, /@include/, `${name} includes what it asks for`);
  }
});

t.test('no script calls what blocks Redis for as long as there is data', async (t) => {
  for (const { name, source } of definedScripts())
    t.notMatch(bodyOf(source), /call\('(KEYS|SMEMBERS|HVALS|HKEYS|FLUSHALL|FLUSHDB)'/, name);
});
