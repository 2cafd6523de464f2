import t from 'tap';
import { backfill } from '../../lua/backfill.ts';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import type { DispatchRequest } from '../../lua/dispatch.ts';
import { shardKeys } from '../../lua/keys.ts';
import { readOccurrences } from '../../lua/occurrences.ts';
import { putSchedules } from '../../lua/put-schedules.ts';
import { refillTimes } from '../../lua/refill-times.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { encodeTimes } from '../../lua/times.ts';
import { until } from '../support/eventually.ts';
import { brokenLaws } from './laws.ts';
import { flightOf, runAll } from './runs.ts';
import { EPOCH, entry, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const OUTAGE = { misfireThresholdMs: 1_000 };

/** Calls until nothing is due any more; the due times in the order in which they were sent. */
async function drain(store: Store, request: Partial<DispatchRequest> = OUTAGE): Promise<number[]> {
  for (let calls = 0; calls < 2_000; calls++) {
    const { nextDueMs, nowMs, isMoreDue } = await store.dispatch(request);
    if (!isMoreDue && nextDueMs !== 'soon' && (nextDueMs === null || nextDueMs > nowMs)) break;
  }
  return (await store.queue()).map(({ due }) => due);
}

interface Case {
  readonly title: string;
  readonly misfire: NonNullable<ScheduleParts['misfire']>;
  /** Which of the four occurrences 35, 25, 15 and 5 s ago are sent. */
  readonly sent: readonly number[];
}
const CASES: readonly Case[] = [
  { title: 'latest sends the last', misfire: { policy: 'latest', graceMs: null }, sent: [3] },
  { title: 'all sends each', misfire: { policy: 'all', graceMs: null }, sent: [0, 1, 2, 3] },
  { title: 'skip sends none', misfire: { policy: 'skip', graceMs: null }, sent: [] },
  { title: 'all within a grace sends the younger ones', misfire: { policy: 'all', graceMs: 20_000 }, sent: [2, 3] },
  { title: 'latest within a grace sends the last', misfire: { policy: 'latest', graceMs: 20_000 }, sent: [3] },
  { title: 'latest beyond its grace sends none', misfire: { policy: 'latest', graceMs: 2_000 }, sent: [] },
];
for (const { title, misfire, sent } of CASES) {
  for (const kind of ['a calendar', 'a jittered calendar', 'a jittered interval'] as const) {
    t.test(`of missed runs of ${kind}, ${title}`, async (t) => {
      const store = await open();
      const now = await store.now();
      const dues = [now - 35_000, now - 25_000, now - 15_000, now - 5_000];
      const next = now + 5_000;
      // Jitter of under a ms moves nothing, but its times are told one by one.
      const jitterMs = kind === 'a calendar' ? 0 : 1;
      if (kind !== 'a jittered interval') {
        await store.put({
          id: 'a',
          misfire,
          jitterMs,
          calendar: { untilMs: now + 60_000, values: [...dues, next, next + 10_000] },
        });
        await store.redis.zadd(store.keys.due, dues[0]!, 'a');
      } else {
        await store.putDue({ id: 'a', misfire, jitterMs, dueMs: dues[0]! });
      }
      t.same(
        await drain(store),
        sent.map((at) => dues[at]),
      );
      t.equal((await store.score('a'))?.atMs, next);
      const dropped = 4 - sent.length;
      t.equal((await store.counts()).misfired ?? 0, dropped);
      t.equal(Number((await store.redis.hget(store.keys.dropped, 'a')) ?? 0), dropped, 'counted per schedule');
      const told = await readOccurrences(store.redis, store.keys, 'a', 100);
      const misfired = told.filter(({ kind }) => kind === 'misfired');
      t.equal(
        misfired.reduce((sum, { count }) => sum + count, 0),
        dropped,
        'and listed',
      );
      t.same(await brokenLaws(store.redis, 'rb', 1), []);
    });
  }
}

const LATE_LOOP: readonly (readonly [NonNullable<ScheduleParts['misfire']>, boolean])[] = [
  [{ policy: 'latest', graceMs: null }, true],
  [{ policy: 'all', graceMs: 60_000 }, true],
  [{ policy: 'all', graceMs: 10_000 }, false],
  [{ policy: 'skip', graceMs: null }, false],
];
for (const [misfire, isSent] of LATE_LOOP) {
  t.test(
    `a loop's missed run is ${isSent ? 'sent' : 'dropped, and the loop goes on'}: ${JSON.stringify(misfire)}`,
    async (t) => {
      const store = await open();
      const due = (await store.now()) - 30_000;
      await store.put({ id: 'a', after: 60_000, misfire });
      await store.redis.zadd(store.keys.due, due, 'a');
      const { nowMs } = await store.dispatch(OUTAGE);
      await store.dispatch(OUTAGE);
      t.same(
        (await store.queue()).map(({ due }) => due),
        isSent ? [due] : [],
      );
      t.equal((await flightOf(store, 'a'))?.dueMs ?? null, isSent ? due : null);
      t.equal((await store.score('a'))?.atMs ?? null, isSent ? null : nowMs + 60_000);
      t.equal((await store.counts()).misfired ?? 0, isSent ? 0 : 1);
      t.same(await brokenLaws(store.redis, 'rb', 1), []);
    },
  );
}

t.test(
  'more missed occurrences than one call looks at are judged by the next ones, and none is left out',
  async (t) => {
    const now = await (await open()).now();
    const dues = Array.from({ length: 700 }, (_, i) => now - 60_000 + i * 10);
    const calendar = { untilMs: null, values: dues };
    for (const policy of ['all', 'latest'] as const) {
      for (const jitterMs of [0, 1]) {
        const store = await open();
        const ids = ['a', 'b'];
        await store.put(...ids.map((id) => ({ id, calendar, jitterMs, misfire: { policy, graceMs: null } })));
        for (const id of ids) await store.redis.zadd(store.keys.due, dues[0]!, id);
        await drain(store);
        const queue = await store.queue();
        for (const id of ids) {
          const sent = queue.filter(({ schedule }) => schedule === id).map(({ due }) => due);
          t.same(sent, policy === 'all' ? dues : dues.slice(-1));
        }
        t.equal((await store.counts()).misfired ?? 0, policy === 'all' ? 0 : 2 * 699);
        t.same(await brokenLaws(store.redis, 'rb', 1), []);
      }
    }
  },
);

t.test('a calendar that is not known up to now is judged in pieces, and still sends the latest', async (t) => {
  const store = await open();
  const now = await store.now();
  const dues = Array.from({ length: 6 }, (_, i) => now - 60_000 + i * 10_000);
  const known = { untilMs: dues[2]!, values: dues.slice(0, 3), refillAtMs: 1 };
  await store.put({ id: 'a', calendar: known });
  await store.redis.zadd(store.keys.due, dues[0]!, 'a');
  t.same(await drain(store), []);
  const { redis, names, keys } = store;
  const [number = ''] = await redis.hkeys(keys.times);
  const more = encodeTimes({ untilMs: now + 60_000, values: [...dues.slice(3), now + 30_000] });
  const refill = { number, readUntil: encodeTimes(known).slice(0, 15), more, refillAtMs: 8e15 };
  await refillTimes(redis, names, keys, EPOCH, [refill]);
  t.same(await drain(store), [dues[5]]);
  t.equal((await store.counts()).misfired, 5);
  t.equal((await store.score('a'))?.atMs, now + 30_000);
});

t.test('from call to call missed runs go in due order over all shards', async (t) => {
  const store = await open();
  const now = await store.now();
  const others = [1, 2].map((shard) => shardKeys('rb', shard));
  const all = [store.keys, ...others];
  for (const [shard, keys] of all.entries()) {
    const entries = [0, 1, 2, 3].map((i) => entry({ id: `s${shard}-${i}`, at: now - 30_000 + i * 100 - shard * 10 }));
    await putSchedules(store.redis, store.names, keys, { epoch: EPOCH, namespace: 'rb', shard, entries });
  }
  // All are found to be missed first.
  await store.dispatch({ ...OUTAGE, shards: all });
  const dues = await drain(store, { ...OUTAGE, shards: all, limit: 1 });
  t.equal(dues.length, 12);
  t.same(
    dues,
    [...dues].sort((a, b) => a - b),
  );
});

for (const missedFirst of [true, false]) {
  t.test(`missed runs go ${missedFirst ? 'before' : 'behind'} current ones`, async (t) => {
    const store = await open();
    const now = await store.now();
    await store.put({ id: 'missed', at: now - 30_000 });
    await store.dispatch(OUTAGE);
    await store.put({ id: 'current', at: now });
    t.match(await store.dispatch({ ...OUTAGE, missedFirst }), { sent: 2 });
    const order = (await store.queue()).map(({ schedule }) => schedule);
    t.same(order, missedFirst ? ['missed', 'current'] : ['current', 'missed']);
  });
}

t.test('several nodes together send no more missed runs than the rate allows', async (t) => {
  const store = await open();
  const other = store.redis.duplicate();
  t.teardown(() => other.disconnect());
  const now = await store.now();
  await store.put(...Array.from({ length: 400 }, (_, i) => ({ id: `s${i}`, at: now - 60_000 + i })));
  const request = { ...OUTAGE, recoveryRate: 100 };
  const startedAt = await store.now();
  let { sent } = await store.dispatch(request);
  await until(
    async () => {
      const replies = await Promise.all([store.dispatch(request), store.dispatch({ ...request, missedFirst: true })]);
      sent += replies.reduce((sum, reply) => sum + reply.sent, 0);
      const { nowMs, nextDueMs } = replies[0];
      // A tenth of a second's worth may come at once.
      t.ok(sent <= 10 + ((replies[1].nowMs - startedAt) * 100) / 1_000 + 1, `${sent} within ${nowMs - startedAt} ms`);
      if (replies[0].sent === 0) t.ok(nextDueMs === 'soon' || nextDueMs! <= nowMs + 10, 'a node knows when to go on');
      return sent >= 60;
    },
    'some were sent',
    { everyMs: 5 },
  );
  t.same(
    (await store.queue()).map(({ due }) => due - now),
    Array.from({ length: sent }, (_, i) => i - 60_000),
    'the oldest first',
  );
  t.match(await store.dispatch({ ...OUTAGE, limit: 1_000 }), { sent: 400 - sent }, 'without a rate as fast as it goes');
});

t.test('missed runs that come one by one are held to the rate as well', async (t) => {
  const store = await open();
  const request = { ...OUTAGE, recoveryRate: 1 };
  let sent = 0;
  const startedAt = await store.now();
  for (let i = 0; i < 5; i++) {
    await store.put({ id: `s${i}`, at: startedAt - 30_000 });
    for (let call = 0; call < 3; call++) sent += (await store.dispatch(request)).sent;
  }
  t.ok(sent <= 1 + ((await store.now()) - startedAt) / 1_000, `${sent}`);
});

t.test('when nothing is missed any more no shard is told to have any, and the bucket goes by itself', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const now = await store.now();
  await store.put({ id: 'a', at: now - 30_000 }, { id: 'b', at: now - 30_000 });
  t.match(await store.dispatch({ ...OUTAGE, recoveryRate: 1 }), { sent: 1 }, 'at once, while the bucket allows it');
  t.equal(await redis.hget(names.recovery, keys.prefix), '1');
  t.equal(await redis.pttl(names.recovery), -1);
  await deleteSchedules(redis, names, keys, EPOCH, ['a', 'b']);
  await until(async () => {
    t.match(await store.dispatch({ ...OUTAGE, recoveryRate: 100 }), { sent: 0 });
    return (await redis.exists(names.recovery)) === 0;
  }, 'the bucket is gone');
  t.match(await store.dispatch({ ...OUTAGE, recoveryRate: 100 }), { sent: 0, nextDueMs: null });
});

