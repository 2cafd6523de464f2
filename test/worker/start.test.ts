import t from 'tap';
import { workerKeys } from '../../lua/keys.ts';
import { refresh } from '../../lua/refresh.ts';
import { reserve } from '../../lua/reserve.ts';
import { start } from '../../lua/start.ts';
import { withRedis } from '../support/redis-server.ts';
import { send, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

let counter = 0;
t.beforeEach(async () => {
  await redis.flushall();
  await send(redis, { tag: 'a' }, { tag: 'b' }, { tag: 'c' });
  counter += 1;
  await reserve(redis, 'rb', { workerId: 'w1', counter, limit: 10, byteLimit: 1_000_000, queues: ['celery'] });
});

t.test('acknowledged messages leave unacked, its index and the worker', async (t) => {
  const { refused } = await start(redis, 'rb', {
    workerId: 'w1',
    counter: 1,
    maxCrashes: 3,
    mayStartLastChance: true,
    early: ['a', 'c'],
    late: [],
  });
  t.equal(refused.size, 0);
  t.same(await redis.hkeys('unacked'), ['b']);
  t.same(await redis.zrange('unacked_index', '0', '-1'), ['b']);
  t.same(await redis.smembers(workerKeys('rb', 'w1').reserved), ['b']);
});

t.test('what somebody restored meanwhile is refused', async (t) => {
  await redis.hdel('unacked', 'b');
  await redis.zrem('unacked_index', 'b');
  const { refused } = await start(redis, 'rb', {
    workerId: 'w1',
    counter: 1,
    maxCrashes: 3,
    mayStartLastChance: true,
    early: ['a', 'b', 'c'],
    late: [],
  });
  t.same([...refused], ['b']);
  t.same(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 0 });
});

t.test('what another worker holds now is refused and stays with it', async (t) => {
  await redis.srem(workerKeys('rb', 'w1').reserved, 'a');
  const { refused } = await start(redis, 'rb', {
    workerId: 'w1',
    counter: 1,
    maxCrashes: 3,
    mayStartLastChance: true,
    early: ['a'],
    late: [],
  });
  t.same([...refused], ['a']);
  t.equal(await redis.hexists('unacked', 'a'), 1);
  t.ok(await redis.zscore('unacked_index', 'a'));
});

t.test('late-acknowledged messages stay and wait no longer; those that are gone are refused', async (t) => {
  await redis.hdel('unacked', 'b');
  await redis.zrem('unacked_index', 'b');
  const { refused } = await start(redis, 'rb', {
    workerId: 'w1',
    counter: 1,
    maxCrashes: 3,
    mayStartLastChance: true,
    early: ['a'],
    late: ['b', 'c'],
  });
  t.same([...refused], ['b']);
  t.same(await redis.hkeys('unacked'), ['c']);
  t.same(await redis.smembers(workerKeys('rb', 'w1').waiting), ['b']);
});

t.test('the same call again is answered as before', async (t) => {
  await redis.hdel('unacked', 'b');
  await redis.zrem('unacked_index', 'b');
  const request = {
    workerId: 'w1',
    counter: 1,
    maxCrashes: 3,
    mayStartLastChance: true,
    early: ['a', 'b', 'c'],
    late: [],
  };
  const first = await start(redis, 'rb', request);
  const second = await start(redis, 'rb', request);
  t.same([...second.refused], [...first.refused]);
});

t.test('refresh renews the scores of what is held and names what is not', async (t) => {
  await redis.zadd('unacked_index', '1', 'a', '1', 'b');
  await redis.hdel('unacked', 'b');
  const { lost } = await refresh(redis, 'rb', 'w1', ['a', 'b', 'x']);
  t.same([...lost], [1, 2]);
  t.ok(Number(await redis.zscore('unacked_index', 'a')) > 1_000_000);
  t.equal(Number(await redis.zscore('unacked_index', 'b')), 1);
  t.equal(await redis.zscore('unacked_index', 'x'), null);
});

t.test('of messages that would be given up if the worker died once more, one is started at a time', async (t) => {
  await redis.hset('rb:crashes', { a: '2', b: '1', c: '2' });
  const late = ['a', 'b', 'c'];
  const all = { workerId: 'w1', maxCrashes: 3, early: [], late };
  const { waiting } = workerKeys('rb', 'w1');
  const none = await start(redis, 'rb', { ...all, counter: 1, mayStartLastChance: false });
  t.same([none.lastChance, [...none.putOff], [...none.refused]], [null, ['a', 'c'], []]);
  t.same((await redis.smembers(waiting)).sort(), ['a', 'c']);
  const request = { ...all, counter: 2, mayStartLastChance: true };
  const one = await start(redis, 'rb', request);
  t.same([one.lastChance, [...one.putOff], [...one.refused]], ['a', ['c'], []]);
  t.same(await redis.smembers(waiting), ['c']);
  const again = await start(redis, 'rb', request);
  t.same(
    [again.lastChance, [...again.putOff], [...again.refused]],
    ['a', ['c'], []],
    'a repeated call is answered alike',
  );
});
