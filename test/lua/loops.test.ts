import t from 'tap';
import { completeRuns } from '../../lua/complete-runs.ts';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { trigger } from '../../lua/trigger.ts';
import { brokenLaws } from './laws.ts';
import { end, endByDeadline, endByResult, flightOf, runAll, take } from './runs.ts';
import { EPOCH, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const MINUTE = 60_000;

/** A loop with a run in flight. */
async function flying(store: Store, parts: Partial<ScheduleParts> = {}): Promise<void> {
  await store.put({ id: 'a', after: MINUTE, ...parts });
  await store.dispatch();
}

const enable = ({ redis, names, keys }: Store, enabled: boolean) =>
  setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled, ids: ['a'] });

const fire = ({ redis, names, keys }: Store, requestId: string) =>
  trigger(redis, names, keys, { epoch: EPOCH, shard: 0, id: 'a', requestId });

const held = ({ redis, keys }: Store) => redis.hget(keys.held, 'a');

t.test(
  'a loop first runs at registration, or at its start, and is due again only when its run has ended',
  async (t) => {
    const store = await open();
    const before = await store.now();
    await store.put({ id: 'a', after: MINUTE }, { id: 'later', after: MINUTE, startMs: before + 5_000 });
    const due = (await store.score('a'))!.atMs;
    t.ok(due >= before && due <= (await store.now()));
    t.equal((await store.score('later'))?.atMs, before + 5_000);
    t.match(await store.dispatch(), { sent: 1 });
    t.equal(await store.score('a'), null);
    t.match(await flightOf(store, 'a'), { dueMs: due, run: 0, attempt: 1 });
    t.match(await store.redis.hget(store.keys.last, 'a'), new RegExp(`^${due}:\\d+$`));
  },
);

const ENDS: readonly (readonly [string, (store: Store) => Promise<unknown>])[] = [
  ['its settlement', (store) => runAll(store)],
  ['the settlement of its failure', (store) => runAll(store, { outcome: 'failure' })],
  ['its result', async (store) => endByResult(store, [(await flightOf(store, 'a'))!.taskId])],
  [
    'its deadline',
    async (store) => {
      await store.redis.del('celery');
      await endByDeadline(store, 'a');
    },
  ],
];
for (const [title, finish] of ENDS) {
  t.test(`the next delay counts from ${title}, which counts once`, async (t) => {
    const store = await open();
    await flying(store);
    const { taskId } = (await flightOf(store, 'a'))!;
    const before = await store.now();
    await finish(store);
    const due = (await store.score('a'))!.atMs;
    t.ok(due >= before + MINUTE && due <= (await store.now()) + MINUTE);
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
    const after = await store.snapshot();
    await endByResult(store, [taskId]);
    await endByDeadline(store, 'a');
    t.same(await store.snapshot(), after);
  });
}

t.test('a settlement that is sent again ends nothing again', async (t) => {
  const store = await open();
  await flying(store, { after: 0 });
  const [message] = await take(store);
  await end(store, message!, { counter: 1_000_001 });
  await store.passes((await store.score('a'))!.atMs);
  await store.dispatch();
  const flight = await flightOf(store, 'a');
  t.not(flight, null);
  await end(store, message!, { counter: 1_000_001 });
  t.equal(await end(store, message!, { counter: 1_000_002 }), 1, 'and with another counter it is late');
  t.same(await flightOf(store, 'a'), flight);
});

t.test('a task says when its loop runs next', async (t) => {
  for (const wish of [0, 5, 90_000]) {
    const store = await open();
    await flying(store);
    const before = await store.now();
    await runAll(store, { wish });
    const due = (await store.score('a'))!.atMs;
    t.ok(due >= before + wish && due <= (await store.now()) + wish, `${wish}`);
  }
});

t.test('two runs of a loop are never due at one time, so their ids differ', async (t) => {
  const store = await open();
  await store.put({ id: 'a', after: 0 });
  const ahead = (await store.now()) + 100;
  // As after a step back of the clock.
  await store.redis.zadd(store.keys.due, ahead, 'a');
  await store.passes(ahead);
  await store.dispatch();
  const flight = (await flightOf(store, 'a'))!;
  const fields = (await store.redis.hget(store.keys.journal, 'a'))!.split('\x1f');
  await store.redis.hset(store.keys.journal, 'a', fields.with(1, String(ahead + 60_000)).join('\x1f'));
  await endByResult(store, [flight.taskId], 'success', 0);
  t.equal((await store.score('a'))?.atMs, ahead + 60_001);
});