t.test('one that is due again while missed runs of it wait loses none of them', async (t) => {
  for (const missedFirst of [true, false]) {
    const store = await open();
    const oldest = (await store.now()) - 35_000;
    const request = { ...OUTAGE, recoveryRate: 1_000, missedFirst };
    await store.putDue({ id: 'a', dueMs: oldest, misfire: { policy: 'all', graceMs: null } });
    await store.dispatch(request);
    // As if it had not been looked at for another 30 s: three more were missed.
    const score = (await store.score('a'))!.atMs;
    await store.redis.zadd(store.keys.due, 'XX', oldest + 40_000 - 30_000, 'a');
    t.equal(score, oldest + 40_000);
    const dues = await drain(store, request);
    t.same(
      [...new Set(dues)].sort(),
      [0, 1, 2, 3].map((run) => oldest + run * 10_000),
    );
    t.equal((await store.counts()).misfired ?? 0, 0);
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  }
});

t.test('with latest a newer missed run takes the place of one that still waits', async (t) => {
  const store = await open();
  const oldest = (await store.now()) - 35_000;
  // No token, so that it waits.
  await store.redis.hset(store.names.recovery, 'tokens', 0, 'at', oldest + 135_000);
  const request = { ...OUTAGE, recoveryRate: 1 };
  await store.putDue({ id: 'a', dueMs: oldest });
  await store.dispatch(request);
  t.equal(Number(await store.redis.zscore(store.keys.missed, 'a')), oldest + 30_000);
  t.equal((await store.counts()).misfired, 3);
  await store.redis.zadd(store.keys.due, 'XX', oldest + 20_000, 'a');
  await store.dispatch(request);
  t.equal(Number(await store.redis.zscore(store.keys.missed, 'a')), oldest + 30_000);
  t.equal((await store.counts()).misfired, 5, 'one that was missed before, and the one that waited');
  t.same(await drain(store), [oldest + 30_000]);
});

