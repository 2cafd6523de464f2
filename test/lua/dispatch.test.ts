import t from 'tap';
import { dispatch } from '../../lua/dispatch.ts';
import { queueList, shardKeys } from '../../lua/keys.ts';
import { upperBoundMs } from '../../lua/lateness.ts';
import { putSchedules } from '../../lua/put-schedules.ts';
import { EPOCH, entry, type ScheduleParts, storeFactory } from './store.ts';

const open = await storeFactory(t);

t.test('what is due goes to its queue, oldest first, and is due again one interval later', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.putDue({ id: 'b', dueMs: now - 20 });
  await store.putDue({ id: 'a', dueMs: now - 30 });
  await store.putDue({ id: 'c', every: 7_000, dueMs: now - 10 });
  await store.put({ id: 'later', every: 3_600_000, phase: (now - 1) % 3_600_000 });
  const reply = await store.dispatch();
  t.match(reply, { sent: 3, isMoreDue: false, nextDueMs: 'soon', misfired: 0, refused: 0 });
  t.same(
    (await store.queue()).map(({ schedule, due }) => [schedule, due]),
    [
      ['a', now - 30],
      ['b', now - 20],
      ['c', now - 10],
    ],
  );
  t.equal((await store.score('a'))?.atMs, now - 30 + 10_000);
  t.equal((await store.score('c'))?.atMs, now - 10 + 7_000);
  t.same(await store.counts(), { dispatched: 3, templates: 1 });
});

t.test('a second call sends nothing again and changes nothing', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.putDue({ id: 'a', dueMs: now - 30 });
  await store.put({ id: 'once', at: now - 10 });
  t.match(await store.dispatch(), { sent: 2 });
  const after = await store.snapshot();
  t.match(await store.dispatch(), { sent: 0, nextDueMs: now - 30 + 10_000 });
  t.same(await store.snapshot(), after);
});

t.test('the reply says when the next entry is due, in ms of Redis time, or that nothing waits', async (t) => {
  const store = await open();
  t.match(await store.dispatch(), { sent: 0, nextDueMs: null });
  const now = await store.now();
  await store.put({ id: 'once', at: now + 60_000 }, { id: 'sooner', at: now + 30_000 });
  t.match(await store.dispatch(), { sent: 0, nextDueMs: now + 30_000 });
  await store.redis.zadd(store.keys.extra, now + 20_000, 'parked');
  t.match(await store.dispatch(), { sent: 0, nextDueMs: now + 20_000 });
});

t.test('latenesses are reported in ms and kept with the schedule and in the histogram', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.putDue({ id: 'a', every: 100_000, dueMs: now - 40 });
  const { latenesses, nowMs } = await store.dispatch();
  const lateness = nowMs - (now - 40);
  t.same(latenesses, [[lateness, 1]]);
  t.same(await store.score('a'), { atMs: now - 40 + 100_000, latenessMs: lateness });
  const histogram = await store.redis.getBuffer(store.keys.lateness);
  const counter = Array.from({ length: 512 }, (_, i) => i).find((i) => upperBoundMs(i) >= lateness)!;
  t.equal(histogram?.readUInt32BE(4 * counter), 1);
});

const AGES: readonly (readonly [string, number])[] = [
  ['the fraction of the score', 500],
  ['the hash `last`, because the fraction is too small for it', 60_000],
];
for (const [where, age] of AGES) {
  t.test(`the lateness of the last run is told by ${where}`, async (t) => {
    const store = await open();
    const dueMs = (await store.now()) - age;
    await store.putDue({ id: 'a', every: 100_000, dueMs });
    const { nowMs } = await store.dispatch();
    const score = await store.score('a');
    const told = await store.redis.hget(store.keys.last, 'a');
    if (age > 2_046) {
      t.equal(score?.latenessMs, Infinity);
      t.equal(told, `${dueMs}:${nowMs - dueMs}`);
    } else {
      t.equal(score?.latenessMs, nowMs - dueMs);
      t.equal(told, null);
    }
  });
}

