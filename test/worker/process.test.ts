import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { queueList, resultKey, shardKeys } from '../../lua/keys.ts';
import { eventually } from '../support/eventually.ts';
import { type Spawned, spawnBeat, spawnRingbeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { iso, redisNow, send, whereabouts } from './messages.ts';

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

async function ranExactly(redis: Redis, ids: readonly string[], deadlineMs = 60_000): Promise<void> {
  await eventually(async () => assert.deepEqual((await redis.lrange('ran', 0, -1)).sort(), [...ids].sort()), {
    deadlineMs,
  });
}

const NOWHERE = { queued: 0, unacked: 0, index: 0, dead: 0 };

t.test('what a killed worker held comes back within its heartbeat and runs elsewhere', async (t) => {
  const { redis, start } = await setUp(t);
  const doomed = await start('-c', '1', '--prefetch', '4');
  await send(redis, { task: 'hold-late', id: 'late' }, { task: 'note', id: 'b' }, { task: 'note-late', id: 'c' });
  await eventually(async () => assert.deepEqual(await redis.lrange('ran', 0, -1), ['late']));
  await eventually(async () => assert.equal(await redis.hlen('unacked'), 3));
  await start();
  doomed.kill('SIGKILL');
  await doomed.exited;
  await redis.set('go', '1');
  await ranExactly(redis, ['late', 'late', 'b', 'c']);
  await eventually(async () => assert.deepEqual(await whereabouts(redis), NOWHERE));
  t.equal(JSON.parse((await redis.get(resultKey('late'))) ?? '{}').status, 'SUCCESS');
  t.equal(await redis.zcard('rb:workers'), 1);
});

t.test('a suspended worker whose messages ran elsewhere does not run them again', async (t) => {
  const { redis, start } = await setUp(t);
  const suspended = await start('-c', '1', '--prefetch', '6');
  await send(redis, { task: 'hold', id: 'first' });
  await eventually(async () => assert.deepEqual(await redis.lrange('ran', 0, -1), ['first']));
  await send(redis, { id: 'b' }, { task: 'note-late', id: 'c' }, { id: 'd' }, { task: 'note-late', id: 'e' });
  await eventually(async () => assert.equal(await redis.hlen('unacked'), 4));
  suspended.kill('SIGSTOP');
  await start();
  await ranExactly(redis, ['first', 'b', 'c', 'd', 'e']);
  await redis.set('go', '1');
  suspended.kill('SIGCONT');
  await eventually(async () => assert.ok(await redis.get(resultKey('first'))));
  await send(redis, { id: 'f' }, { task: 'note-late', id: 'g' });
  await ranExactly(redis, ['first', 'b', 'c', 'd', 'e', 'f', 'g']);
  await eventually(async () => assert.deepEqual(await whereabouts(redis), NOWHERE));
  await eventually(async () => assert.equal(await redis.zcard('rb:workers'), 2));
});

t.test('a message with an eta ahead waits in a shard, outliving its worker, and runs when it is due', async (t) => {
  const { server, redis, start } = await setUp(t);
  await spawnBeat(t, server.url, ['--create-at-once']);
  const first = await start();
  const etaMs = (await redisNow(redis)) + 1_500;
  await send(
    redis,
    { id: 'soon', priority: 6, headers: { eta: iso(etaMs) } },
    { id: 'far', headers: { eta: iso(etaMs + 3_600_000) } },
  );
  await eventually(async () => {
    let parked = 0;
    for (let shard = 0; shard < 16; shard++) parked += await redis.hlen(shardKeys('rb', shard).parked);
    assert.equal(parked, 2);
  });
  t.same(await whereabouts(redis, 'celery', queueList('celery', 6)), NOWHERE);
  first.kill('SIGKILL');
  await start();
  await ranExactly(redis, ['soon']);
  t.ok((await redisNow(redis)) >= etaMs, 'not before its time');
});

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  t.test(`${signal} lets running tasks finish and gives back the rest`, async (t) => {
    const { redis, start } = await setUp(t);
    const worker = await start('-c', '1', '--prefetch', '4');
    await send(redis, { task: 'hold', id: 'a' }, { id: 'b' }, { id: 'c' });
    await eventually(async () => assert.equal(await redis.llen('ran'), 1));
    await eventually(async () => assert.equal(await redis.hlen('unacked'), 2));
    worker.kill(signal);
    await worker.logged('worker_stopping');
    await eventually(async () => assert.equal(await redis.llen('celery'), 2));
    await redis.set('go', '1');
    t.same(await worker.exited, { code: 0, signal: null });
    t.same(await whereabouts(redis), { ...NOWHERE, queued: 2 });
    t.equal(JSON.parse((await redis.get(resultKey('a'))) ?? '{}').result, 'done');
    t.same(await redis.keys('rb:*'), []);
  });
}

for (const [name, signals] of Object.entries({
  'a second SIGTERM': ['SIGTERM', 'SIGTERM'],
  SIGQUIT: ['SIGQUIT'],
} as const)) {
  t.test(`${name} does not wait for running tasks`, async (t) => {
    const { redis, start } = await setUp(t);
    const worker = await start('-c', '2');
    await send(redis, { task: 'hold-late', id: 'a' }, { task: 'hold', id: 'b' }, { id: 'c' });
    await eventually(async () => assert.equal(await redis.llen('ran'), 2));
    for (const signal of signals) {
      worker.kill(signal);
      await worker.logged('worker_stopping');
    }
    t.same(await worker.exited, { code: 0, signal: null });
    t.same(await whereabouts(redis), { ...NOWHERE, queued: 2 });
    t.same(await redis.keys('rb:*'), []);
  });
}

