import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { resultKey } from '../../lua/keys.ts';
import { eventually } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { type Spawned, spawnRingbeat, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { send, whereabouts } from './messages.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('./pool-tasks.js', import.meta.url));
const KINDS = ['processes', 'threads'] as const;
const NOWHERE = { queued: 0, unacked: 0, index: 0, dead: 0 };

interface Setting {
  readonly redis: Redis;
  start(...args: string[]): Promise<Spawned>;
}

async function setUp(t: Test, env: Readonly<Record<string, string>> = {}): Promise<Setting> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const start = (...args: string[]) =>
    spawnWorker(t, server.url, ['--tasks', TASKS, ...args], { env: { RINGBEAT_TEST_REDIS: server.url, ...env } });
  return { redis, start };
}

async function recordOf(redis: Redis, id: string): Promise<{ readonly status: string; readonly result: unknown }> {
  return eventually(async () => {
    const text = await redis.get(resultKey(id));
    assert.ok(text, `no result of ${id} yet`);
    return JSON.parse(text);
  });
}

for (const kind of KINDS) {
  t.test(`--pool ${kind}: tasks run, fail and are lost without harm to others`, async (t) => {
    const { redis, start } = await setUp(t);
    const worker = await start('--pool', kind, '-c', '2');
    t.match(await worker.logged('worker_ready'), { pool: kind, concurrency: 2 });
    await send(
      redis,
      { task: 'hold', id: 'held' },
      { task: 'exit', id: 'lost', args: [3] },
      { task: 'add', id: 'sum', args: [2, 3] },
    );
    t.match(await recordOf(redis, 'lost'), {
      status: 'FAILURE',
      result: { exc_type: 'WorkerLostError', exc_message: [/^Worker exited prematurely: exitcode 3 Job: 1\.$/] },
    });
    t.match(await recordOf(redis, 'sum'), { status: 'SUCCESS', result: 5 });
    await redis.set('go', '1');
    t.match(await recordOf(redis, 'held'), { status: 'SUCCESS' });
    await eventually(async () => assert.deepEqual(await whereabouts(redis), NOWHERE));
  });

  t.test(`--pool ${kind}: a task that never pauses ends at its hard limit, and others run in its slot`, async (t) => {
    const { redis, start } = await setUp(t);
    await start('--pool', kind, '-c', '1', '--time-limit', '1');
    await send(redis, { task: 'hang', id: 'endless' }, { task: 'add', id: 'sum', args: [2, 3] });
    t.match(await recordOf(redis, 'endless'), {
      status: 'FAILURE',
      result: { exc_type: 'TimeLimitExceeded', exc_module: 'billiard.exceptions', exc_message: [1] },
    });
    t.match(await recordOf(redis, 'sum'), { status: 'SUCCESS', result: 5 });
  });

  t.test(`--pool ${kind}: the worker's heartbeat goes on while its tasks compute`, async (t) => {
    const { redis, start } = await setUp(t);
    const worker = await start('--pool', kind, '-c', '2');
    await send(redis, { task: 'hang', id: 'a' }, { task: 'hang', id: 'b' });
    await eventually(async () => assert.equal(await redis.llen('ran'), 2));
    const beat = async () => (await redis.zrange('rb:workers', '0', '-1', 'WITHSCORES'))[1];
    const before = await beat();
    await eventually(async () => assert.notEqual(await beat(), before));
    worker.kill('SIGKILL');
  });

  t.test(`--pool ${kind}: a warm stop waits for what runs`, async (t) => {
    const { redis, start } = await setUp(t);
    const worker = await start('--pool', kind, '-c', '1');
    await send(redis, { task: 'hold', id: 'held' });
    await eventually(async () => assert.equal(await redis.llen('ran'), 1));
    worker.kill('SIGTERM');
    await worker.logged('worker_stopping');
    await redis.set('go', '1');
    t.same(await worker.exited, { code: 0, signal: null });
    t.match(await recordOf(redis, 'held'), { status: 'SUCCESS' });
  });

  t.test(`--pool ${kind}: a cold stop does not wait for a task that never pauses`, async (t) => {
    const { redis, start } = await setUp(t);
    const worker = await start('--pool', kind, '-c', '1', '--acks-late');
    await send(redis, { task: 'hang', id: 'endless' });
    await eventually(async () => assert.equal(await redis.llen('ran'), 1));
    worker.kill('SIGQUIT');
    t.same(await worker.exited, { code: 0, signal: null });
    t.same(await whereabouts(redis), { ...NOWHERE, queued: 1 });
  });
}

