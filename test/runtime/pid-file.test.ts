import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { until } from '../support/eventually.ts';
import { spawnProcess, spawnRingbeat, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));

function pidFile(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-pid-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'worker.pid');
}

/** The id of a process that has ended. */
async function deadPid(t: Test): Promise<number> {
  const process = await spawnProcess(t, 'true', []);
  await process.exited;
  return process.pid;
}

t.test('a worker names itself in its pidfile for as long as it lives', async (t) => {
  const server = await withRedis(t);
  const file = pidFile(t);
  const env = { RINGBEAT_TEST_REDIS: server.url };
  const worker = await spawnWorker(t, server.url, ['--tasks', TASKS, '--pidfile', file], { env });
  t.equal(readFileSync(file, 'utf8'), `${worker.pid}\n`);
  t.same(readdirSync(join(file, '..')), ['worker.pid'], 'and leaves nothing else there');
  const second = await spawnRingbeat(t, ['worker', '--redis', server.url, '--tasks', TASKS, '--pidfile', file], {
    env,
  });
  t.same(await second.exited, { code: 1, signal: null });
  t.match(second.stderr, `process ${worker.pid} lives and has ${file}`);
  t.equal(readFileSync(file, 'utf8'), `${worker.pid}\n`, 'who was refused left it alone');
  t.same(await worker.stop(), { code: 0, signal: null });
  t.notOk(existsSync(file));
});

t.test('a pidfile of a process that is gone is taken over', async (t) => {
  const server = await withRedis(t);
  for (const content of [`${await deadPid(t)}\n`, '']) {
    const file = pidFile(t);
    writeFileSync(file, content);
    const env = { RINGBEAT_TEST_REDIS: server.url };
    const worker = await spawnWorker(t, server.url, ['--tasks', TASKS, '--pidfile', file], { env });
    t.equal(readFileSync(file, 'utf8'), `${worker.pid}\n`);
    await worker.stop();
  }
});

t.test('a pidfile that is something else is left alone', async (t) => {
  const file = pidFile(t);
  for (const content of ['export {};\n', '-1', '0', '12 34']) {
    writeFileSync(file, content);
    const worker = await spawnRingbeat(t, ['worker', '--tasks', TASKS, '--pidfile', file]);
    t.same(await worker.exited, { code: 1, signal: null });
    t.match(worker.stderr, /it holds something else than a process id/);
    t.equal(readFileSync(file, 'utf8'), content);
  }
  const worker = await spawnRingbeat(t, ['worker', '--tasks', TASKS, '--pidfile', join(file, 'x')]);
  t.same(await worker.exited, { code: 1, signal: null });
  t.match(worker.stderr, /Cannot use --pidfile .*ENOTDIR/);
});

t.test('of many that start at once over a stale pidfile one gets it', async (t) => {
  const file = pidFile(t);
  writeFileSync(file, `${await deadPid(t)}\n`);
  const module = new URL('../../runtime/pid-file.js', import.meta.url);
  const program = `import { writePidFile } from ${JSON.stringify(module.href)};
    try { writePidFile(${JSON.stringify(file)}); console.log('mine'); setInterval(() => {}, 1000); }
    catch (error) { console.log(error.code); }`;
  const contenders = await Promise.all(
    Array.from({ length: 6 }, () => spawnProcess(t, process.execPath, ['--input-type=module', '-e', program])),
  );
  const answers = await Promise.all(
    contenders.map(async (contender) => {
      await until(() => contender.stdout !== '', 'it has said whether it got it');
      return contender.stdout.trim();
    }),
  );
  t.same(answers.sort(), ['PIDFILE_TAKEN', 'PIDFILE_TAKEN', 'PIDFILE_TAKEN', 'PIDFILE_TAKEN', 'PIDFILE_TAKEN', 'mine']);
});
