import t from 'tap';
import { shardKeys, shardOf, workerKeys } from '../../lua/keys.ts';
import { park } from '../../lua/park.ts';
import { reserve } from '../../lua/reserve.ts';
import { withRedis } from '../support/redis-server.ts';
import { envelope, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

const RAW = envelope({ tag: 'a' });
const SHARD = shardKeys('rb', shardOf('a', 16));
const ETA_MS = 1_900_000_000_123;

let counter = 0;
t.beforeEach(async () => {
  await redis.flushall();
  await redis.hset('rb:meta', 'shards', 16);
  await redis.lpush('celery', RAW);
  counter += 1;
  await reserve(redis, 'rb', { workerId: 'w1', counter, limit: 10, byteLimit: 1_000_000, queues: ['celery'] });
});

function parkA(options: { shards?: number; etaMs?: number } = {}) {
  const messages = [{ tag: 'a', list: 'celery', etaMs: options.etaMs ?? ETA_MS }];
  return park(redis, 'rb', { workerId: 'w1', shards: options.shards ?? 16, messages });
}

t.test('a parked message lies in its shard and nowhere else', async (t) => {
  t.equal((await parkA()).late, 0);
  t.same(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 0 });
  t.same(await redis.zrange(SHARD.extra, '0', '-1', 'WITHSCORES'), ['a', String(ETA_MS)]);
  t.same(await redis.hgetall(SHARD.parked), { a: `celery\x1f${RAW}` });
  t.equal(await redis.scard(workerKeys('rb', 'w1').reserved), 0);
});

t.test('parking twice parks once', async (t) => {
  await parkA();
  t.equal((await parkA()).late, 1);
  t.equal(await redis.zcard(SHARD.extra), 1);
});

t.test('what the worker holds no longer is left alone', async (t) => {
  await redis.hdel('unacked', 'a');
  t.equal((await parkA()).late, 1);
  t.equal(await redis.exists(SHARD.extra), 0);
});

t.test('nothing is parked in a namespace that is gone or has other shards', async (t) => {
  await t.rejects(parkA({ shards: 8 }), { code: 'NAMESPACE_GONE' });
  await redis.del('rb:meta');
  await t.rejects(parkA(), { code: 'NAMESPACE_GONE' });
  t.equal(await redis.hexists('unacked', 'a'), 1);
});

t.test('beat nodes are told when a parked message is due sooner than all others of its shard', async (t) => {
  const listener = redisServer.connect();
  t.teardown(() => listener.disconnect());
  await listener.subscribe('rb:wake');
  const heard: string[] = [];
  listener.on('message', (_, text) => heard.push(text));
  await redis.zadd(SHARD.extra, String(ETA_MS - 5), 'other');
  await parkA();
  await redis.hset('unacked', 'a', `[${RAW}, "", "celery"]`);
  await redis.sadd(workerKeys('rb', 'w1').reserved, 'a');
  await parkA({ etaMs: ETA_MS - 10 });
  await redis.publish('rb:wake', 'end');
  while (heard.at(-1) !== 'end') await new Promise((resolve) => listener.once('message', resolve));
  t.same(heard, [`${shardOf('a', 16)}:${ETA_MS - 10}`, 'end']);
});
