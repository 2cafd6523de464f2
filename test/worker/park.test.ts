import { readFileSync } from 'node:fs';
import t from 'tap';
import { shardKeys, shardOf, workerKeys } from '../../lua/keys.ts';
import { park } from '../../lua/park.ts';
import { readParked } from '../../lua/read-parked.ts';
import { reserve } from '../../lua/reserve.ts';
import { withRedis } from '../support/redis-server.ts';
import { envelope, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

const ID = '4267c53e-82e5-4401-972d-7a91c1952b51';
const RAW = envelope({ id: ID, tag: 'a' });
const SHARD = shardKeys('rb', shardOf(ID, 16));
const ETA_MS = 1_900_000_000_123;

let counter = 0;
t.beforeEach(async () => {
  await redis.flushall();
  await redis.hset('rb:meta', 'shards', 16);
  await take(RAW);
});

/** Lets the worker hold these messages. */
async function take(...raws: readonly string[]): Promise<void> {
  for (const raw of raws) await redis.lpush('celery', raw);
  counter += 1;
  await reserve(redis, 'rb', { workerId: 'w1', counter, limit: 10, byteLimit: 1_000_000, queues: ['celery'] });
}

function parkOne(options: { tag?: string; taskId?: string; shards?: number; etaMs?: number } = {}) {
  const { tag = 'a', taskId = ID, etaMs = ETA_MS } = options;
  const messages = [{ tag, taskId, list: 'celery', etaMs }];
  return park(redis, 'rb', { workerId: 'w1', shards: options.shards ?? 16, messages });
}

/** What is parked in the shard, by member. */
async function parkedMessages(shard = SHARD) {
  return Object.fromEntries(await readParked(redis, shard, await redis.hkeys(shard.parked)));
}

t.test('a parked message lies in its shard and nowhere else', async (t) => {
  t.equal((await parkOne()).late, 0);
  t.same(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 0 });
  t.same(await redis.zrange(SHARD.extra, '0', '-1', 'WITHSCORES'), [ID, String(ETA_MS)]);
  t.same(await parkedMessages(), { [ID]: { list: 'celery', tag: 'a', envelope: RAW } });
  const { reserved, waiting } = workerKeys('rb', 'w1');
  t.equal(await redis.exists(reserved, waiting), 0, 'and its worker keeps nothing of it');
});

t.test('parking twice parks once', async (t) => {
  await parkOne();
  t.equal((await parkOne()).late, 1);
  t.equal(await redis.zcard(SHARD.extra), 1);
});

t.test('a retry with the same id is kept beside the first message, each with its own eta', async (t) => {
  const retry = envelope({ id: ID, tag: 'b', headers: { retries: 1 } });
  const another = envelope({ id: ID, tag: 'c', headers: { retries: 2 } });
  await take(retry, another);
  await parkOne();
  await parkOne({ tag: 'b', etaMs: ETA_MS + 1 });
  await parkOne({ tag: 'c', etaMs: ETA_MS - 1 });
  t.same(await redis.zrange(SHARD.extra, '0', '-1'), [`${ID}\x1f2`, ID, `${ID}\x1f1`]);
  t.same(await parkedMessages(), {
    [ID]: { list: 'celery', tag: 'a', envelope: RAW },
    [`${ID}\x1f1`]: { list: 'celery', tag: 'b', envelope: retry },
    [`${ID}\x1f2`]: { list: 'celery', tag: 'c', envelope: another },
  });
});

t.test('a restored copy of a parked message is that message: it neither doubles nor replaces it', async (t) => {
  await parkOne();
  await take(envelope({ id: ID, tag: 'b' }), envelope({ id: ID, tag: 'a', headers: { redelivered: true } }));
  await parkOne({ tag: 'b' });
  await parkOne({ tag: 'a' });
  t.match(await parkedMessages(), { [ID]: { envelope: RAW }, [`${ID}\x1f1`]: { tag: 'b' } });
  t.equal(await redis.hlen(SHARD.parked), 2);
  t.same(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 0 });
});

t.test('a message comes out of its shard byte for byte as it went in', async (t) => {
  const samples = ['task-eta-aware', 'task-eta-naive', 'task-protocol1', 'head-task-stamped', 'task-options'].flatMap(
    (name) => {
      const url = new URL(`../../../test/fixtures/celery-samples/${name}.json`, import.meta.url);
      const { lists } = JSON.parse(readFileSync(url, 'utf8')) as { lists: Record<string, { raw: string }[]> };
      return Object.values(lists)
        .flat()
        .map(({ raw }) => raw);
    },
  );
  const odd = [
    { id: 'e', tag: 'celery' },
    { id: 'tag', tag: 'delivery_tag' },
    { id: 'Ünïcödé "quoted" \\', tag: 'odd-1' },
    { id: 'with\x1fcontrols\x01\n', tag: 'odd-2' },
    { id: 'x'.repeat(5_000), tag: 'odd-3' },
    { id: '%1 %d %%', tag: '%2' },
    { id: 'same', tag: 'same' },
  ].map((parts) => envelope({ ...parts, args: ['%1', '\x01\x02\x1f', 'delivery_tag'] }));
  const raws = [...samples, ...odd];
  for (const raw of raws) {
    await redis.flushall();
    await redis.hset('rb:meta', 'shards', 1);
    await take(raw);
    const { headers, properties, body } = JSON.parse(raw);
    const tag: string = properties.delivery_tag;
    const taskId: string = headers.id ?? JSON.parse(Buffer.from(body, 'base64').toString()).id;
    t.equal((await parkOne({ tag, taskId, shards: 1 })).late, 0);
    const [parked, ...others] = Object.values(await parkedMessages(shardKeys('rb', 0)));
    t.same(parked, { list: 'celery', tag, envelope: raw }, taskId.slice(0, 40));
    t.same(others, []);
  }
});

t.test('what the worker holds no longer is left alone', async (t) => {
  await redis.hdel('unacked', 'a');
  t.equal((await parkOne()).late, 1);
  t.equal(await redis.exists(SHARD.extra), 0);
});

t.test('nothing is parked in a namespace that is gone or has other shards', async (t) => {
  await t.rejects(parkOne({ shards: 8 }), { code: 'NAMESPACE_GONE' });
  await redis.del('rb:meta');
  await t.rejects(parkOne(), { code: 'NAMESPACE_GONE' });
  t.equal(await redis.hexists('unacked', 'a'), 1);
});

t.test('nothing is moved when a key of the shard has another type', async (t) => {
  await redis.set(SHARD.parked, 'x');
  await t.rejects(parkOne(), /WRONGTYPE/);
  await redis.del(SHARD.parked);
  await redis.set(SHARD.extra, 'x');
  await t.rejects(parkOne(), /WRONGTYPE/);
  t.equal(await redis.hexists('unacked', 'a'), 1);
});

t.test('beat nodes are told when a parked message is due sooner than all others of its shard', async (t) => {
  const listener = redisServer.connect();
  t.teardown(() => listener.disconnect());
  await listener.subscribe('rb:wake');
  const heard: string[] = [];
  listener.on('message', (_, text) => heard.push(text));
  await redis.zadd(SHARD.extra, String(ETA_MS - 5), 'other');
  await parkOne();
  await take(envelope({ id: ID, tag: 'b' }));
  await parkOne({ tag: 'b', etaMs: ETA_MS - 10 });
  await redis.publish('rb:wake', 'end');
  while (heard.at(-1) !== 'end') await new Promise((resolve) => listener.once('message', resolve));
  t.same(heard, [`${shardOf(ID, 16)}:${ETA_MS - 10}`, 'end']);
});
