import t from 'tap';
import { forward } from '../../lua/forward.ts';
import { requestKey, resultKey, workerKeys } from '../../lua/keys.ts';
import { listParked } from '../../lua/list-parked.ts';
import { parkTasks, type TaskToPark } from '../../lua/park-tasks.ts';
import { pushTasks, type TaskToPush } from '../../lua/push-tasks.ts';
import { readParked } from '../../lua/read-parked.ts';
import { reserve } from '../../lua/reserve.ts';
import { revokeParked } from '../../lua/revoke-parked.ts';
import { envelope } from '../worker/messages.ts';
import { EPOCH, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);
const ETA_MS = 1_900_000_000_000;

function toPark(position: number, parts: Partial<TaskToPark> = {}): TaskToPark {
  const { taskId = `task-${position}`, tag = `tag-${position}`, list = 'celery' } = parts;
  const etaMs = parts.etaMs ?? ETA_MS + position;
  return { position, taskId, tag, etaMs, list, envelope: envelope({ id: taskId, tag, queue: list }) };
}

function parkAll(store: Store, tasks: readonly TaskToPark[], requestId = 'r1') {
  return parkTasks(store.redis, store.names, store.keys, { epoch: EPOCH, shard: 0, requestId, tasks });
}

function toPush(position: number, queue = 'celery'): TaskToPush {
  return { position, queue, list: queue, envelope: envelope({ id: `task-${position}`, queue }) };
}

function pushAll(store: Store, tasks: readonly TaskToPush[], options: { queueCap?: number; requestId?: string } = {}) {
  const { queueCap = 1_000, requestId = 'r1' } = options;
  return pushTasks(store.redis, store.names, store.keys, { epoch: EPOCH, queueCap, requestId, tasks });
}

/** The messages of the queue, first pushed first. */
async function queued(store: Store): Promise<string[]> {
  return (await store.redis.lrange('celery', 0, -1)).reverse();
}

t.test('tasks are pushed in their order, and not again by the same request', async (t) => {
  const store = await open();
  const tasks = [toPush(0), toPush(1, 'video'), toPush(2)];
  t.same(await pushAll(store, tasks.slice(0, 2)), ['taken', 'taken']);
  t.same(await pushAll(store, tasks), ['taken', 'taken', 'taken']);
  t.same(await queued(store), [tasks[0]!.envelope, tasks[2]!.envelope]);
  t.same(await store.redis.lrange('video', 0, -1), [tasks[1]!.envelope]);
  t.equal(await store.redis.llen('celery'), 2);
  const ttl = await store.redis.pttl(requestKey(store.keys, 'r1'));
  t.ok(ttl > 590_000 && ttl <= 600_000, 'for 10 minutes');
  t.same(await pushAll(store, tasks, { requestId: 'r2' }), ['taken', 'taken', 'taken'], 'another request is another');
  t.equal(await store.redis.llen('celery'), 4);
});

t.test('at the cap, which counts all priorities of a queue, a task is refused and may be sent again', async (t) => {
  const store = await open();
  await store.redis.lpush('celery\x06\x163', 'one');
  t.same(await pushAll(store, [toPush(0), toPush(1), toPush(2, 'video')], { queueCap: 2 }), ['taken', 'full', 'taken']);
  await store.redis.del('celery\x06\x163');
  t.same(await pushAll(store, [toPush(0), toPush(1)], { queueCap: 2 }), ['taken', 'taken']);
  t.equal(await store.redis.llen('celery'), 2);
});

t.test('a task for a key that is no list is refused, the others are sent', async (t) => {
  const store = await open();
  await store.redis.set('video\x06\x169', 'x');
  t.same(await pushAll(store, [toPush(0, 'video'), toPush(1)]), ['not a list', 'taken']);
  t.equal(await store.redis.exists('video'), 0);
});

t.test('a delayed task waits in its shard and then goes to its queue as it was', async (t) => {
  const store = await open();
  const now = await store.now();
  const tasks = [toPark(0, { etaMs: now + 20 }), toPark(1, { etaMs: now + 10 }), toPark(2, { etaMs: now + 60_000 })];
  t.equal(await parkAll(store, tasks), 3);
  t.same(await store.redis.zrange(store.keys.extra, '0', '-1'), ['task-1', 'task-0', 'task-2']);
  await store.passes(now + 20);
  t.match(await store.dispatch(), { sent: 2 });
  t.same(await queued(store), [tasks[1]!.envelope, tasks[0]!.envelope]);
  t.same(await store.redis.hkeys(store.keys.parked), ['task-2']);
});