t.test('a schedule that falls further and further behind is kept as one range', async (t) => {
  const store = await open();
  const oldest = (await store.now()) - 35_000;
  await store.redis.hset(store.names.recovery, 'tokens', 0, 'at', oldest + 135_000);
  const request = { ...OUTAGE, recoveryRate: 1 };
  const misfire = { policy: 'all', graceMs: null } as const;
  await store.putDue({ id: 'a', dueMs: oldest, misfire, endMs: oldest + 15_000 });
  await store.dispatch(request);
  const fields = (await store.redis.hget(store.keys.definitions, 'a'))!.split('\x1f');
  await store.redis.hset(store.keys.definitions, 'a', fields.with(3, '').join('\x1f'));
  await store.redis.zadd(store.keys.due, oldest + 20_000, 'a');
  await store.dispatch(request);
  t.equal(await store.redis.hget(store.keys.missedRanges, 'a'), `${oldest}-${oldest + 30_000}`);
  t.same(
    await drain(store),
    [0, 1, 2, 3].map((run) => oldest + run * 10_000),
  );
});

t.test('missed runs that are paused, re-timed, ended or deleted are not sent', async (t) => {
  const ways: readonly (readonly [string, (store: Store, due: number) => Promise<unknown>])[] = [
    [
      'paused',
      ({ redis, names, keys }) =>
        setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled: false, ids: ['a'] }),
    ],
    ['re-timed', (store) => store.put({ id: 'a', every: 3_600_000, phase: 5 })],
    [
      'ended',
      (store, due) => store.put({ id: 'a', every: 10_000, phase: due % 10_000, misfire: ALL, endMs: due - 40_000 }),
    ],
    ['deleted', ({ redis, names, keys }) => deleteSchedules(redis, names, keys, EPOCH, ['a'])],
  ];
  for (const [title, change] of ways) {
    const store = await open();
    const due = (await store.now()) - 5_000;
    await store.putDue({ id: 'a', dueMs: due - 30_000, misfire: ALL });
    t.match(await store.dispatch(OUTAGE), { sent: 0 });
    await change(store, due);
    t.same(await drain(store), [], title);
    t.equal(await store.redis.exists(store.keys.missed, store.keys.missedRanges), 0, title);
    t.same(await brokenLaws(store.redis, 'rb', 1), [], title);
  }
});

