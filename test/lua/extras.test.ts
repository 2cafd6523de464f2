import t from 'tap';
import { backfill, MAX_BACKLOG } from '../../lua/backfill.ts';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { backlogKey } from '../../lua/keys.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { trigger } from '../../lua/trigger.ts';
import { brokenLaws } from './laws.ts';
import { runAll } from './runs.ts';
import { EPOCH, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const fire = ({ redis, names, keys }: Store, requestId: string, id = 'a') =>
  trigger(redis, names, keys, { epoch: EPOCH, shard: 0, id, requestId });

const fill = ({ redis, names, keys }: Store, duesMs: readonly number[], requestId = 'r', id = 'a') =>
  backfill(redis, names, keys, { epoch: EPOCH, shard: 0, id, duesMs, requestId });

const STATES: readonly (readonly [string, (store: Store) => Promise<unknown>])[] = [
  ['a scheduled', (store) => store.put({ id: 'a', every: 3_600_000 })],
  ['a paused', (store) => store.put({ id: 'a', every: 3_600_000, enabled: false })],
  [
    'a completed',
    async (store) => {
      await store.put({ id: 'a', at: (await store.now()) - 5 });
      await store.dispatch();
      await store.redis.del('celery');
    },
  ],
  ['an ended', async (store) => store.put({ id: 'a', every: 10_000, endMs: (await store.now()) - 5 })],
];
for (const [title, prepare] of STATES) {
  t.test(`a trigger runs ${title} schedule once, now, and moves no next run`, async (t) => {
    const store = await open();
    await prepare(store);
    const waits = async () => [
      await store.redis.zscore(store.keys.due, 'a'),
      await store.redis.zscore(store.keys.completed, 'a'),
      await store.redis.hget(store.keys.last, 'a'),
    ];
    const state = await waits();
    const before = await store.now();
    const outcome = await fire(store, 'r1');
    const after = await store.now();
    t.match(await store.dispatch(), { sent: 1 });
    const [message] = await store.queue();
    t.same(outcome, { taskId: message?.id });
    t.ok(message!.due >= before && message!.due <= after, 'due when it was asked for');
    t.match(message?.headers, { ringbeat: { run: 1, attempt: 1 } });
    t.match(message?.id, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8001-f00000000001$/);
    t.match(message?.tag, /-9001-f00000000001$/);
    t.same(await waits(), state);
    t.match(await store.dispatch(), { sent: 0 });
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  });
}

t.test('the same request again is told the same and runs nothing again', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  const outcome = await fire(store, 'r1');
  const before = await store.snapshot();
  t.same(await fire(store, 'r1'), outcome);
  t.same(await store.snapshot(), before);
  await store.dispatch();
  t.same(await fire(store, 'r1'), outcome);
  t.equal(await store.redis.exists(store.keys.extra), 0);
});

t.test('each trigger is a run of its own, with a number that was never given out', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 }, { id: 'b', every: 3_600_000 });
  for (const [id, request] of [
    ['a', 'r1'],
    ['b', 'r2'],
    ['a', 'r3'],
  ] as const)
    await fire(store, request, id);
  t.match(await store.dispatch(), { sent: 3 });
  const queue = await store.queue();
  t.same(queue.map(({ headers }) => (headers.ringbeat as { run: number }).run).sort(), [1, 2, 3]);
  t.equal(new Set(queue.map(({ id }) => id)).size, 3);
  t.equal((await store.counts()).runs, 3);
});

t.test(
  'a triggered run has the task id that was answered, also when its timing changed before it was sent',
  async (t) => {
    const store = await open();
    await store.put({ id: 'a', every: 3_600_000 });
    const outcome = await fire(store, 'r1');
    await store.put({ id: 'a', every: 7_200_000 });
    t.match(await store.dispatch(), { sent: 1 });
    const [message] = await store.queue();
    t.same(outcome, { taskId: message?.id });
  },
);

t.test('what does not exist cannot be triggered or backfilled', async (t) => {
  const store = await open();
  const before = await store.snapshot();
  t.equal(await fire(store, 'r1'), 'missing');
  t.equal(await fill(store, [5]), null);
  t.same(await store.snapshot(), before);
});

t.test('a backfill runs each due time once, in order, whenever they were', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000, expires: { afterMs: 60_000 } });
  const dues = Array.from({ length: 100 }, (_, i) => 1_000_000 + i * 1_000);
  t.equal(await fill(store, dues), 100);
  t.equal(await fill(store, dues), 100, 'the same request again changes nothing');
  let sent = 0;
  for (let calls = 0; calls < 10; calls++) sent += (await store.dispatch()).sent;
  t.equal(sent, 100);
  const queue = await store.queue();
  t.same(
    queue.map(({ due }) => due),
    dues,
  );
  t.same(
    queue.map(({ headers }) => (headers.ringbeat as { run: number }).run),
    dues.map((_, i) => i + 1),
  );
  t.equal(new Set(queue.map(({ id }) => id)).size, 100);
  t.match(await store.counts(), { dispatched: 100, misfired: undefined });
  t.equal(await store.redis.exists(store.keys.lateness), 0, 'they were sent late on purpose: no lateness is counted');
  t.equal(await store.redis.exists(store.keys.extra, backlogKey(store.keys, 'a')), 0);
});

t.test('a trigger goes before what is backfilled', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  await fill(store, [5, 6]);
  await fire(store, 'r1');
  await store.dispatch();
  t.same((await store.queue()).map(({ due }) => due).slice(1), [5, 6]);
});