t.test('a repeated request parks nothing again, also when it was due meanwhile', async (t) => {
  const store = await open();
  const tasks = [toPark(0, { etaMs: 1 }), toPark(1)];
  t.equal(await parkAll(store, tasks), 2);
  await store.dispatch();
  t.equal(await parkAll(store, [...tasks, toPark(2)]), 1);
  t.same((await store.redis.hkeys(store.keys.parked)).sort(), ['task-1', 'task-2']);
});

t.test('tasks that share an id are all kept, and all sent', async (t) => {
  const store = await open();
  const tasks = Array.from({ length: 20 }, (_, i) => toPark(i, { taskId: 'same', etaMs: i + 1 }));
  await parkAll(store, tasks);
  t.equal(await store.redis.hlen(store.keys.parked), 20);
  t.match(await store.dispatch({ limit: 1_000 }), { sent: 20 });
  t.same(
    await queued(store),
    tasks.map((task) => task.envelope),
  );
  t.equal(await store.redis.exists(store.keys.parked, store.keys.extra), 0);
});

t.test('nothing is sent or parked into a namespace that is gone, or of another epoch', async (t) => {
  const store = await open();
  await store.redis.hset(store.names.meta, 'epoch', 'another');
  await t.rejects(pushAll(store, [toPush(0)]), { code: 'NAMESPACE_GONE' });
  await t.rejects(parkAll(store, [toPark(0)]), { code: 'NAMESPACE_GONE' });
  t.same((await store.redis.keys('*')).sort(), ['rb:meta']);
});

t.test('nothing is sent or parked when a key of the shard has another type', async (t) => {
  const store = await open();
  for (const key of [requestKey(store.keys, 'r1'), store.keys.extra, store.keys.parked]) {
    await store.redis.rpush(key, 'x');
    const before = await store.snapshot();
    await t.rejects(parkAll(store, [toPark(0)]), /WRONGTYPE/, key);
    if (key.includes('request')) await t.rejects(pushAll(store, [toPush(0)]), /WRONGTYPE/);
    t.same(await store.snapshot(), before);
    await store.redis.del(key);
  }
});

// Revoke

function revoke(store: Store, ...taskIds: readonly string[]) {
  return revokeParked(store.redis, 'rb', { shards: 1, taskIds, resultExpiresSec: 100, nowMs: ETA_MS });
}

t.test('a revoked task is no longer parked, and its record says so', async (t) => {
  const store = await open();
  await parkAll(store, [toPark(0), toPark(1)]);
  t.same(await revoke(store, 'task-0', 'unknown', 'task-0'), ['task-0']);
  t.same(await store.redis.hkeys(store.keys.parked), ['task-1']);
  t.same(await store.redis.zrange(store.keys.extra, '0', '-1'), ['task-1']);
  t.match(JSON.parse((await store.redis.get(resultKey('task-0')))!), {
    status: 'REVOKED',
    result: { exc_type: 'TaskRevokedError', exc_message: ['revoked'], exc_module: 'celery.exceptions' },
    task_id: 'task-0',
  });
  t.ok((await store.redis.ttl(resultKey('task-0'))) > 90);
  t.equal(await store.redis.exists(resultKey('unknown')), 0);
  t.same(await revoke(store, 'task-0'), []);
});

t.test('all messages of a revoked task go, however many share its id', async (t) => {
  const store = await open();
  const same = Array.from({ length: 20 }, (_, i) => toPark(i, { taskId: 'same' }));
  await parkAll(store, [...same, toPark(20, { taskId: 'same-not' })]);
  await store.redis.hdel(store.keys.parked, 'same', 'same\x1f3');
  t.same(await revoke(store, 'same'), ['same']);
  t.same(await store.redis.hkeys(store.keys.parked), ['same-not']);
});

t.test('a revoke never overwrites a success', async (t) => {
  const store = await open();
  await parkAll(store, [toPark(0), toPark(1)]);
  const success = '{"status": "SUCCESS", "result": 1, "task_id": "task-0"}';
  await store.redis.set(resultKey('task-0'), success);
  await store.redis.set(resultKey('task-1'), '{"status": "RETRY"}');
  t.same(await revoke(store, 'task-0', 'task-1'), ['task-0', 'task-1']);
  t.equal(await store.redis.get(resultKey('task-0')), success);
  t.match(await store.redis.get(resultKey('task-1')), /"REVOKED"/);
  t.equal(await store.redis.exists(store.keys.parked), 0);
});

