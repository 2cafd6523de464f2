import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { CLI } from '../support/processes.ts';

const run = promisify(execFile);

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Files that start our processes, by path, with the commands that they run. */
const FILES = [
  ...readdirSync(join(ROOT, 'docs/systemd')).map((file) => `docs/systemd/${file}`),
  'docs/supervisor/ringbeat.conf',
].map((path) => {
  const text = readFileSync(join(ROOT, path), 'utf8');
  const commands = [...text.matchAll(/^(?:ExecStart|command)=(.*)$/gm)].map(([, command]) => command!);
  return { path, text, commands };
});

/** The long options of `ringbeat <command>`. */
async function optionsOf(command: string): Promise<ReadonlySet<string>> {
  const { stdout } = await run(process.execPath, [CLI, command, '--help']);
  return new Set([...stdout.matchAll(/^ {2,}(?:-\w, )?(--[a-z-]+)/gm)].map(([, option]) => option!));
}

t.test('unit files name only options that there are', async (t) => {
  const known: Record<string, ReadonlySet<string>> = {
    beat: await optionsOf('beat'),
    worker: await optionsOf('worker'),
  };
  t.equal(FILES.length, 5);
  for (const { path, commands } of FILES) {
    t.ok(commands.length > 0, path);
    for (const command of commands) {
      const [program, name, ...words] = command.split(' ');
      t.equal(program, '/usr/bin/ringbeat');
      const flags = words.filter((word) => word.startsWith('-'));
      for (const flag of flags) t.ok(known[name!]?.has(flag), `${path}: ringbeat ${name} ${flag}`);
    }
  }
});

t.test('systemd finds nothing wrong with the unit files', async (t) => {
  try {
    await run('systemd-analyze', ['--version']);
  } catch {
    t.comment('systemd-analyze is not here: the unit files are not verified');
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-units-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  for (const { path, text } of FILES.filter(({ path }) => path.endsWith('.service'))) {
    const file = join(folder, path.split('/').at(-1)!.replace('@', '@7380'));
    // It looks for the program, which is not installed here.
    writeFileSync(file, text.replaceAll('/usr/bin/ringbeat', process.execPath));
    const { stdout, stderr } = await run('systemd-analyze', ['verify', '--man=no', file]);
    const about = `${stdout}${stderr}`.split('\n').filter((line) => line.includes('ringbeat'));
    t.same(about, [], path);
  }
});
