import t from 'tap';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { readOccurrences } from '../../lua/occurrences.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { trigger } from '../../lua/trigger.ts';
import { brokenLaws } from './laws.ts';
import { end, endByDeadline, endByResult, flightOf, runAll, take } from './runs.ts';
import { EPOCH, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

/** A schedule with a run in flight, and its next two runs due. */
async function flying(store: Store, parts: Partial<ScheduleParts>): Promise<number> {
  const due = (await store.now()) - 25_000;
  await store.putDue({ id: 'a', dueMs: due, ...parts });
  for (let call = 0; call < 3; call++) await store.dispatch();
  return due;
}

const sentDues = async (store: Store) => (await store.queue()).map(({ due }) => due);

t.test('allow sends every run, and keeps no account of them', async (t) => {
  const store = await open();
  const due = await flying(store, {});
  t.same(await sentDues(store), [due, due + 10_000, due + 20_000]);
  t.equal(await store.redis.exists(store.keys.journal, store.keys.flights, store.keys.deadlines), 0);
});

t.test('skip drops what is due while a run is in flight, counts and tells it, and goes on afterwards', async (t) => {
  const store = await open();
  const due = await flying(store, { overlap: 'skip' });
  t.same(await sentDues(store), [due]);
  t.match(await store.counts(), { skipped: 2, dispatched: 1 });
  t.same(
    (await readOccurrences(store.redis, store.keys, 'a', 10)).map(({ kind, dueMs }) => [kind, dueMs]),
    [
      ['skipped', due + 20_000],
      ['skipped', due + 10_000],
      ['dispatched', due],
    ],
  );
  t.equal((await store.score('a'))?.atMs, due + 30_000);
  await runAll(store);
  await store.redis.zadd(store.keys.due, due + 20_001, 'a');
  t.match(await store.dispatch(), { sent: 1 });
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('buffer_one keeps the earliest of the runs that overlap, and sends it with its own due time', async (t) => {
  const store = await open();
  const due = await flying(store, { overlap: 'buffer_one' });
  t.same(await sentDues(store), [due]);
  t.match(await store.counts(), { skipped: 1 });
  t.equal((await flightOf(store, 'a'))?.bufferedMs, due + 10_000);
  const [first] = await runAll(store);
  t.match(await store.dispatch(), { sent: 1 });
  const [second] = await store.queue();
  t.equal(second?.due, due + 10_000);
  t.not(second?.id, first?.id);
  t.equal(Number.parseInt(second!.id.slice(-12), 16), due + 10_000, 'its id is that of its own due time');
  t.match(second?.headers, { ringbeat: { run: 0, attempt: 1 } });
  await runAll(store);
  t.equal(await store.redis.exists(store.keys.journal, store.keys.extra), 0);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('the message of a run in flight says where it is accounted for', async (t) => {
  const store = await open();
  await flying(store, { overlap: 'skip', queue: 'celery' });
  const [message] = await store.queue();
  t.match(message?.headers, { ringbeat: { schedule: 'a', run: 0, attempt: 1, journal: store.keys.prefix } });
  t.match(message?.id, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a000-[0-9a-f]{12}$/);
  t.match(message?.tag, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-b001-[0-9a-f]{12}$/);
  const flight = await flightOf(store, 'a');
  t.match(flight, { taskId: message?.id, tag: message?.tag, dueMs: message?.due, run: 0, attempt: 1, list: 'celery' });
  t.equal(await store.redis.hget(store.keys.flights, message!.id), 'a');
});

const ENDS: readonly (readonly [string, (store: Store) => Promise<unknown>])[] = [
  ['its settlement', (store) => runAll(store)],
  ['its failure', (store) => runAll(store, { outcome: 'failure' })],
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
  t.test(`a run ends by ${title}, once`, async (t) => {
    const store = await open();
    await flying(store, { overlap: 'buffer_one' });
    const { taskId } = (await flightOf(store, 'a'))!;
    await finish(store);
    t.equal(await store.redis.exists(store.keys.journal, store.keys.flights, store.keys.deadlines), 0);
    t.same(await store.redis.zrange(store.keys.extra, '0', '-1'), ['\x1fa'], 'what was held back goes on');
    const before = await store.snapshot();
    t.same(await endByResult(store, [taskId]), { ended: 0, lost: 0 });
    t.same(await endByDeadline(store, 'a'), { ended: 0, lost: 0 });
    t.same(await store.snapshot(), before);
  });
}

t.test('the result of an earlier run ends no later one', async (t) => {
  const store = await open();
  await flying(store, { overlap: 'buffer_one' });
  const { taskId } = (await flightOf(store, 'a'))!;
  await endByResult(store, [taskId]);
  await store.dispatch();
  t.ok(await flightOf(store, 'a'));
  t.same(await endByResult(store, [taskId]), { ended: 0, lost: 0 });
  const late = await take(store);
  // The first message was still in the queue: its settlement comes after its result.
  await end(store, late[0]!);
  t.ok(await flightOf(store, 'a'), 'nor does its settlement');
  await end(store, late[1]!);
  t.equal(await flightOf(store, 'a'), null);
});

t.test('while its message may still be run a run does not end by its deadline', async (t) => {
  const cases: readonly (readonly [string, Partial<ScheduleParts>, boolean, boolean])[] = [
    ['in the queue, for bundled workers', { worker: 'ringbeat' }, false, false],
    ['held by a bundled worker', { worker: 'ringbeat' }, true, false],
    ['held by a worker, for any', {}, true, false],
    ['in the queue, for Celery workers, beyond all its limits', {}, false, true],
  ];
  for (const [title, parts, isTaken, isLost] of cases) {
    const store = await open();
    await flying(store, { overlap: 'skip', ...parts });
    if (isTaken) await take(store);
    t.same(await endByDeadline(store, 'a'), { ended: 0, lost: isLost ? 1 : 0 }, title);
    t.equal((await flightOf(store, 'a')) === null, isLost, title);
    t.equal((await store.counts()).lost ?? 0, isLost ? 1 : 0, title);
    if (!isLost) {
      const again = Number(await store.redis.zscore(store.keys.deadlines, 'a'));
      t.ok(again > (await store.now()) + 50_000, `${title}: it is looked at again`);
    }
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  }
});

t.test('a message for bundled workers that was purged ends its run at the next look', async (t) => {
  const store = await open();
  await flying(store, { overlap: 'skip', worker: 'ringbeat' });
  await store.redis.del('celery');
  t.same(await endByDeadline(store, 'a'), { ended: 0, lost: 1 });
});

t.test('the deadline of a run for Celery workers is its expiry, its time limit and 10 s', async (t) => {
  for (const [parts, aheadMs] of [
    [{ timeLimit: 20, expires: { afterMs: 3_600_000 } }, 3_600_000 - 25_000 + 20_000 + 10_000],
    [{ timeLimit: 20 }, 20_000 + 10_000],
    [{}, 300_000 + 10_000],
  ] as const) {
    const store = await open();
    const before = await store.now();
    await flying(store, { overlap: 'skip', ...parts });
    const ahead = Number(await store.redis.zscore(store.keys.deadlines, 'a')) - before;
    t.ok(Math.abs(ahead - aheadMs) < 1_000, `${ahead} is about ${aheadMs}`);
  }
});

t.test('paused while a run is in flight, what was held back is not sent', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  await flying(store, { overlap: 'buffer_one' });
  await setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled: false, ids: ['a'] });
  t.ok(await flightOf(store, 'a'), 'the run goes on');
  await runAll(store);
  t.match(await store.dispatch(), { sent: 0 });
  t.equal(await redis.exists(keys.journal, keys.extra, `${keys.prefix}backlog:a`), 0);
  t.same(await brokenLaws(redis, 'rb', 1), []);
});

t.test('deleted while a run is in flight, its settlement finds nothing to do, and its result is stored', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  await flying(store, { overlap: 'buffer_one' });
  const [message] = await take(store);
  await deleteSchedules(redis, names, keys, EPOCH, ['a']);
  t.equal(await redis.exists(keys.journal, keys.flights, keys.deadlines), 0);
  t.equal(await end(store, message!), 0, 'it was not late');
  t.same(await brokenLaws(redis, 'rb', 1), []);
  t.equal(await redis.exists(keys.due, keys.definitions, keys.extra), 0);
});

t.test('put again after it was deleted in flight, the old run ends nothing of the new schedule', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  await flying(store, { overlap: 'skip' });
  const [old] = await take(store);
  await deleteSchedules(redis, names, keys, EPOCH, ['a']);
  await flying(store, { overlap: 'skip' });
  const { taskId } = (await flightOf(store, 'a'))!;
  await end(store, old!);
  t.same(await endByResult(store, [old!.id]), { ended: 0, lost: 0 });
  t.equal((await flightOf(store, 'a'))?.taskId, taskId);
});