interface Misfire {
  readonly title: string;
  readonly misfire: NonNullable<ScheduleParts['misfire']>;
  /** How far the end lies ahead of the oldest missed run, ms. */
  readonly endAfter?: number;
  /** The runs sent, counted from the oldest missed one, in as many calls as it takes. */
  readonly sent: readonly number[];
  readonly misfired: number;
  /** The next run; null when there is none. */
  readonly next: number | null;
}

// Every 10 s, the oldest undispatched run 35 s ago: the runs 0 to 3 are missed, 4 is to come.
const MISFIRES: readonly Misfire[] = [
  { title: 'latest sends the last', misfire: { policy: 'latest', graceMs: null }, sent: [3], misfired: 3, next: 4 },
  { title: 'all sends each', misfire: { policy: 'all', graceMs: null }, sent: [0, 1, 2, 3], misfired: 0, next: 4 },
  { title: 'skip sends none', misfire: { policy: 'skip', graceMs: null }, sent: [], misfired: 4, next: 4 },
  {
    title: 'all within its grace sends the younger ones',
    misfire: { policy: 'all', graceMs: 20_000 },
    sent: [2, 3],
    misfired: 2,
    next: 4,
  },
  {
    title: 'latest within its grace sends the last',
    misfire: { policy: 'latest', graceMs: 20_000 },
    sent: [3],
    misfired: 3,
    next: 4,
  },
  {
    title: 'latest sends none that is older than its grace',
    misfire: { policy: 'latest', graceMs: 1_000 },
    sent: [],
    misfired: 4,
    next: 4,
  },
  {
    title: 'all sends none that is older than its grace',
    misfire: { policy: 'all', graceMs: 0 },
    sent: [],
    misfired: 4,
    next: 4,
  },
  {
    title: 'latest sends the last before the end',
    misfire: { policy: 'latest', graceMs: null },
    endAfter: 20_000,
    sent: [1],
    misfired: 1,
    next: null,
  },
  {
    title: 'all sends each before the end',
    misfire: { policy: 'all', graceMs: null },
    endAfter: 20_001,
    sent: [0, 1, 2],
    misfired: 0,
    next: null,
  },
  {
    title: 'skip counts only what was before the end',
    misfire: { policy: 'skip', graceMs: null },
    endAfter: 15_000,
    sent: [],
    misfired: 2,
    next: null,
  },
  {
    title: 'an end that is still ahead drops nothing',
    misfire: { policy: 'latest', graceMs: null },
    endAfter: 45_000,
    sent: [3],
    misfired: 3,
    next: 4,
  },
];
for (const { title, misfire, endAfter, sent, misfired, next } of MISFIRES) {
  t.test(`of missed runs, ${title}`, async (t) => {
    const store = await open();
    const oldest = (await store.now()) - 35_000;
    await store.putDue({ id: 'a', dueMs: oldest, misfire, endMs: endAfter === undefined ? null : oldest + endAfter });
    let reported = 0;
    for (let call = 0; call < 5; call++) reported += (await store.dispatch({ misfireThresholdMs: 1_000 })).misfired;
    t.same(
      (await store.queue()).map(({ due }) => due),
      sent.map((run) => oldest + run * 10_000),
    );
    t.equal(reported, misfired);
    t.equal((await store.counts()).misfired ?? 0, misfired);
    t.equal((await store.score('a'))?.atMs ?? null, next === null ? null : oldest + next * 10_000);
  });
}

t.test('until the oldest is older than the threshold all are merely late, and all are sent', async (t) => {
  const store = await open();
  const oldest = (await store.now()) - 35_000;
  for (const policy of ['latest', 'skip'] as const)
    await store.putDue({ id: policy, dueMs: oldest, misfire: { policy, graceMs: 0 } });
  for (let call = 0; call < 5; call++) await store.dispatch({ misfireThresholdMs: 3_600_000 });
  const queue = await store.queue();
  for (const policy of ['latest', 'skip'])
    t.same(
      queue.filter(({ schedule }) => schedule === policy).map(({ due }) => due - oldest),
      [0, 10_000, 20_000, 30_000],
    );
});

