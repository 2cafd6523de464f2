import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type GuardedChild, spawnGuarded } from '../../runtime/guarded-child.ts';
import { until } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { spawnProcess } from '../support/processes.ts';

const MODULE = fileURLToPath(new URL('../../runtime/guarded-child.js', import.meta.url));

async function outputOf(child: GuardedChild): Promise<string> {
  return Buffer.concat(await child.process.stdout!.toArray()).toString();
}

t.test("pid, output, exit code and signal are the program's own", async (t) => {
  const child = await spawnGuarded('/bin/sh', ['-c', 'echo $$ "$1"; exit 7', 'sh', "a 'b'  $c"], { graceSec: 1 });
  t.equal(await outputOf(child), `${child.pid} a 'b'  $c\n`);
  t.same(await child.exited, { code: 7, signal: null });
  t.ok(child.hasExited());
  t.notOk(child.kill('SIGTERM'));

  const killed = await spawnGuarded('/bin/sleep', ['60'], { graceSec: 1 });
  t.ok(killed.kill('SIGKILL'));
  t.same(await killed.exited, { code: null, signal: 'SIGKILL' });
});

t.test('a program that is not there ends with 127', async (t) => {
  const child = await spawnGuarded('/no/such/program', [], { graceSec: 1 });
  t.same(await child.exited, { code: 127, signal: null });
});

t.test('stop is SIGTERM, and SIGKILL for whoever does not listen', async (t) => {
  const polite = await spawnGuarded('/bin/sleep', ['60'], { graceSec: 1 });
  t.same(await polite.stop(10_000), { code: null, signal: 'SIGTERM' });
  t.same(await polite.stop(10_000), { code: null, signal: 'SIGTERM' }, 'twice is no harm');

  const deaf = await spawnGuarded('/bin/sh', ['-c', "trap '' TERM; echo up; while :; do sleep 0.1; done"], {
    graceSec: 1,
  });
  await new Promise((resolve) => deaf.process.stdout!.once('data', resolve));
  t.same(await deaf.stop(100), { code: null, signal: 'SIGKILL' });
});

t.test('the watcher touches nothing when the program has ended by itself', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const child = await spawnGuarded('/bin/sh', ['-c', ':'], { graceSec: 1, removeFolder: folder });
  await child.exited;
  await new Promise((resolve) => child.lifeline.once('close', resolve));
  t.ok(existsSync(folder));
});

for (const [title, program] of [
  ['a program that ignores SIGTERM', `'/bin/sh', ['-c', 'trap "" TERM; while :; do sleep 0.1; done']`],
  ['a program that is suspended', `'/bin/sh', ['-c', 'kill -STOP $$; sleep 60']`],
]) {
  t.test(`${title} is killed after the grace when its parent is killed, and its folder goes`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-'));
    const parent = await spawnProcess(t, process.execPath, [
      ...['--input-type=module', '-e'],
      `import { spawnGuarded } from ${JSON.stringify(MODULE)};
       const child = await spawnGuarded(${program}, { graceSec: 1, removeFolder: ${JSON.stringify(folder)} });
       console.log('pid ' + child.pid + '.');`,
    ]);
    await until(() => parent.stdout.includes('.'), 'the program runs');
    const pid = Number(/\d+/.exec(parent.stdout));
    t.ok(isRunning(pid), 'a child keeps its parent alive as any child does');
    parent.kill('SIGKILL');
    await until(() => !isRunning(pid), 'it was killed');
    await until(() => !existsSync(folder), 'its folder is gone');
  });
}
