import t from 'tap';
import { namespaceKeys, queueList, shardKeys, workerKeys } from '../../lua/keys.ts';
import { reserve } from '../../lua/reserve.ts';
import {
  redelivery,
  restoreInvisible,
  restoreLostWorkers,
  restoreOwn,
  restoreTags,
  WORKER_LEASE_MS,
} from '../../lua/restore.ts';
import { settle } from '../../lua/settle.ts';
import { start } from '../../lua/start.ts';
import { workerHeartbeat } from '../../lua/worker-heartbeat.ts';
import { withRedis } from '../support/redis-server.ts';
import { envelope, redisNow, send, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());
t.beforeEach(() => redis.flushall());

let counter = 0;
async function takeAll(workerId: string, queues: readonly string[] = ['celery']) {
  counter += 1;
  return (await reserve(redis, 'rb', { workerId, counter, limit: 1_000, byteLimit: 10_000_000, queues })).messages;
}

/** As if the worker's last heartbeat were this old. */
async function silentFor(workerId: string, ms: number) {
  await redis.zadd('rb:workers', String((await redisNow(redis)) - ms), workerId);
}

t.test('a dead worker is forgotten and its messages are the next to be taken, flagged as redelivered', async (t) => {
  const names = namespaceKeys('rb');
  await redis.hset(names.meta, 'epoch', 'epoch-1');
  await send(redis, { tag: 'a' }, { tag: 'b', priority: 6 }, { tag: 'c' });
  await takeAll('dead');
  await start(redis, 'rb', {
    workerId: 'dead',
    counter: 1,
    maxCrashes: 3,
    mayStartLastChance: true,
    early: ['c'],
    late: [],
  });
  await send(redis, { tag: 'later' });
  await silentFor('dead', WORKER_LEASE_MS + 500);
  t.same(await restoreLostWorkers(redis, 'rb', Date.now()), { workers: ['dead'], restored: 2, deadLetters: 0 });
  t.same(await whereabouts(redis, 'celery', queueList('celery', 6)), { queued: 3, unacked: 0, index: 0, dead: 0 });
  t.same((await redis.keys('rb:*')).sort(), [names.meta, shardKeys('rb', 0).counts]);
  t.equal(await redis.hget(shardKeys('rb', 0).counts, 'recovered'), '2');
  const message = JSON.parse((await redis.rpop('celery')) ?? '');
  t.equal(message.properties.delivery_tag, 'a');
  t.equal(message.headers.redelivered, true);
  t.equal(message.properties.delivery_info.redelivered, true);
});

t.test('a worker that still sends heartbeats keeps its messages', async (t) => {
  await send(redis, { tag: 'a' });
  await takeAll('alive');
  await workerHeartbeat(redis, 'rb', 'alive');
  t.same(await restoreLostWorkers(redis, 'rb', Date.now()), { workers: [], restored: 0, deadLetters: 0 });
  t.equal(await redis.hexists('unacked', 'a'), 1);
});

t.test('many messages of a dead worker come back page by page', async (t) => {
  for (let n = 0; n < 450; n++) await send(redis, { tag: `t${n}` });
  await takeAll('dead');
  await silentFor('dead', WORKER_LEASE_MS + 500);
  t.same((await restoreLostWorkers(redis, 'rb', Date.now())).restored, 450);
  t.equal(await redis.llen('celery'), 450);
});

t.test('several that restore the same worker at once put each message back once', async (t) => {
  for (let n = 0; n < 250; n++) await send(redis, { tag: `t${n}` });
  await takeAll('dead');
  await silentFor('dead', WORKER_LEASE_MS + 500);
  const other = redisServer.connect();
  t.teardown(() => other.disconnect());
  await Promise.all([
    restoreLostWorkers(redis, 'rb', Date.now()),
    restoreLostWorkers(other, 'rb', Date.now()),
    restoreLostWorkers(redis, 'rb', Date.now()),
  ]);
  t.same(await whereabouts(redis), { queued: 250, unacked: 0, index: 0, dead: 0 });
});