const LATE_ONCE: readonly (readonly [string, NonNullable<ScheduleParts['misfire']>, number])[] = [
  ['latest', { policy: 'latest', graceMs: null }, 1],
  ['all', { policy: 'all', graceMs: null }, 1],
  ['skip', { policy: 'skip', graceMs: null }, 0],
  ['latest within its grace', { policy: 'latest', graceMs: 60_000 }, 1],
  ['latest beyond its grace', { policy: 'latest', graceMs: 20_000 }, 0],
];
for (const [title, misfire, sent] of LATE_ONCE) {
  t.test(`a one-shot in the past is a missed run: ${title} sends ${sent}`, async (t) => {
    const store = await open();
    const at = (await store.now()) - 30_000;
    await store.put({ id: 'a', at, misfire });
    const judged = await store.dispatch({ misfireThresholdMs: 1_000 });
    t.match(judged, { sent: 0, misfired: 1 - sent });
    // What is missed is sent in its turn, by a later call.
    const reply = sent === 1 ? await store.dispatch({ misfireThresholdMs: 1_000 }) : judged;
    t.equal(reply.sent, sent);
    t.same(
      (await store.queue()).map(({ due }) => due),
      sent === 1 ? [at] : [],
    );
    t.equal(await store.score('a'), null);
    t.equal(Math.floor(Number(await store.redis.zscore(store.keys.completed, 'a'))), reply.nowMs);
  });
}

t.test('a one-shot that is a little late is sent whatever its policy', async (t) => {
  const store = await open();
  const at = (await store.now()) - 500;
  await store.put({ id: 'a', at, misfire: { policy: 'skip', graceMs: 0 } });
  t.match(await store.dispatch({ misfireThresholdMs: 60_000 }), { sent: 1, misfired: 0 });
});

t.test('the last run before the end is sent and the schedule is not due any more', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 10;
  await store.putDue({ id: 'a', dueMs, endMs: dueMs + 10_000 });
  t.match(await store.dispatch(), { sent: 1 });
  t.equal(await store.score('a'), null);
  t.match(await store.redis.hget(store.keys.last, 'a'), new RegExp(`^${dueMs}:\\d+$`), 'what it did last is kept');
});

const EXPIRIES: readonly {
  readonly title: string;
  readonly expires: (now: number) => NonNullable<ScheduleParts['expires']>;
  readonly isSent: boolean;
}[] = [
  { title: 'counts from the due time', expires: () => ({ afterMs: 60_000 }), isSent: true },
  { title: 'counted from the due time has passed', expires: () => ({ afterMs: 4_000 }), isSent: false },
  { title: 'is a time to come', expires: (now) => ({ atMs: now + 60_000 }), isSent: true },
  { title: 'is a time that has passed', expires: (now) => ({ atMs: now - 1 }), isSent: false },
];
for (const { title, expires, isSent } of EXPIRIES) {
  for (const kind of ['every', 'once'] as const) {
    t.test(`when the expiry ${title}, a run (${kind}) is ${isSent ? 'sent' : 'counted as misfired'}`, async (t) => {
      const store = await open();
      const now = await store.now();
      const dueMs = now - 5_000;
      if (kind === 'every') await store.putDue({ id: 'a', dueMs, every: 3_600_000, expires: expires(now) });
      else await store.put({ id: 'a', at: dueMs, expires: expires(now) });
      const reply = await store.dispatch();
      t.match(reply, { sent: isSent ? 1 : 0, misfired: isSent ? 0 : 1 });
      t.equal(await store.redis.llen('celery'), isSent ? 1 : 0);
      t.equal((await store.counts()).misfired ?? 0, isSent ? 0 : 1);
      t.equal((await store.score('a'))?.atMs ?? null, kind === 'every' ? dueMs + 3_600_000 : null);
      if (isSent) {
        const [message] = await store.queue();
        const wanted = expires(now);
        const expiresMs = 'atMs' in wanted ? wanted.atMs : dueMs + wanted.afterMs;
        t.equal(message?.properties.expiration, String(expiresMs - reply.nowMs));
      }
    });
  }
}

