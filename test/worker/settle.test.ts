import t from 'tap';
import { resultKey, workerKeys } from '../../lua/keys.ts';
import { reserve } from '../../lua/reserve.ts';
import { restoreLostWorkers } from '../../lua/restore.ts';
import { type Settlement, settle } from '../../lua/settle.ts';
import { chanceOf } from '../support/chance.ts';
import { withRedis } from '../support/redis-server.ts';
import { envelope, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

const RAW = envelope({ tag: 'a', id: 'id-a' });
const SUCCESS = '{"status": "SUCCESS", "result": 5, "task_id": "id-a"}';
const FAILURE = '{"status": "FAILURE", "result": {"exc_type": "E"}, "task_id": "id-a"}';

let counter = 0;
/** Lets the worker hold a message. */
async function take(raw: string): Promise<void> {
  await redis.lpush('celery', raw);
  counter += 1;
  await reserve(redis, 'rb', { workerId: 'w1', counter, limit: 10, byteLimit: 1_000_000, queues: ['celery'] });
}

t.beforeEach(async () => {
  await redis.flushall();
  await take(RAW);
});

let settled = 0;
function end(
  settlements: readonly Partial<Settlement>[],
  options: { counter?: number; resultExpiresSec?: number } = {},
) {
  if (options.counter === undefined) settled += 1;
  return settle(redis, 'rb', {
    workerId: 'w1',
    counter: options.counter ?? settled,
    resultExpiresSec: options.resultExpiresSec ?? 60,
    shards: 0,
    settlements: settlements.map((settlement) => ({
      tag: 'a',
      mode: 'held',
      result: null,
      letter: null,
      run: null,
      actions: [],
      ...settlement,
    })),
  });
}
const result = (record: string) => ({ taskId: 'id-a', record });
const GONE = { queued: 0, unacked: 0, index: 0, dead: 0 };

t.test('a late-acknowledged message leaves unacked as its result is stored', async (t) => {
  const { late } = await end([{ result: result(SUCCESS) }]);
  t.equal(late, 0);
  t.same(await whereabouts(redis), GONE);
  t.equal(await redis.scard(workerKeys('rb', 'w1').reserved), 0);
  t.equal(await redis.get(resultKey('id-a')), SUCCESS);
  const ttl = await redis.ttl(resultKey('id-a'));
  t.ok(ttl > 50 && ttl <= 60);
});

t.test('the record is published under its own name, byte for byte', async (t) => {
  const listener = redisServer.connect();
  t.teardown(() => listener.disconnect());
  await listener.subscribe(resultKey('id-a'));
  const heard = new Promise((resolve) => listener.once('message', (channel, text) => resolve([channel, text])));
  await end([{ result: result(SUCCESS) }]);
  t.same(await heard, [resultKey('id-a'), SUCCESS]);
});

t.test('without an expiry a result stays', async (t) => {
  await end([{ result: result(SUCCESS) }], { resultExpiresSec: 0 });
  t.equal(await redis.ttl(resultKey('id-a')), -1);
});

t.test('a message that was restored meanwhile is left alone, result and all', async (t) => {
  await redis.hdel('unacked', 'a');
  const { late } = await end([{ result: result(SUCCESS) }]);
  t.equal(late, 1);
  t.equal(await redis.exists(resultKey('id-a')), 0);
});

t.test('a message that another worker holds now is left alone', async (t) => {
  await redis.srem(workerKeys('rb', 'w1').reserved, 'a');
  const { late } = await end([{ result: result(SUCCESS) }]);
  t.equal(late, 1);
  t.equal(await redis.hexists('unacked', 'a'), 1);
  t.ok(await redis.zscore('unacked_index', 'a'));
});

t.test('an early-acknowledged message only stores its result', async (t) => {
  await end([{ tag: 'b', mode: 'acked', result: result(FAILURE) }]);
  t.equal(await redis.get(resultKey('id-a')), FAILURE);
  t.equal(await redis.hexists('unacked', 'a'), 1);
});

const OVERWRITING: readonly (readonly [string, string | null, string, string])[] = [
  ['a failure is overwritten', FAILURE, SUCCESS, SUCCESS],
  ['success is final', SUCCESS, FAILURE, SUCCESS],
  [
    'success written in another order is final',
    '{"task_id": "x", "status": "SUCCESS"}',
    FAILURE,
    '{"task_id": "x", "status": "SUCCESS"}',
  ],
  [
    'a value that only looks like it is overwritten',
    '{"status": "PROGRESS", "result": {"status": "SUCCESS"}}',
    FAILURE,
    FAILURE,
  ],
  ['a record that is no JSON is overwritten', 'garbage', FAILURE, FAILURE],
];
for (const [name, before, written, after] of OVERWRITING) {
  t.test(name, async (t) => {
    if (before !== null) await redis.set(resultKey('id-a'), before);
    await end([{ result: result(written) }]);
    t.equal(await redis.get(resultKey('id-a')), after);
    t.same(await whereabouts(redis), GONE);
  });
}

t.test('success is final within one batch too', async (t) => {
  await end([
    { mode: 'acked', tag: 'b', result: result(SUCCESS) },
    { mode: 'acked', tag: 'c', result: result(FAILURE) },
  ]);
  t.equal(await redis.get(resultKey('id-a')), SUCCESS);
});

t.test('of a batch of every kind each keeps its own record, and what was lost stores none', async (t) => {
  const chance = chanceOf(20_261_121);
  const wrong: unknown[] = [];
  for (let round = 0; round < 100; round++) {
    await redis.flushall();
    const batch: Partial<Settlement>[] = [];
    const expected = new Map<string, string | null>();
    let late = 0;
    for (let n = chance.integer(1, 20); n > 0; n--) {
      const [tag, taskId] = [`tag ${n}`, `id-${n}`];
      const record = `{"status": "SUCCESS", "result": ${n}}`;
      const mode = chance.pick(['acked', 'held'] as const);
      const hasResult = mode === 'acked' || chance.integer(0, 1) === 1;
      const isLost = mode === 'held' && chance.integer(0, 3) === 0;
      if (mode === 'held' && !isLost) await take(envelope({ tag, id: taskId }));
      if (isLost) late += 1;
      const push = { kind: 'push', list: 'next', envelope: tag } as const;
      const actions = chance.integer(0, 2) === 0 ? [push] : [];
      expected.set(taskId, hasResult && !isLost ? record : null);
      batch.push({ tag, mode, result: hasResult ? { taskId, record } : null, actions });
    }
    const reply = await end(batch);
    if (reply.late !== late) wrong.push(['late', reply.late, late]);
    for (const [taskId, record] of expected)
      if ((await redis.get(resultKey(taskId))) !== record)
        wrong.push([taskId, await redis.get(resultKey(taskId)), record]);
    if ((await redis.hlen('unacked')) + (await redis.zcard('unacked_index')) > 0) wrong.push('unacked');
    if ((await redis.exists(workerKeys('rb', 'w1').reserved, workerKeys('rb', 'w1').waiting)) > 0) wrong.push('held');
  }
  t.same(wrong.slice(0, 5), []);
});

t.test('a dead letter keeps the message as it came', async (t) => {
  await end([{ mode: 'held', letter: { queue: 'celery', reason: 'line one\nline two' }, result: result(FAILURE) }]);
  t.same(await whereabouts(redis), { ...GONE, dead: 1 });
  const [letter] = await redis.xrange('rb:dead-letters', '-', '+');
  t.same(letter?.[1], ['queue', 'celery', 'reason', 'line one\nline two', 'message', RAW]);
  t.equal(await redis.get(resultKey('id-a')), FAILURE);
});

t.test('the same call again changes nothing', async (t) => {
  const failure: Partial<Settlement> = { mode: 'acked', tag: 'b', result: result(FAILURE) };
  await end([failure]);
  await redis.del(resultKey('id-a'));
  await end([failure], { counter: settled });
  t.equal(await redis.exists(resultKey('id-a')), 0);
});

t.test('the same call again changes nothing, though the worker was taken for dead meanwhile', async (t) => {
  const next = { kind: 'push', list: 'next', envelope: RAW } as const;
  const ends: Partial<Settlement>[] = [
    { mode: 'acked', tag: 'b', result: result(FAILURE), actions: [next] },
    { mode: 'held', tag: 'a', actions: [next] },
  ];
  t.equal((await end(ends)).late, 0);
  await redis.zadd('rb:workers', '1', 'w1');
  t.same((await restoreLostWorkers(redis, 'rb', Date.now())).workers, ['w1']);
  t.same(await redis.keys('rb:*'), [workerKeys('rb', 'w1').settled], 'all else of it is forgotten');
  await redis.del(resultKey('id-a'));
  await end(ends, { counter: settled });
  t.equal(await redis.llen('next'), 2);
  t.equal(await redis.exists(resultKey('id-a')), 0);

  await end(ends.slice(0, 1));
  t.equal(await redis.llen('next'), 3, 'what it settles later counts');
  const ttl = await redis.ttl(workerKeys('rb', 'w1').settled);
  t.ok(ttl > 86_300 && ttl <= 86_400, 'nothing of it stays for ever');
});

t.test('an older call than the last changes nothing', async (t) => {
  await end([]);
  await end([{ mode: 'acked', tag: 'b', result: result(FAILURE) }], { counter: settled - 1 });
  t.equal(await redis.exists(resultKey('id-a')), 0);
});

t.test('parts of a message may hold any text, and its tag blanks', async (t) => {
  const raw = envelope({ tag: 'two words', id: 'id-w' });
  await redis.lpush('celery', raw);
  counter += 1;
  await reserve(redis, 'rb', { workerId: 'w1', counter, limit: 10, byteLimit: 1_000_000, queues: ['celery'] });
  const odd = '{"status": "FAILURE", "result": "2 held,run x\\n"}';
  const push = { kind: 'push', list: 'next', envelope: '1 acked y' } as const;
  const { late } = await end([
    { tag: 'b', mode: 'acked', result: { taskId: 'id-b', record: SUCCESS } },
    { tag: 'two words', result: { taskId: 'id-w', record: odd }, actions: [push] },
    { tag: 'gone', result: { taskId: 'id-g', record: SUCCESS } },
    { tag: 'c', mode: 'acked', result: { taskId: 'id-c', record: FAILURE } },
    { result: result(SUCCESS) },
  ]);
  t.equal(late, 1);
  t.same(await whereabouts(redis), GONE);
  const records = await redis.mget(...['id-a', 'id-b', 'id-c', 'id-g', 'id-w'].map(resultKey));
  t.same(records, [SUCCESS, SUCCESS, FAILURE, null, odd], 'each under its own id');
  t.same(await redis.lrange('next', 0, -1), ['1 acked y']);
});

t.test('a Redis that is out of memory still takes results of what it frees', async (t) => {
  t.teardown(() => redis.config('SET', 'maxmemory', '0'));
  await redis.config('SET', 'maxmemory', '1');
  await end([{ result: result(SUCCESS) }, { tag: 'b', mode: 'acked', result: { taskId: 'id-b', record: SUCCESS } }]);
  await redis.config('SET', 'maxmemory', '0');
  t.equal(await redis.get(resultKey('id-a')), SUCCESS);
  t.equal(await redis.get(resultKey('id-b')), SUCCESS);
});

const record = { kind: 'record', taskId: 'id-a', record: FAILURE } as const;

t.test('a message that its process died of is put back, and what would follow its end waits for that', async (t) => {
  const crashed = { kind: 'crashed', list: 'celery', envelope: RAW, max: 2 } as const;
  const next = { kind: 'push', list: 'next', envelope: RAW } as const;
  await end([{ actions: [crashed, record, next] }]);
  t.same(await whereabouts(redis), { ...GONE, queued: 1 });
  t.same(await redis.hgetall('rb:crashes'), { a: '1' });
  t.same(await redis.exists(resultKey('id-a'), 'next'), 0);

  counter += 1;
  await reserve(redis, 'rb', { workerId: 'w1', counter, limit: 10, byteLimit: 1_000_000, queues: ['celery'] });
  await end([{ actions: [crashed, record, next] }]);
  t.same(await whereabouts(redis), { ...GONE, dead: 1 });
  t.equal(await redis.exists('rb:crashes'), 0);
  t.equal(await redis.get(resultKey('id-a')), FAILURE);
  t.equal(await redis.llen('next'), 1);
});