t.test('a new timing while a run is in flight waits for it as the old one did', async (t) => {
  const store = await open();
  await flying(store, { overlap: 'skip' });
  const now = await store.now();
  await store.put({ id: 'a', every: 20, phase: 0, overlap: 'skip' });
  await store.passes(now + 25);
  t.match(await store.dispatch(), { sent: 0 });
  await runAll(store);
  await store.passes((await store.now()) + 25);
  t.match(await store.dispatch(), { sent: 1 });
});

t.test('overlap edited to allow, nothing waits for the run in flight, and what it held back is sent', async (t) => {
  const store = await open();
  const due = await flying(store, { overlap: 'buffer_one' });
  await store.put({ id: 'a', phase: due % 10_000 });
  await store.redis.zadd(store.keys.due, due + 20_000, 'a');
  t.match(await store.dispatch(), { sent: 1 });
  await runAll(store);
  t.match(await store.dispatch(), { sent: 1 });
  t.same(await sentDues(store), [due + 10_000]);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('the rules go in their order: expiry, overlap, max_runs, queue cap', async (t) => {
  const store = await open();
  const due = await flying(store, { overlap: 'skip', maxRuns: 1, expires: { afterMs: 3_600_000 } });
  t.same(await sentDues(store), [due], 'with one run at most the second is not even skipped');
  t.equal((await store.counts()).skipped ?? 0, 0);
  t.equal(await store.score('a'), null);

  const capped = await open();
  await flying(capped, { overlap: 'skip', queueCap: 1 });
  t.match(await capped.counts(), { skipped: 2 }, 'what overlaps is skipped, not refused');
  t.equal((await capped.counts()).refused ?? 0, 0);

  const expired = await open();
  await flying(expired, { overlap: 'skip', expires: { afterMs: 26_000 } });
  await expired.passes((await expired.now()) + 1_200);
  await expired.redis.zadd(expired.keys.due, 'XX', (await expired.now()) - 26_100, 'a');
  await expired.dispatch();
  t.match(await expired.counts(), { misfired: 1, skipped: 2 }, 'what has expired is misfired, not skipped');
});

t.test('a triggered run waits for the one in flight, and regular ones wait for it', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const due = await flying(store, { overlap: 'skip' });
  const outcome = await trigger(redis, names, keys, { epoch: EPOCH, shard: 0, id: 'a', requestId: 'r' });
  t.match(await store.dispatch(), { sent: 0 });
  await runAll(store);
  t.match(await store.dispatch(), { sent: 1 }, 'at once when the other has ended');
  const [message] = await store.queue();
  t.same({ taskId: message?.id }, outcome);
  await redis.zadd(keys.due, due + 20_000, 'a');
  t.match(await store.dispatch(), { sent: 0 });
  t.match(await store.counts(), { skipped: 3 });
  await runAll(store);
  t.same(await brokenLaws(redis, 'rb', 1), []);
});

t.test(
  'an end that is moved, or a larger max_runs, brings back what had come to its end while its run is in flight',
  async (t) => {
    for (const [before, after] of [
      [{ maxRuns: 1 }, { maxRuns: 2 }],
      [{ endMs: 1 }, { endMs: 4e12 }],
    ] as const) {
      const store = await open();
      const due = (await store.now()) - 5;
      await store.putDue({
        id: 'a',
        dueMs: due,
        overlap: 'skip',
        ...before,
        ...('endMs' in before ? { endMs: due + 1 } : {}),
      });
      await store.dispatch();
      t.same(await sentDues(store), [due]);
      t.equal(await store.score('a'), null, 'it has no run to come');
      t.same(await store.put({ id: 'a', phase: due % 10_000, overlap: 'skip', ...after }), ['updated']);
      t.equal((await store.score('a'))?.atMs, due + 10_000);
      await runAll(store);
      t.same(await brokenLaws(store.redis, 'rb', 1), []);
    }
  },
);