t.test('messages older than the visibility timeout come back, whoever took them', async (t) => {
  const raw = envelope({ tag: 'celerys', queue: 'video', priority: 4 });
  const old = (await redisNow(redis)) / 1_000 - 30;
  await redis.hset('unacked', 'celerys', `[${raw}, "", "video"]`);
  await redis.zadd('unacked_index', String(old), 'celerys', String(old + 25), 'young');
  await redis.hset('unacked', 'young', `[${raw}, "", "video"]`);
  t.same(await restoreInvisible(redis, 'rb', 'w1', 20_000, Date.now), { restored: 1, deadLetters: 0 });
  t.same(await redis.hkeys('unacked'), ['young']);
  t.same(await redis.zrange('unacked_index', '0', '-1'), ['young']);
  t.equal(await redis.lindex(queueList('video', 3), 0), redelivery(`[${raw}, "", "video"]`).envelope);
});

t.test('a message of a named exchange goes to the queue that is bound to it', async (t) => {
  const raw = envelope({ tag: 'x', exchange: 'media', queue: 'img.png' });
  await redis.sadd(
    '_kombu.binding.media',
    'snd.#\x06\x16^snd\\..*?$\x06\x16sounds',
    'img.#\x06\x16^img\\..*?$\x06\x16pictures',
  );
  await redis.hset('unacked', 'x', `[${raw}, "media", "img.png"]`);
  await redis.zadd('unacked_index', '1', 'x');
  await restoreInvisible(redis, 'rb', 'w1', 1_000, Date.now);
  t.equal(await redis.llen('pictures'), 1);
});

t.test('what cannot be restored is kept as a dead letter', async (t) => {
  await redis.set('taken', 'text');
  await redis.hset('unacked', 'broken', 'garbage', 'no-list', `[${envelope({ queue: 'taken' })}, "", "taken"]`);
  await redis.zadd('unacked_index', '1', 'broken', '1', 'no-list', '1', 'stale');
  t.same(await restoreInvisible(redis, 'rb', 'w1', 1_000, Date.now), { restored: 0, deadLetters: 2 });
  t.same(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 2 });
});

t.test('a message that was taken again since it was found stays with its taker', async (t) => {
  await send(redis, { tag: 'a' });
  await takeAll('dead');
  const { reserved } = workerKeys('rb', 'dead');
  await redis.zadd('unacked_index', '5', 'a');
  const racing = new Proxy(redis, {
    get(target, name) {
      // Between reading and restoring, another consumer takes the message.
      if (name === 'zmscore') return async () => ['4'];
      const member = Reflect.get(target, name);
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
  await restoreTags(racing, 'rb', 'dead', ['a']);
  t.equal(await redis.hexists('unacked', 'a'), 1);
  t.equal(await redis.scard(reserved), 1);
});

t.test('a leaving worker gives everything back at once', async (t) => {
  await send(redis, { tag: 'a' }, { tag: 'b' });
  await takeAll('leaving');
  const request = { workerId: 'leaving', counter: 1, resultExpiresSec: 60, shards: 0 };
  await settle(redis, 'rb', { ...request, settlements: [] });
  t.same(await restoreOwn(redis, 'rb', 'leaving'), { restored: 2, deadLetters: 0 });
  t.same(await redis.keys('rb:*'), []);
});

t.test('given-back messages keep their order', async (t) => {
  const tags = Array.from({ length: 230 }, (_, n) => `t${n}`);
  for (const tag of tags) await send(redis, { tag });
  await takeAll('w1');
  await restoreTags(redis, 'rb', 'w1', tags);
  t.same(
    (await takeAll('w2')).map(({ tag }) => tag),
    tags,
  );
});

t.test('a restored envelope differs only in its flags', (t) => {
  const raw = envelope({ args: ['ü', 1], headers: { 'x-big': 'kept', redelivered: false } });
  const restored = JSON.parse(redelivery(`[${raw}, "", "celery"]`).envelope);
  const original = JSON.parse(raw);
  original.headers.redelivered = true;
  original.properties.delivery_info.redelivered = true;
  t.same(restored, original);
  t.end();
});

t.test('of a namespace that is gone nothing comes back when the messages of its dead worker do', async (t) => {
  await send(redis, { tag: 'a' });
  await takeAll('w1');
  await silentFor('w1', WORKER_LEASE_MS + 1_000);
  t.match(await restoreLostWorkers(redis, 'rb', await redisNow(redis)), { workers: ['w1'], restored: 1 });
  t.same(await redis.keys('rb:*'), []);
});