t.test('a task that stops its loop ends it: only another timing or a trigger runs it again', async (t) => {
  const store = await open();
  await flying(store);
  await runAll(store, { wish: 'stop' });
  t.equal(await store.score('a'), null);
  t.equal(await held(store), '-');
  t.same(await store.put({ id: 'a', after: MINUTE }), ['unchanged']);
  t.same(await store.put({ id: 'a', after: MINUTE, args: [1] }), ['updated']);
  for (const enabled of [false, true]) await enable(store, enabled);
  t.equal(await store.score('a'), null);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
  await fire(store, 'r1');
  t.match(await store.dispatch(), { sent: 1 });
  await runAll(store);
  t.equal(await store.score('a'), null, 'a triggered run does not begin it again');
  await store.put({ id: 'a', after: 2 * MINUTE });
  t.ok(await store.score('a'));
  t.equal(await held(store), null);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('failures are tried again by the retry policy, longer and longer, until one succeeds', async (t) => {
  const store = await open();
  const retry = { delayMs: 1_000, maxDelayMs: 5_000 };
  await store.put({ id: 'a', after: MINUTE, retry });
  const delays: number[] = [];
  for (const outcome of ['failure', 'failure', 'failure', 'failure', 'failure', 'success', 'failure'] as const) {
    await store.redis.zadd(store.keys.due, 'XX', await store.now(), 'a');
    await store.dispatch();
    const before = await store.now();
    await runAll(store, { outcome });
    delays.push(Math.floor(((await store.score('a'))!.atMs - before) / 1_000));
  }
  t.same(delays, [1, 2, 4, 5, 5, 60, 1]);
  t.equal(await store.redis.hget(store.keys.failures, 'a'), '1');
});

t.test('without a retry policy, or when its run was lost, a loop goes on after its usual delay', async (t) => {
  const store = await open();
  await flying(store, { retry: { delayMs: 1, maxDelayMs: 5 } });
  await store.redis.del('celery');
  const before = await store.now();
  await endByDeadline(store, 'a');
  t.ok((await store.score('a'))!.atMs >= before + MINUTE);
  t.equal(await store.redis.exists(store.keys.failures), 0);
});

t.test('paused while it waits, a loop keeps its time, and is due then or at once when it is resumed', async (t) => {
  for (const ahead of [60_000, -1]) {
    const store = await open();
    await store.put({ id: 'a', after: MINUTE });
    const due = (await store.now()) + ahead;
    await store.redis.zadd(store.keys.due, due, 'a');
    await enable(store, false);
    t.equal(await store.score('a'), null);
    t.equal(await held(store), String(due));
    const before = await store.now();
    await enable(store, true);
    const resumed = (await store.score('a'))!.atMs;
    t.ok(ahead > 0 ? resumed === due : resumed >= before && resumed <= (await store.now()));
    t.equal(await held(store), null);
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  }
});

t.test('the same by putting it paused and enabled', async (t) => {
  const store = await open();
  await store.put({ id: 'a', after: MINUTE });
  const due = (await store.now()) + 60_000;
  await store.redis.zadd(store.keys.due, due, 'a');
  await store.put({ id: 'a', after: MINUTE, enabled: false });
  t.equal(await held(store), String(due));
  await store.put({ id: 'a', after: MINUTE });
  t.equal((await store.score('a'))?.atMs, due);
  t.equal(await held(store), null);
  await store.put({ id: 'a', after: MINUTE, enabled: false });
  await store.put({ id: 'a', after: 2 * MINUTE, enabled: false });
  t.equal(await held(store), null, 'another timing begins anew');
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('paused in flight, a loop keeps the time that its run sets, and is due then', async (t) => {
  const store = await open();
  await flying(store);
  await enable(store, false);
  const before = await store.now();
  await runAll(store);
  t.equal(await store.score('a'), null);
  const due = Number(await held(store));
  t.ok(due >= before + MINUTE && due <= (await store.now()) + MINUTE);
  await enable(store, true);
  t.equal((await store.score('a'))?.atMs, due);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('paused and resumed in flight, a loop still runs once at a time', async (t) => {
  const store = await open();
  await flying(store);
  for (const enabled of [false, true]) await enable(store, enabled);
  t.equal(await store.score('a'), null);
  t.match(await store.dispatch(), { sent: 0 });
  await runAll(store);
  t.ok(await store.score('a'));
});

t.test('edited in flight, a loop goes on by its new timing when its run ends', async (t) => {
  const store = await open();
  await flying(store);
  t.same(await store.put({ id: 'a', after: 5_000, args: [1] }), ['updated']);
  t.equal(await store.score('a'), null);
  const before = await store.now();
  await runAll(store);
  const due = (await store.score('a'))!.atMs;
  t.ok(due >= before + 5_000 && due <= (await store.now()) + 5_000);
});

t.test(
  'a loop in flight that becomes an interval runs on its grid, and its run in flight brings nothing back',
  async (t) => {
    const store = await open();
    await flying(store);
    await store.put({ id: 'a', every: 3_600_000 });
    const score = await store.score('a');
    t.ok(score);
    await runAll(store);
    t.same(await store.score('a'), score);
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  },
);

t.test('an interval with a run in flight that becomes a loop begins when that ends', async (t) => {
  const store = await open();
  const due = (await store.now()) - 15_000;
  await store.putDue({ id: 'a', dueMs: due, overlap: 'buffer_one' });
  for (let call = 0; call < 2; call++) await store.dispatch();
  t.equal((await flightOf(store, 'a'))?.bufferedMs, due + 10_000);
  await store.put({ id: 'a', after: MINUTE });
  t.equal(await store.score('a'), null);
  await runAll(store);
  t.ok(await store.score('a'), 'what the interval held back is not of the loop');
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('deleted in flight, a loop ends when its run does', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  await flying(store);
  t.same(await deleteSchedules(redis, names, keys, EPOCH, ['a']), [true]);
  await runAll(store);
  const left = (await redis.keys('rb:{0}:*')).sort();
  t.same(left, [keys.counts, keys.lateness, keys.occurrences].sort());
});

t.test('a loop ends where its next run would not be before its end', async (t) => {
  const store = await open();
  const endMs = (await store.now()) + 30_000;
  await flying(store, { endMs });
  await runAll(store);
  t.equal(await store.score('a'), null);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
  await store.put({ id: 'a', after: MINUTE, endMs: endMs + 2 * MINUTE });
  t.ok(await store.score('a'), 'a later end lets it go on');
});

t.test('triggered while it waits, a loop runs now, and the run is the one it waited for', async (t) => {
  const store = await open();
  await flying(store);
  await runAll(store);
  const before = await store.now();
  const outcome = await fire(store, 'r1');
  t.same(await fire(store, 'r1'), outcome, 'the same request again is told the same');
  t.match(await store.dispatch(), { sent: 1 });
  const flight = (await flightOf(store, 'a'))!;
  t.same(outcome, { taskId: flight.taskId });
  t.equal(flight.run, 0);
  t.ok(flight.dueMs >= before && flight.dueMs <= flight.dispatchedAtMs);
  t.equal(await fire(store, 'r2'), 'in_flight');
  await runAll(store);
  t.ok((await store.score('a'))!.atMs > before + MINUTE, 'and it goes on from there');
});

t.test('triggered while paused, a loop runs once beside, and its time is kept', async (t) => {
  const store = await open();
  await store.put({ id: 'a', after: MINUTE });
  const due = (await store.now()) + 60_000;
  await store.redis.zadd(store.keys.due, due, 'a');
  await enable(store, false);
  const outcome = await fire(store, 'r1');
  t.match(await store.dispatch(), { sent: 1 });
  t.same(outcome, { taskId: (await flightOf(store, 'a'))?.taskId });
  t.equal(await fire(store, 'r2'), 'in_flight');
  await runAll(store);
  t.equal(await held(store), String(due));
  await fire(store, 'r3');
  await store.dispatch();
  await enable(store, true);
  t.equal(await store.score('a'), null, 'resumed meanwhile, it waits for that run');
  await runAll(store);
  t.equal((await store.score('a'))?.atMs, due);
  t.equal(await held(store), null);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('triggered while its missed run waits for its turn, that run is sent now', async (t) => {
  const store = await open();
  await store.put({ id: 'a', after: MINUTE });
  const due = (await store.now()) - 30_000;
  await store.redis.zadd(store.keys.due, due, 'a');
  await store.dispatch({ misfireThresholdMs: 1_000 });
  t.ok(await store.redis.zscore(store.keys.missed, 'a'));
  const outcome = await fire(store, 'r1');
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
  t.match(await store.dispatch({ misfireThresholdMs: 1_000, recoveryRate: 1 }), { sent: 1, misfired: 0 });
  t.match(await flightOf(store, 'a'), { ...(outcome as object), dueMs: due });
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('at the queue cap a loop is held with its id and due time, also through a pause and a trigger', async (t) => {
  const store = await open();
  const { redis, keys } = store;
  await store.put({ id: 'a', after: MINUTE });
  const due = (await store.score('a'))!.atMs;
  await redis.lpush('celery', 'in the way');
  const { nowMs } = await store.dispatch({ queueCap: 1 });
  t.equal((await store.score('a'))?.atMs, nowMs + 1_000);
  t.equal(await held(store), String(due));
  t.match(await store.counts(), { templates: 1 });
  const { taskId } = (await fire(store, 'r1')) as { taskId: string };
  t.equal(Number.parseInt(taskId.slice(-12), 16), due);
  for (const enabled of [false, true]) await enable(store, enabled);
  t.equal(await held(store), null);
  await redis.zadd(keys.due, due, 'a');
  await store.dispatch({ queueCap: 1 });
  await redis.zadd(keys.due, String((await store.now()) - 5_000 + 1 / 2048), 'a');
  await redis.del('celery');
  t.match(await store.dispatch({ misfireThresholdMs: 100 }), { sent: 1, misfired: 0 }, 'it is not judged as missed');
  t.match(await flightOf(store, 'a'), { dueMs: due });
  t.equal(await held(store), null);
  t.same(await brokenLaws(redis, 'rb', 1), []);
});

t.test('a loop whose run expires before it is sent goes on', async (t) => {
  const store = await open();
  await store.put({ id: 'a', after: MINUTE, expires: { afterMs: 1_000 } });
  await store.redis.zadd(store.keys.due, (await store.now()) - 2_000, 'a');
  const { nowMs } = await store.dispatch();
  t.match(await store.counts(), { misfired: 1 });
  t.equal((await store.score('a'))?.atMs, nowMs + MINUTE);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('what a completed run makes due within a second is announced', async (t) => {
  const store = await open();
  const heard: string[] = [];
  const subscriber = store.redis.duplicate();
  t.teardown(() => subscriber.disconnect());
  await subscriber.subscribe(store.names.wake);
  subscriber.on('message', (_, message) => heard.push(message));
  for (const wish of [500, 5_000]) {
    await store.put({ id: 'a', after: MINUTE, args: [wish] });
    await store.redis.zadd(store.keys.due, await store.now(), 'a');
    await store.dispatch();
    heard.length = 0;
    await runAll(store, { wish });
    await subscriber.ping();
    t.same(heard, wish < 1_000 ? [`0:${(await store.score('a'))!.atMs}`] : []);
  }
});

t.test('a Redis that is full still lets runs end', async (t) => {
  for (const finish of [
    (store: Store) => runAll(store),
    async (store: Store) => endByResult(store, [(await flightOf(store, 'a'))!.taskId]),
    ({ redis, names, keys }: Store) =>
      completeRuns(redis, names, keys, { epoch: EPOCH, shard: 0, runs: [], checksDeadlines: true }),
  ]) {
    const store = await open();
    await flying(store);
    await store.redis.zadd(store.keys.deadlines, 'XX', 1, 'a');
    await store.redis.config('SET', 'maxmemory', '1mb');
    try {
      await finish(store);
    } finally {
      await store.redis.config('SET', 'maxmemory', '0');
    }
    t.ok(await store.score('a'));
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  }
});

t.test(
  'a run that only a bundled worker may have taken is not given up on when its loop allows others since',
  async (t) => {
    const store = await open();
    await store.put({ id: 'a', after: 10_000, worker: 'ringbeat' });
    t.match(await store.dispatch(), { sent: 1 });
    t.same(await store.put({ id: 'a', after: 10_000 }), ['updated']);
    t.same(await endByDeadline(store, 'a'), { ended: 0, lost: 0 });
    t.equal(await store.score('a'), null);
    await runAll(store);
    t.ok(await store.score('a'));
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  },
);
