import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { task } from '../../client/task.ts';
import { queueList, resultKey, shardKeys } from '../../lua/keys.ts';
import { definedScripts } from '../../lua/script.ts';
import type { WorkerOptions } from '../../worker/config.ts';
import { Worker } from '../../worker/worker.ts';
import { eventually, until } from '../support/eventually.ts';
import { type RedisProxy, runsScript, startProxy } from '../support/proxy.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { envelope, iso, redisNow, send, whereabouts } from './messages.ts';

const ran = new Map<string, number>();
const note = (ctx: { readonly id: string }) => {
  ran.set(ctx.id, (ran.get(ctx.id) ?? 0) + 1);
};
task('note', note);
task('note-late', note, { acksLate: true });
t.beforeEach(() => ran.clear());

async function setUp(
  t: Test,
  options: Parameters<typeof withRedis>[1] = {},
): Promise<{ server: RedisServer; redis: Redis }> {
  const server = await withRedis(t, options);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { server, redis };
}

async function startWorker(t: Test, url: string, options: Partial<WorkerOptions> = {}): Promise<Worker> {
  const worker = new Worker({ redis: url, hostname: 'test@here', ...options }, pino({ level: 'silent' }));
  t.teardown(() => worker.stopNow());
  await worker.start();
  return worker;
}

function scriptNamed(name: string) {
  const script = definedScripts().find((script) => script.name === name);
  assert.ok(script, name);
  return runsScript(script);
}

/** Each of the ids ran exactly once, and nothing is left anywhere. */
async function allRanOnce(t: Test, redis: Redis, ids: readonly string[], deadlineMs = 30_000): Promise<void> {
  await until(() => ran.size >= ids.length, `${ids.length} messages ran`, { deadlineMs });
  await eventually(async () =>
    assert.deepEqual(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 0 }),
  );
  t.same(
    ids.filter((id) => ran.get(id) !== 1),
    [],
    'each ran once',
  );
}

const CUTS: readonly (readonly [string, (proxy: RedisProxy, name: string) => { readonly count: number }])[] = [
  ['after Redis has executed it', (proxy, name) => proxy.cutAfter(scriptNamed(name), 3)],
  ['before Redis has seen it', (proxy, name) => proxy.cutBefore(scriptNamed(name), 3)],
];
for (const name of ['reserve', 'start', 'settle']) {
  for (const [when, cut] of CUTS) {
    t.test(`every message runs once when the connection breaks at ${name}, ${when}`, async (t) => {
      const { server, redis } = await setUp(t);
      const proxy = await startProxy(t, server.port);
      await startWorker(t, proxy.url, { concurrency: 10 });
      const cuts = cut(proxy, name);
      const ids = Array.from({ length: 300 }, (_, n) => `id-${n}`);
      // What once had an eta is not started as it is taken.
      const headers = name === 'start' ? { eta: iso((await redisNow(redis)) - 1_000) } : {};
      for (const id of ids) await send(redis, { id, task: id.endsWith('5') ? 'note-late' : 'note', headers });
      await allRanOnce(t, redis, ids);
      t.equal(cuts.count, 3);
      t.equal((await redis.keys('celery-task-meta-*')).length, ids.length);
    });
  }
}

t.test('every message is parked once when the connection breaks at park, after Redis has executed it', async (t) => {
  const { server, redis } = await setUp(t);
  const proxy = await startProxy(t, server.port);
  await redis.hset('rb:meta', 'shards', '4');
  await redis.zadd('rb:nodes', String((await redisNow(redis)) + 3_600_000), 'beat-1');
  const cuts = proxy.cutAfter(scriptNamed('park'), 2);
  await startWorker(t, proxy.url);
  const eta = iso((await redisNow(redis)) + 3_600_000);
  for (let n = 0; n < 100; n++) await send(redis, { headers: { eta } });
  await eventually(async () => {
    let parked = 0;
    for (let shard = 0; shard < 4; shard++) parked += await redis.zcard(shardKeys('rb', shard).extra);
    assert.equal(parked, 100);
    assert.equal(await redis.hlen('unacked'), 0);
  });
  t.equal(cuts.count, 2);
});