t.test('nothing is revoked in a namespace that is gone, or when a result is no text', async (t) => {
  const store = await open();
  await parkAll(store, [toPark(0), toPark(1)]);
  await store.redis.rpush(resultKey('task-1'), 'x');
  await t.rejects(revoke(store, 'task-0', 'task-1'), /WRONGTYPE/);
  t.equal(await store.redis.hlen(store.keys.parked), 2);
  await store.redis.del(store.names.meta);
  await t.rejects(revoke(store, 'task-0'), { code: 'NAMESPACE_GONE' });
  t.equal(await store.redis.hlen(store.keys.parked), 2);
});

// List

t.test('parked messages are listed by queue, nearest first, backlogs of schedules aside', async (t) => {
  const store = await open();
  const lists = ['celery', 'video', 'celery\x06\x163', 'celery2'];
  await parkAll(
    store,
    Array.from({ length: 400 }, (_, i) => toPark(i, { etaMs: ETA_MS - i, list: lists[i % 4]! })),
  );
  await store.redis.zadd(store.keys.extra, 1, '\x1fschedule');
  const listed = await listParked(store.redis, 'rb', 1, ['celery'], 150);
  t.equal(listed.length, 150);
  t.same(
    listed.slice(0, 3).map(({ tag, list, etaMs }) => [tag, list, etaMs]),
    [
      ['tag-398', 'celery\x06\x163', ETA_MS - 398],
      ['tag-396', 'celery', ETA_MS - 396],
      ['tag-394', 'celery\x06\x163', ETA_MS - 394],
    ],
  );
  t.equal(listed[0]!.envelope, toPark(398, { list: 'celery\x06\x163' }).envelope);
  t.equal((await listParked(store.redis, 'rb', 1, ['video'], 1_000)).length, 100);
  t.same(await listParked(store.redis, 'rb', 1, ['nothing'], 1_000), []);
});

t.test('the nearest are found behind many of other queues', async (t) => {
  const store = await open();
  for (let page = 0; page < 5; page++) {
    const tasks = Array.from({ length: 500 }, (_, i) => toPark(page * 500 + i, { list: 'other' }));
    await parkAll(store, tasks);
  }
  await parkAll(store, [toPark(2_500)]);
  t.match(await listParked(store.redis, 'rb', 1, ['celery'], 10), [{ tag: 'tag-2500' }]);
});

// Forward

t.test('messages are moved on behind what waits in the other queue', async (t) => {
  const store = await open();
  const { redis } = store;
  await redis.lpush('celery', 'waiting');
  await redis.set('video', 'x');
  for (const tag of ['a', 'b', 'c', 'd']) await redis.lpush('celery.delayed', envelope({ id: tag, tag }));
  const request = { workerId: 'n1', counter: 1, limit: 10, byteLimit: 1_000_000, queues: ['celery.delayed'] };
  await reserve(redis, 'rb', request);
  await redis.hdel('unacked', 'c');
  const move = () =>
    forward(redis, 'rb', 'n1', [
      { tag: 'a', list: 'celery' },
      { tag: 'b', list: 'celery' },
      { tag: 'c', list: 'celery' },
      { tag: 'd', list: 'video' },
    ]);
  t.same(await move(), { late: [2], stuck: [3] });
  t.same(
    (await redis.lrange('celery', 0, -1)).map((raw) => (raw === 'waiting' ? raw : JSON.parse(raw).headers.id)),
    ['b', 'a', 'waiting'],
  );
  t.same(await redis.hkeys('unacked'), ['d']);
  const { reserved, waiting } = workerKeys('rb', 'n1');
  for (const held of [reserved, waiting]) t.same((await redis.smembers(held)).sort(), ['c', 'd']);
  t.same(await move(), { late: [0, 1, 2], stuck: [3] }, 'again: nothing moves twice');
  t.equal(await redis.llen('celery'), 3);
});

t.test('what is no parked message is not taken for one', async (t) => {
  const store = await open();
  const values = ['', 'nonsense', 'celery\x1ftag', '\x1ftag\x1f{}'];
  await store.redis.hset(store.keys.parked, { ...values });
  t.equal((await readParked(store.redis, store.keys, ['0', '1', '2', '3', 'missing'])).size, 0);
});