t.test('when a worker is killed, its child processes end with it, whatever they do', async (t) => {
  const { redis, start } = await setUp(t);
  const worker = await start('--pool', 'processes', '-c', '2');
  await send(redis, { task: 'hang', id: 'a' }, { task: 'hang', id: 'b' });
  await eventually(async () => assert.equal(await redis.llen('ran'), 2));
  const pids = (await redis.lrange('ran', 0, -1)).map(Number);
  t.ok(pids.every(isRunning));
  worker.kill('SIGKILL');
  await eventually(() => assert.ok(!pids.some(isRunning)));
});

t.test('--autoscale grows with the work at once and shrinks when it has gone', async (t) => {
  const { redis, start } = await setUp(t, { AUTOSCALE_KEEPALIVE: '0.5' });
  const worker = await start('--pool', 'processes', '--autoscale', '3,1');
  t.equal((await worker.logged('worker_ready')).concurrency, 1);
  await send(redis, ...['a', 'b', 'c', 'd'].map((id) => ({ task: 'hold', id })));
  await eventually(async () => assert.equal(await redis.llen('ran'), 3));
  t.ok(worker.log.some(({ event, to }) => event === 'scaling_up' && to === 3));
  await redis.set('go', '1');
  const places = await Promise.all(['a', 'b', 'c', 'd'].map(async (id) => (await recordOf(redis, id)).result));
  t.equal(new Set(places).size, 3);
  await worker.logged('scaling_down');
  await eventually(() => {
    const left = [...new Set(places)].filter((place) => isRunning(Number.parseInt(String(place), 10)));
    assert.equal(left.length, 1);
  });
});

const REFUSED: readonly (readonly [readonly string[], number, RegExp])[] = [
  [['--autoscale', '0'], 2, /two whole numbers, the greater from 1/],
  [['--autoscale', '3,x'], 2, /two whole numbers/],
  [['--max-tasks-per-child', '0'], 2, /whole number from 1/],
  [
    ['--max-tasks-per-child', '5'],
    2,
    /--max-tasks-per-child .* --pool async has none\. Use --pool processes, or leave/,
  ],
  [['--max-memory-per-child', '9', '--pool', 'threads'], 2, /--max-memory-per-child .* --pool threads has none\. Use/],
  [['--max-tasks-per-child', '5', '--pool', 'solo'], 2, /--pool solo has none\. Use --pool processes/],
  [['--pool', 'solo', '--autoscale', '3'], 2, /--pool solo runs one task at a time.* or leave --autoscale out/],
  [['--pool', 'solo', '-c', '2'], 2, /--pool solo runs one task .* Use --pool async, or leave --concurrency out/],
  [['--autoscale', '3', '-c', '2'], 2, /--autoscale and --concurrency both .* Leave --concurrency out, or --autoscale/],
];
for (const [args, code, text] of REFUSED) {
  t.test(`worker ${args.join(' ')} is refused`, async (t) => {
    const worker = await spawnRingbeat(t, ['worker', '--tasks', TASKS, ...args]);
    t.same(await worker.exited, { code, signal: null });
    t.match(worker.stderr, text);
    t.notMatch(worker.stderr, /\n +at /, 'no stack trace');
  });
}