t.test('a worker started before Redis takes up work when Redis comes', async (t) => {
  const { server, redis } = await setUp(t);
  const proxy = await startProxy(t, server.port);
  proxy.refuse();
  const worker = new Worker({ redis: proxy.url }, pino({ level: 'silent' }));
  t.teardown(() => worker.stopNow());
  const started = worker.start();
  await send(redis, { id: 'id-1' });
  proxy.accept();
  await started;
  await allRanOnce(t, redis, ['id-1']);
});

t.test('a worker that never reached Redis can be stopped', async (_t) => {
  const worker = new Worker({ redis: 'redis://127.0.0.1:1/0' }, pino({ level: 'silent' }));
  const started = worker.start();
  await worker.stop();
  await started;
});

t.test('Redis stopped and started again under load: the worker carries on by itself', async (t) => {
  const { server, redis } = await setUp(t, { appendonly: true, args: ['--appendfsync', 'always'] });
  await startWorker(t, server.url, { concurrency: 20 });
  const ids = Array.from({ length: 3_000 }, (_, n) => `id-${n}`);
  const feeding = (async () => {
    for (let from = 0; from < ids.length; from += 10) {
      const list = ids
        .slice(from, from + 10)
        .map((id) => envelope({ id, task: id.endsWith('7') ? 'note-late' : 'note' }));
      await redis.lpush(queueList('celery', 0), ...list);
    }
  })();
  await until(() => ran.size > 500, 'some ran');
  await server.restart();
  await feeding;
  await until(() => ran.size >= ids.length, 'all ran', { deadlineMs: 30_000 });
  await eventually(async () =>
    assert.deepEqual(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 0 }),
  );
  // The producer, too, sends again what it got no answer to, so here a doubled message is not the worker's doing.
  const results = await redis.mget(...ids.map(resultKey));
  t.same(
    results.filter((record) => record === null || !record.includes('SUCCESS')),
    [],
  );
});

t.test('a paused Redis costs nothing but time', async (t) => {
  const { server, redis } = await setUp(t);
  await startWorker(t, server.url, { concurrency: 10 });
  const ids = Array.from({ length: 400 }, (_, n) => `id-${n}`);
  for (const id of ids) await send(redis, { id });
  await until(() => ran.size > 0, 'some ran');
  server.pause();
  const resume = setTimeout(() => server.resume(), 6_500); // longer than a command may take
  t.teardown(() => clearTimeout(resume));
  await allRanOnce(t, redis, ids);
});

t.test('a worker drains a Redis that is out of memory, and is not taken for dead meanwhile', async (t) => {
  const { server, redis } = await setUp(t);
  const ids = Array.from({ length: 200 }, (_, n) => `id-${n}`);
  for (const id of ids) await send(redis, { id, task: id.endsWith('5') ? 'note-late' : 'note' });
  await redis.config('SET', 'maxmemory', '1');
  await startWorker(t, server.url);
  await allRanOnce(t, redis, ids);
  t.equal((await redis.keys('celery-task-meta-*')).length, ids.length);
  const [, before] = await redis.zrange('rb:workers', '0', '-1', 'WITHSCORES');
  await eventually(async () => {
    const [, after] = await redis.zrange('rb:workers', '0', '-1', 'WITHSCORES');
    assert.notEqual(after, before);
  });
});

t.test('a flushed Redis leaves the worker working', async (t) => {
  const { server, redis } = await setUp(t);
  await startWorker(t, server.url);
  await send(redis, { id: 'before' });
  await until(() => ran.has('before'), 'it ran');
  await redis.flushall();
  await redis.script('FLUSH');
  await send(redis, { id: 'after' });
  await allRanOnce(t, redis, ['before', 'after']);
});