t.test('at the queue cap runs of an interval are refused and counted, and the schedule goes on', async (t) => {
  const store = await open();
  const now = await store.now();
  for (const [i, id] of ['a', 'b', 'c'].entries()) await store.putDue({ id, dueMs: now - 10 + i });
  const reply = await store.dispatch({ queueCap: 2 });
  t.match(reply, { sent: 2, refused: 1, misfired: 0 });
  t.same(
    (await store.queue()).map(({ schedule }) => schedule),
    ['a', 'b'],
  );
  t.equal((await store.score('c'))?.atMs, now - 8 + 10_000);
  t.match(await store.counts(), { refused: 1, 'refused:celery': 1, dispatched: 2 });
  t.match(await store.dispatch({ queueCap: 2 }), { sent: 0, refused: 0 });
});

t.test('the cap counts all priorities of a queue, and what lies in it already', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.redis.lpush(queueList('celery', 9), 'x', 'y');
  await store.redis.lpush('celery', 'z');
  await store.putDue({ id: 'a', dueMs: now - 2, priority: 3 });
  await store.putDue({ id: 'b', dueMs: now - 1, priority: 6 });
  t.match(await store.dispatch({ queueCap: 4 }), { sent: 1, refused: 1 });
  t.equal(await store.redis.llen(queueList('celery', 3)), 1);
});

t.test("a schedule's own cap goes before the namespace's", async (t) => {
  const store = await open();
  const now = await store.now();
  await store.putDue({ id: 'never', dueMs: now - 3, queueCap: 0 });
  await store.putDue({ id: 'tight', dueMs: now - 2, queueCap: 1 });
  await store.putDue({ id: 'tight too', dueMs: now - 1, queueCap: 1 });
  await store.putDue({ id: 'wide', dueMs: now, queueCap: 10 });
  t.match(await store.dispatch({ queueCap: 1 }), { sent: 2, refused: 2 });
  t.same(
    (await store.queue()).map(({ schedule }) => schedule),
    ['tight', 'wide'],
  );
});