const ALL = { policy: 'all', graceMs: null } as const;

t.test('an edit that keeps the timing keeps what was missed, and sends it as it is now', async (t) => {
  const store = await open();
  const due = (await store.now()) - 35_000;
  await store.putDue({ id: 'a', dueMs: due, misfire: ALL });
  await store.dispatch(OUTAGE);
  await store.put({ id: 'a', phase: due % 10_000, misfire: ALL, args: ['new'] });
  t.equal((await drain(store)).length, 4);
  for (const { body } of await store.queue()) t.same(body[0], ['new']);
});

t.test('a missed run that expires while it waits is dropped and counted', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', at: now - 5_000, expires: { atMs: now + 1_000 } });
  t.match(await store.dispatch(OUTAGE), { sent: 0, misfired: 0 });
  await store.passes(now + 1_000);
  t.match(await store.dispatch(OUTAGE), { sent: 0, misfired: 1 });
  t.ok(await store.redis.zscore(store.keys.completed, 'a'));
  t.equal(await store.redis.hget(store.keys.dropped, 'a'), '1');
});

t.test('at the queue cap missed runs of grids are refused, those of one-shots and loops are held', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.redis.lpush('celery', 'in the way');
  await store.putDue({ id: 'every', dueMs: now - 5_000 });
  await store.put({ id: 'once', at: now - 5_000 }, { id: 'loop', after: 60_000 });
  await store.redis.zadd(store.keys.due, now - 5_000, 'loop');
  for (let call = 0; call < 2; call++) await store.dispatch({ ...OUTAGE, queueCap: 1 });
  t.match(await store.counts(), { refused: 1 });
  t.equal(await store.redis.exists(store.keys.missed), 0);
  await store.redis.del('celery');
  for (const id of ['once', 'loop']) {
    const held = Number(await store.redis.zscore(store.keys.due, id));
    await store.redis.zadd(store.keys.due, held - 2_000, id);
  }
  t.match(await store.dispatch(OUTAGE), { sent: 2, misfired: 0 }, 'not judged again');
  t.same(
    (await store.queue()).map(({ due }) => due),
    [now - 5_000, now - 5_000],
  );
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('with overlap skip only the first of the missed runs is sent, with buffer_one one more', async (t) => {
  for (const [overlap, sent] of [
    ['skip', [0]],
    ['buffer_one', [0, 1]],
  ] as const) {
    const store = await open();
    const due = (await store.now()) - 35_000;
    await store.putDue({ id: 'a', dueMs: due, misfire: ALL, overlap });
    await drain(store);
    const taken = await runAll(store);
    await store.dispatch(OUTAGE);
    taken.push(...(await runAll(store)));
    t.same(
      taken.map((message) => (message.due - due) / 10_000),
      sent,
    );
    t.equal((await store.counts()).skipped, 4 - sent.length);
  }
});

t.test('max_runs counts missed runs that are sent, and no more are', async (t) => {
  const store = await open();
  const due = (await store.now()) - 35_000;
  await store.putDue({ id: 'a', dueMs: due, misfire: ALL, maxRuns: 2 });
  t.same(await drain(store), [due, due + 10_000]);
  t.equal(await store.redis.hget(store.keys.runs, 'a'), '2');
  t.equal(await store.score('a'), null, 'completed');
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('a schedule of which missed and extra runs wait sends each once', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const due = (await store.now()) - 35_000;
  await store.putDue({ id: 'a', dueMs: due, misfire: ALL });
  await store.dispatch(OUTAGE);
  await backfill(redis, names, keys, { epoch: EPOCH, shard: 0, id: 'a', duesMs: [5, 6], requestId: 'r' });
  await drain(store);
  t.same(
    (await store.queue()).map(({ due }) => due).sort(),
    [5, 6, ...[0, 1, 2, 3].map((run) => due + run * 10_000)].sort(),
  );
});