t.test('at most so many extra runs of a schedule wait at once', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  const dues = Array.from({ length: MAX_BACKLOG }, (_, i) => i + 1);
  t.equal(await fill(store, dues), MAX_BACKLOG);
  const before = await store.snapshot();
  await t.rejects(fill(store, [1], 'r2'), { code: 'BACKLOG_FULL' });
  t.equal(await fire(store, 'r3'), 'full');
  t.same(await store.snapshot(), before);
});

t.test('the extra runs of one schedule do not keep others waiting', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 }, { id: 'once', at: (await store.now()) - 5 });
  await fill(
    store,
    Array.from({ length: 500 }, (_, i) => i + 1),
  );
  await fire(store, 'r1');
  const { sent } = await store.dispatch();
  t.ok(sent < 100);
  t.ok((await store.queue()).some(({ schedule }) => schedule === 'once'));
});

t.test('with an overlap rule backfilled runs go one after the other', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000, overlap: 'skip' });
  await fill(store, [5, 6, 7]);
  for (const due of [5, 6, 7]) {
    t.match(await store.dispatch(), { sent: 1 });
    t.match(await store.dispatch(), { sent: 0 });
    const [message] = await runAll(store);
    t.equal(message?.due, due);
    t.match(message?.id, /-a000-f0000000000[123]$/);
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  }
  t.match(await store.dispatch(), { sent: 0 });
});

t.test('at the queue cap extra runs are held, with id and due time unchanged', async (t) => {
  const store = await open();
  const inHalfAnHour = ((await store.now()) + 1_800_000) % 3_600_000;
  await store.put({ id: 'a', every: 3_600_000, phase: inHalfAnHour });
  await store.redis.lpush('celery', 'in the way');
  const outcome = await fire(store, 'r1');
  await fill(store, [5]);
  const { nowMs, sent } = await store.dispatch({ queueCap: 1 });
  t.equal(sent, 0);
  t.equal(Number(await store.redis.zscore(store.keys.extra, '\x1fa')), nowMs + 1_000);
  t.match(await store.dispatch({ queueCap: 1 }), { sent: 0, nextDueMs: nowMs + 1_000 });
  await store.redis.del('celery');
  await store.redis.zadd(store.keys.extra, nowMs, '\x1fa');
  t.match(await store.dispatch({ queueCap: 10 }), { sent: 2 });
  const [first, second] = await store.queue();
  t.same({ taskId: first?.id }, outcome);
  t.equal(second?.due, 5);
  t.equal((await store.counts()).refused ?? 0, 0);
});

t.test('a triggered run that expired before it could be sent is dropped and counted', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', every: 3_600_000, expires: { atMs: now + 30 } });
  await fire(store, 'r1');
  await store.passes(now + 30);
  t.match(await store.dispatch(), { sent: 0, misfired: 1 });
  t.equal(await store.redis.exists(store.keys.extra), 0);
});

t.test('extra runs are as the schedule is when they are sent, and go with it', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const parts: ScheduleParts = { id: 'a', every: 3_600_000 };
  await store.put(parts);
  await fire(store, 'r1');
  await fill(store, [5, 6]);
  await store.put({ ...parts, args: ['new'] });
  await setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled: false, ids: ['a'] });
  t.match(await store.dispatch(), { sent: 3 }, 'paused or not');
  for (const { body } of await store.queue()) t.same(body[0], ['new']);
  await fill(store, [7, 8], 'r2');
  await deleteSchedules(redis, names, keys, EPOCH, ['a']);
  t.equal(await redis.exists(keys.extra, backlogKey(keys, 'a')), 0);
  t.match(await store.dispatch(), { sent: 0, nextDueMs: null });
});

t.test('extra runs of an unreadable schedule are a dead letter, with how many they were', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  await fill(
    store,
    Array.from({ length: 50 }, (_, i) => i + 1),
  );
  await store.redis.hset(store.keys.definitions, 'a', 'nonsense');
  t.match(await store.dispatch(), { sent: 0 });
  t.match(await store.deadLetters(), [
    { kind: 'schedule', id: 'a', reason: 'unreadable definition or template, 50 extra runs' },
  ]);
  t.equal(await store.redis.exists(store.keys.extra, backlogKey(store.keys, 'a')), 0);
});

t.test('an extra run that cannot be read is a dead letter, the others are sent', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  await fill(store, [5, 6]);
  await store.redis.lset(backlogKey(store.keys, 'a'), 0, 'nonsense');
  t.match(await store.dispatch(), { sent: 1 });
  t.match(await store.deadLetters(), [{ id: 'a', reason: 'unreadable extra run', data: 'nonsense' }]);
  t.equal(await store.redis.exists(store.keys.extra, backlogKey(store.keys, 'a')), 0);
});

t.test('while memory is full nothing is triggered, and everything stays as it is', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  await fill(store, [5]);
  const before = await store.snapshot();
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    await t.rejects(fire(store, 'r1'), { message: /OOM/ });
    await t.rejects(fill(store, [6], 'r2'), { message: /OOM/ });
    await t.rejects(store.dispatch(), { message: /OOM/ });
    t.same(await store.snapshot(), before);
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
});

t.test('nothing is triggered in a namespace that is gone', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  await store.redis.hset(store.names.meta, 'epoch', 'another');
  const before = await store.snapshot();
  await t.rejects(fire(store, 'r1'), { code: 'NAMESPACE_GONE' });
  await t.rejects(fill(store, [5]), { code: 'NAMESPACE_GONE' });
  t.same(await store.snapshot(), before);
});