t.test('after a refused run the last one that was sent is still told', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 10_500;
  await store.putDue({ id: 'a', dueMs });
  const { latenesses } = await store.dispatch({ limit: 1 });
  t.match(await store.dispatch({ queueCap: 1 }), { sent: 0, refused: 1 });
  t.same(await store.score('a'), { atMs: dueMs + 20_000, latenessMs: null });
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${dueMs}:${latenesses[0]?.[0]}`);
});

t.test('at the cap a one-shot is held: tried again a second later with the same due time and id', async (t) => {
  const store = await open();
  const at = (await store.now()) - 50;
  await store.redis.lpush('celery', 'in the way');
  await store.put({ id: 'a', at, misfire: { policy: 'skip', graceMs: 0 } });
  const held = await store.dispatch({ queueCap: 1, misfireThresholdMs: 1_000 });
  t.match(held, { sent: 0, refused: 0, misfired: 0 });
  t.equal((await store.score('a'))?.atMs, held.nowMs + 1_000);
  t.match(await store.dispatch({ queueCap: 1 }), { sent: 0, nextDueMs: held.nowMs + 1_000 });
  // However long it takes, it is not judged as missed: it was on time.
  await store.redis.zadd(store.keys.due, 'XX', held.nowMs - 5_000, 'a');
  const again = await store.dispatch({ queueCap: 1, misfireThresholdMs: 1_000 });
  t.match(again, { sent: 0, refused: 0, misfired: 0 });
  await store.redis.zadd(store.keys.due, 'XX', again.nowMs, 'a');
  await store.redis.del('celery');
  t.match(await store.dispatch({ queueCap: 1, misfireThresholdMs: 1_000 }), { sent: 1, misfired: 0 });
  t.same(
    (await store.queue()).map(({ due, schedule, id }) => [schedule, due, Number.parseInt(id.slice(-12), 16)]),
    [['a', at, at]],
  );
  t.same(await store.counts(), { dispatched: 1, templates: 1 });
});

t.test('a held one-shot that expires meanwhile is not sent', async (t) => {
  const store = await open();
  const at = (await store.now()) - 50;
  await store.redis.lpush('celery', 'in the way');
  await store.put({ id: 'a', at, expires: { afterMs: 1_000 } });
  const { nowMs } = await store.dispatch({ queueCap: 1 });
  await store.redis.del('celery');
  await store.passes(at + 1_000);
  await store.redis.zadd(store.keys.due, 'XX', nowMs + 1, 'a');
  t.match(await store.dispatch({ queueCap: 1 }), { sent: 0, misfired: 1 });
  t.ok(await store.redis.zscore(store.keys.completed, 'a'));
});

t.test('a call moves at most its limit and says that more is due', async (t) => {
  const store = await open();
  const now = await store.now();
  for (let i = 0; i < 25; i++) await store.putDue({ id: `s${i}`, every: 60_000, dueMs: now - 25 + i });
  const sent: number[] = [];
  for (let reply = await store.dispatch({ limit: 10 }); ; reply = await store.dispatch({ limit: 10 })) {
    sent.push(reply.sent);
    if (!reply.isMoreDue) break;
  }
  t.same(sent, [10, 10, 5]);
  t.same(
    (await store.queue()).map(({ schedule }) => schedule),
    Array.from({ length: 25 }, (_, i) => `s${i}`),
  );
});

t.test('a call pushes at most 1 MiB, but always at least one message', async (t) => {
  const store = await open();
  const now = await store.now();
  const big = 'x'.repeat(300_000);
  for (let i = 0; i < 5; i++) await store.putDue({ id: `s${i}`, every: 60_000, dueMs: now - 5 + i, args: [big] });
  const first = await store.dispatch();
  t.ok(first.sent >= 2 && first.sent < 5, `${first.sent} of 400 kB each`);
  t.equal(first.isMoreDue, true);
  let sent = first.sent;
  while (sent < 5) {
    const reply = await store.dispatch();
    t.ok(reply.sent >= 1);
    sent += reply.sent;
  }
  await store.redis.del('celery');
  const huge = 'x'.repeat(1_200_000);
  for (let i = 0; i < 2; i++) await store.putDue({ id: `h${i}`, every: 60_000, dueMs: now - 5 + i, args: [huge] });
  t.match(await store.dispatch(), { sent: 1, isMoreDue: true });
  t.match(await store.dispatch(), { sent: 1, isMoreDue: false });
  t.same(
    (await store.queue()).map(({ schedule }) => schedule),
    ['h0', 'h1'],
  );
});

t.test('several shards go into one call, each with its own keys', async (t) => {
  const store = await open();
  const now = await store.now();
  const others = [1, 2].map((shard) => shardKeys('rb', shard));
  await store.putDue({ id: 'a', dueMs: now - 10 });
  for (const [i, keys] of others.entries()) {
    await putSchedules(store.redis, store.names, keys, {
      epoch: EPOCH,
      namespace: 'rb',
      shard: i + 1,
      entries: [entry({ id: `b${i}`, task: `other${i}`, at: now - 20 + i })],
    });
  }
  t.match(await store.dispatch({ shards: [store.keys, ...others] }), { sent: 3 });
  t.same((await store.queue()).map(({ schedule, headers }) => [schedule, headers.task]).sort(), [
    ['a', 'monitor.check'],
    ['b0', 'other0'],
    ['b1', 'other1'],
  ]);
  for (const keys of others) t.equal(await store.redis.exists(keys.due), 0);
});

t.test('a helper leaves a shard alone until its head is overdue by the grace time', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 100;
  await store.putDue({ id: 'a', dueMs });
  const before = await store.snapshot();
  t.match(await store.dispatch({ graceMs: 60_000 }), { sent: 0, nextDueMs: dueMs });
  t.same(await store.snapshot(), before);
  await store.putDue({ id: 'b', dueMs: dueMs + 50 });
  t.match(await store.dispatch({ graceMs: 100 }), { sent: 2 }, 'then it takes all that is due');
});

t.test('parked messages go back to their lists as they were, oldest first', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.park('t2', 'celery', '{"second": "\x1f é"}', now - 10);
  await store.park('t1', 'celery', '{"first": 1}', now - 20);
  await store.park('t3', queueList('celery', 6), '{"urgent": 6}', now - 5);
  await store.park('t4', 'celery', '{"later": 1}', now + 60_000);
  t.match(await store.dispatch(), { sent: 3, latenesses: [] });
  t.same(await store.redis.lrange('celery', 0, -1), ['{"second": "\x1f é"}', '{"first": 1}']);
  t.same(await store.redis.lrange(queueList('celery', 6), 0, -1), ['{"urgent": 6}']);
  t.same(await store.redis.zrange(store.keys.extra, '0', '-1'), ['t4']);
  t.same(await store.redis.hkeys(store.keys.parked), ['t4']);
  t.same(await store.counts(), { unparked: 3 });
  t.match(await store.dispatch(), { sent: 0, nextDueMs: now + 60_000 });
});

t.test('at the cap a parked message is held', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.redis.lpush(queueList('celery', 3), 'in the way');
  await store.park('t1', 'celery', '{}', now - 1);
  const parked = await store.redis.hget(store.keys.parked, 't1');
  const { nowMs, sent } = await store.dispatch({ queueCap: 1 });
  t.equal(sent, 0);
  t.equal(Number(await store.redis.zscore(store.keys.extra, 't1')), nowMs + 1_000);
  t.equal(await store.redis.hget(store.keys.parked, 't1'), parked);
});

t.test(
  'schedules and parked messages share the limit of a call, and neither waits for all of the others',
  async (t) => {
    const store = await open();
    const now = await store.now();
    for (let i = 0; i < 8; i++) {
      await store.putDue({ id: `s${i}`, every: 60_000, dueMs: now - 5 });
      await store.park(`t${i}`, 'celery', '{}', now - 1);
    }
    const first = await store.dispatch({ limit: 4 });
    t.match(first, { sent: 4, isMoreDue: true });
    t.equal(
      first.latenesses.reduce((sum, [, runs]) => sum + runs, 0),
      3,
      'three of them schedules',
    );
    let { sent } = first;
    for (let isMoreDue = true; isMoreDue; ) {
      const reply = await store.dispatch({ limit: 4 });
      t.ok(reply.sent <= 4);
      sent += reply.sent;
      isMoreDue = reply.isMoreDue;
    }
    t.equal(sent, 16, 'all, without a pause');
    t.equal(await store.redis.llen('celery'), 16);
  },
);

t.test('in a namespace that is gone, or another of that name, nothing is written', async (t) => {
  const store = await open();
  await store.putDue({ id: 'a', dueMs: (await store.now()) - 10 });
  const before = await store.snapshot();
  const request = {
    limit: 10,
    graceMs: 0,
    misfireThresholdMs: 1_000,
    queueCap: 10,
    recoveryRate: 0,
    missedFirst: false,
    shards: [store.keys],
  };
  await t.rejects(dispatch(store.redis, store.names, { ...request, epoch: 'another' }), {
    code: 'NAMESPACE_GONE',
    values: { namespace: 'rb' },
  });
  t.same(await store.snapshot(), before);
});

t.test('while memory is full a call is refused whole, and everything stays due', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.putDue({ id: 'a', dueMs: now - 10 });
  await store.put({ id: 'once', at: now - 5 });
  await store.park('t1', 'celery', '{}', now - 1);
  const before = await store.snapshot();
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    await t.rejects(store.dispatch(), { message: /OOM/ });
    t.same(await store.snapshot(), before);
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
  t.match(await store.dispatch(), { sent: 3 });
});
