import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { eventually, until } from '../support/eventually.ts';
import { type Spawned, spawnRingbeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { send } from './messages.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('./sample-tasks.js', import.meta.url));

async function setUp(
  t: Test,
): Promise<{ server: RedisServer; redis: Redis; start: (...args: string[]) => Promise<Spawned> }> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const start = (...args: string[]) =>
    spawnWorker(t, server.url, ['--tasks', TASKS, ...args], { env: { RINGBEAT_TEST_REDIS: server.url } });
  return { server, redis, start };
}

t.test('SIGUSR1 says what every slot is doing, whatever the log level is', async (t) => {
  const { redis, start } = await setUp(t);
  const worker = await start('-c', '2', '--prefetch', '4', '--log-level', 'info');
  await send(redis, { task: 'hold', id: 'a' }, { task: 'hold-late', id: 'b' });
  await eventually(async () => assert.equal(await redis.llen('ran'), 2));
  await send(redis, { id: 'c' });
  await eventually(async () => assert.equal(await redis.llen('celery'), 0));
  worker.kill('SIGUSR1');
  t.match(await worker.logged('slots'), { level: 30, pool: 'async', size: 2, busy: 2, waiting: 1 });
  await until(() => worker.log.filter(({ event }) => event === 'slot').length === 2, 'both slots are told');
  const slots = worker.log.filter(({ event }) => event === 'slot');
  t.match(
    slots.find(({ id }) => id === 'a'),
    { task: 'hold', pid: worker.pid, seconds: Number },
  );
  t.match(
    slots.find(({ id }) => id === 'b'),
    { task: 'hold-late', pid: worker.pid },
  );
  await redis.set('go', '1');
  t.same(await worker.stop(), { code: 0, signal: null }, 'and it goes on as before');
});

t.test('a second SIGINT ends a worker that waits for its tasks', async (t) => {
  const { redis, start } = await setUp(t);
  const worker = await start();
  await send(redis, { task: 'hold-late', id: 'a' });
  await eventually(async () => assert.equal(await redis.llen('ran'), 1));
  worker.kill('SIGINT');
  await worker.logged('worker_stopping');
  t.notOk(worker.hasExited());
  worker.kill('SIGINT');
  t.same(await worker.exited, { code: 0, signal: null });
  t.equal(await redis.llen('celery'), 1, 'what ran is given back');
});

t.test('a failure is logged with its task, id and traceback, a success only at debug', async (t) => {
  const { redis, start } = await setUp(t);
  const [plain, chatty] = [await start('-Q', 'plain'), await start('-Q', 'chatty', '--log-level', 'debug')];
  for (const queue of ['plain', 'chatty']) {
    await send(
      redis,
      { task: 'add', id: `sum-${queue}`, queue, args: [1, 2] },
      { task: 'boom', id: `bang-${queue}`, queue, args: ['x'] },
    );
  }
  for (const [worker, queue] of [
    [plain, 'plain'],
    [chatty, 'chatty'],
  ] as const) {
    await until(() => worker.log.some(({ id }) => id === `bang-${queue}`), 'the failure is logged');
    const line = worker.log.find(({ id, event }) => id === `bang-${queue}` && event === 'task_ended');
    t.match(line, {
      level: 50,
      task: 'boom',
      state: 'failure',
      reason: "ValueError('x')",
      traceback: /^ValueError: x/,
    });
  }
  await until(() => chatty.log.some(({ id }) => id === 'sum-chatty'), 'the success is logged');
  t.match(
    chatty.log.find(({ id }) => id === 'sum-chatty'),
    { level: 20, task: 'add', event: 'task_ended', state: 'success' },
  );
  t.notOk(plain.log.some(({ id }) => id === 'sum-plain'));
});

t.test('--log-format pretty writes lines for people', async (t) => {
  const { server, redis } = await setUp(t);
  const args = ['--redis', server.url, '--tasks', TASKS, '--log-format', 'pretty'];
  const worker = await spawnRingbeat(t, ['worker', ...args], { env: { RINGBEAT_TEST_REDIS: server.url } });
  await until(() => worker.stderr.includes('worker_ready'), 'it is ready');
  await send(redis, { task: 'boom', id: 'a', args: ['bang'] });
  await until(() => worker.stderr.includes('task_ended'), 'the failure is logged');
  t.match(worker.stderr, /^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\] ERROR: task_ended \{.*"id":"a".*\}$/m);
  t.notMatch(worker.stderr, /\u001b/, 'without colours where it is no terminal');
  t.same(worker.log, []);
});