t.test('a rejection that nobody handles does not end the worker', async (t) => {
  const { redis, start } = await setUp(t);
  const worker = await start();
  await send(redis, { task: 'stray', id: 'a' });
  await worker.logged('unhandled_rejection');
  await send(redis, { id: 'b' });
  await ranExactly(redis, ['b']);
});

t.test('it says what it is when it is ready, and warns of what visibility timeouts mean', async (t) => {
  const { start } = await setUp(t);
  const worker = await start('-n', 'w1@%h', '-Q', 'celery,video', '-c', '7');
  const ready = await worker.logged('worker_ready');
  t.match(ready, { hostname: /^w1@./, queues: ['celery', 'video'], concurrency: 7, pool: 'async' });
  t.ok((ready.tasks as string[]).includes('note'));
  t.match(await worker.logged('visibility_timeout'), { seconds: 3_600, note: /smallest visibility timeout/ });
});

t.test('its metrics tell what it did', async (t) => {
  const { redis, start } = await setUp(t);
  const worker = await start('--metrics-port', '0');
  const { host, port } = await worker.logged('metrics_listening');
  const now = Date.now();
  await send(
    redis,
    { id: 'a', headers: { ringbeat: { schedule: 's', due: now, run: 0, attempt: 0 } } },
    { task: 'boom', args: ['x'] },
  );
  await redis.lpush('celery', 'no message');
  await eventually(async () => {
    const text = await (await fetch(`http://${host}:${port}/metrics`)).text();
    assert.match(text, /^ringbeat_tasks_total\{state="success"\} 1$/m);
    assert.match(text, /^ringbeat_tasks_total\{state="failure"\} 1$/m);
    assert.match(text, /^ringbeat_tasks_total\{state="dead"\} 1$/m);
    assert.match(text, /^ringbeat_start_lateness_seconds_count 1$/m);
    assert.match(text, /^ringbeat_task_runtime_seconds_count 2$/m);
  });
  t.equal((await fetch(`http://${host}:${port}/`)).status, 404);
});

const MODULES: Readonly<Record<string, string>> = {
  'tasks.mjs': "import { task } from 'ringbeat';\ntask('add', (ctx, x, y) => x + y);\n",
  'tasks.js': "import { task } from 'ringbeat';\ntask('add', (ctx, x, y) => x + y);\n",
  'tasks.cjs': "const { task } = require('ringbeat');\ntask('add', (ctx, x, y) => x + y);\n",
};
for (const [name, source] of Object.entries(MODULES)) {
  t.test(`${name} in a folder where ringbeat is not installed defines tasks`, async (t) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const file = moduleFile(t, name, source);
    await spawnWorker(t, server.url, ['--tasks', file]);
    await send(redis, { task: 'add', id: 'a', args: [2, 3] });
    await eventually(async () => assert.equal(JSON.parse((await redis.get(resultKey('a'))) ?? '{}').result, 5));
  });
}

function moduleFile(t: Test, name: string, source: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-tasks-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, name);
  writeFileSync(file, source);
  return file;
}

const BAD_MODULES: readonly (readonly [string, string, RegExp])[] = [
  ['broken.mjs', "throw new Error('at load');", /Cannot load tasks module .*broken\.mjs: at load\./],
  ['missing.mjs', "import 'no-such-package';", /Cannot load tasks module .*missing\.mjs: .*no-such-package/],
  ['empty.mjs', 'export {};', /No task was defined by .*empty\.mjs/],
];
for (const [name, source, text] of BAD_MODULES) {
  t.test(`${name} ends the worker with a sentence`, async (t) => {
    const worker = await spawnRingbeat(t, [
      'worker',
      '--redis',
      'redis://127.0.0.1:1/0',
      '--tasks',
      moduleFile(t, name, source),
    ]);
    t.same(await worker.exited, { code: 1, signal: null });
    t.match(worker.stderr, text);
    t.notMatch(worker.stderr, /\n +at /, 'no stack trace');
  });
}

t.test('a TypeScript module is loaded, or a sentence says how it could be', async (t) => {
  const server = await withRedis(t);
  const file = moduleFile(
    t,
    'tasks.ts',
    "import { task } from 'ringbeat';\ntask('add', (ctx: unknown, x: number, y: number): number => x + y);\n",
  );
  const worker = await spawnRingbeat(t, ['worker', '--redis', server.url, '--tasks', file]);
  if ('typescript' in process.features && process.features.typescript !== false) {
    await worker.logged('worker_ready');
    return;
  }
  t.same(await worker.exited, { code: 1, signal: null });
  t.match(worker.stderr, /this Node does not load TypeScript; use Node 22\.18 or newer/);
});

const USAGE: readonly (readonly [readonly string[], number, RegExp])[] = [
  [[], 2, /--tasks FILE/],
  [['--tasks', '/no/such.js'], 1, /there is no such file/],
  [['--tasks', TASKS, '-Q', ','], 2, /at least one queue/],
  [['--tasks', TASKS, '-Q', 'a"b'], 2, /no queue name/],
  [['--tasks', TASKS, '-c', '0'], 2, /whole number from 1/],
  [['--tasks', TASKS, '--broker', 'redis://elsewhere/1'], 1, /not supported/],
  [['--tasks', TASKS, '--redis', 'redis-cluster://x'], 1, /not supported/],
];
for (const [args, code, text] of USAGE) {
  t.test(`worker ${args.slice(2).join(' ') || args.join(' ')} is refused`, async (t) => {
    const worker = await spawnRingbeat(t, ['worker', ...args], {
      env: { RINGBEAT_TEST_REDIS: 'redis://127.0.0.1:1/0' },
    });
    t.same(await worker.exited, { code, signal: null });
    t.match(worker.stderr, text);
  });
}
