import t from 'tap';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { refillTimes } from '../../lua/refill-times.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { decodeTimes, encodeTimes, type Times } from '../../lua/times.ts';
import { jittered } from '../../schedule/jitter.ts';
import { brokenLaws } from './laws.ts';
import { EPOCH, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const MINUTE = 60_000;

/** The number of the only calendar or exclusion of the shard. */
async function onlyNumber({ redis, keys }: Store): Promise<string> {
  const [number = ''] = await redis.hkeys(keys.times);
  return number;
}

async function refill(store: Store, more: Times, readUntil?: number): Promise<unknown> {
  const { redis, names, keys } = store;
  const number = await onlyNumber(store);
  const known = (await redis.hget(keys.times, number))!;
  const until = readUntil === undefined ? known.slice(0, 15) : String(readUntil).padStart(15, '0');
  const refills = [{ number, readUntil: until, more: encodeTimes(more), refillAtMs: 8e15 }];
  return refillTimes(redis, names, keys, EPOCH, refills);
}

t.test('a calendar first runs at its next occurrence, and then at the one behind it', async (t) => {
  const store = await open();
  const now = await store.now();
  const [past, soon, later] = [now - 5_000, now + 1_000, now + MINUTE];
  await store.put({ id: 'a', calendar: { untilMs: now + MINUTE, values: [past, soon, later] } });
  t.equal((await store.score('a'))?.atMs, soon);
  await store.passes(soon);
  t.match(await store.dispatch(), { sent: 1 });
  t.equal((await store.queue())[0]?.due, soon);
  t.equal((await store.score('a'))?.atMs, later);
  t.match(await store.redis.hget(store.keys.last, 'a'), new RegExp(`^${soon}:\\d+$`));
});

t.test('an occurrence at the moment of registration is not passed over', async (t) => {
  const store = await open();
  const now = await store.now();
  const values = Array.from({ length: 2_000 }, (_, i) => now + i);
  await store.put({ id: 'a', calendar: { untilMs: now + 2_000, values } });
  const due = (await store.score('a'))!.atMs;
  t.ok(due >= now && due <= (await store.now()));
});

t.test('where a calendar is not computed far enough its schedules wait, and are due once it is', async (t) => {
  const store = await open();
  const now = await store.now();
  const due = now + 1_000;
  await store.put({ id: 'a', calendar: { untilMs: due, values: [due], refillAtMs: due } });
  await store.passes(due);
  t.match(await store.dispatch(), { sent: 1 });
  t.equal(await store.score('a'), null);
  t.equal(Number(await store.redis.zscore(store.keys.claims, 'a')), due);
  const found = { found: 1, earliestMs: now + MINUTE, waiting: 0 };
  t.same(await refill(store, { untilMs: now + 2 * MINUTE, values: [now + MINUTE] }), found);
  t.equal((await store.score('a'))?.atMs, now + MINUTE);
  t.equal(await store.redis.exists(store.keys.claims), 0);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('an occurrence that passed while its calendar ran dry is sent late, not lost', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', calendar: { untilMs: now - 100, values: [] } });
  t.equal(await store.score('a'), null);
  const missed = await store.now();
  await store.passes(missed);
  t.match(await refill(store, { untilMs: now + MINUTE, values: [missed, now + 30_000] }), {
    found: 1,
    earliestMs: missed,
  });
  t.match(await store.dispatch(), { sent: 1 });
  t.equal((await store.queue())[0]?.due, missed);
});

t.test('of several who compute a calendar further one does', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', calendar: { untilMs: now + 10, values: [now + 5] } });
  const more = { untilMs: now + MINUTE, values: [now + 1_000] };
  await refill(store, more);
  const before = await store.snapshot();
  await refill(store, more, now + 10);
  t.same(await store.snapshot(), before);
});

t.test('what lies before all that waits is dropped from a calendar as it is computed further', async (t) => {
  const store = await open();
  const now = await store.now();
  const values = Array.from({ length: 100 }, (_, i) => now - 10_000 + i);
  await store.put({ id: 'a', calendar: { untilMs: now + 10, values } });
  await refill(store, { untilMs: now + MINUTE, values: [now + 1_000] });
  const times = decodeTimes((await store.redis.hget(store.keys.times, await onlyNumber(store)))!);
  t.same(
    times,
    { untilMs: now + MINUTE, values: [values.at(-1), now + 1_000] },
    'one is kept: its jitter may reach further',
  );
});

t.test('a calendar that ends completes its schedules, and is not computed any more', async (t) => {
  const store = await open();
  const now = await store.now();
  const due = now + 1_000;
  await store.put({ id: 'a', calendar: { untilMs: due, values: [due], refillAtMs: due } });
  await store.passes(due);
  await store.dispatch();
  t.same(await refill(store, { untilMs: null, values: [] }), { found: 0, earliestMs: null, waiting: 0 });
  t.equal(await store.score('a'), null);
  t.equal(await store.redis.exists(store.keys.claims, store.keys.refills), 0);
  t.same(await store.put({ id: 'a', calendar: { untilMs: due, values: [due] } }), ['unchanged']);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('equal calendars are stored and computed once, and go with the last schedule that has one', async (t) => {
  const store = await open();
  const now = await store.now();
  const calendar = { untilMs: now + MINUTE, values: [now + 30_000], refillAtMs: now + 15_000 };
  for (let from = 0; from < 3_000; from += 500)
    await store.put(...Array.from({ length: 500 }, (_, i) => ({ id: `s${from + i}`, calendar })));
  t.equal(await store.redis.hlen(store.keys.times), 1);
  t.equal(await store.redis.zcard(store.keys.refills), 1);
  t.equal(await store.redis.hlen(store.keys.templates), 2);
  t.equal(await store.redis.zcount(store.keys.due, now + 30_000, now + 30_000), 3_000);
  const ids = Array.from({ length: 3_000 }, (_, i) => `s${i}`);
  for (let from = 0; from < 3_000; from += 500)
    await deleteSchedules(store.redis, store.names, store.keys, EPOCH, ids.slice(from, from + 500));
  t.same((await store.redis.keys('rb:*')).sort(), [store.names.meta, store.keys.counts].sort());
});

t.test('a refill of a calendar that is gone leaves nothing of it', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  await redis.hset(keys.times, '7', encodeTimes({ untilMs: 5, values: [] }));
  await redis.zadd(keys.refills, 5, '7');
  await refillTimes(redis, names, keys, EPOCH, [{ number: '7', readUntil: '', more: '', refillAtMs: 9 }]);
  t.equal(await redis.exists(keys.times, keys.refills), 0);
});

t.test('another calendar is a new grid, the same one keeps its next run whatever was computed meanwhile', async (t) => {
  const store = await open();
  const now = await store.now();
  const one = { name: 'one', untilMs: now + MINUTE, values: [now + 30_000] };
  await store.put({ id: 'a', calendar: one });
  t.same(await store.put({ id: 'a', calendar: { ...one, values: [now + 20_000] } }), ['unchanged']);
  t.same(await store.put({ id: 'a', calendar: one, args: [1] }), ['updated']);
  t.equal((await store.score('a'))?.atMs, now + 30_000);
  t.same(await store.put({ id: 'a', calendar: { ...one, name: 'two', values: [now + 10_000] } }), ['updated']);
  t.equal((await store.score('a'))?.atMs, now + 10_000);
  t.equal(await store.redis.hlen(store.keys.times), 1);
});

t.test('while it waits for its calendar a schedule may be paused, resumed, edited and deleted', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const now = await store.now();
  const dry: ScheduleParts = { id: 'a', calendar: { untilMs: now - 1, values: [] } };
  await store.put(dry, { ...dry, id: 'b' });
  t.same(await redis.zrange(keys.claims, '0', '-1'), ['a', 'b']);
  t.same(await store.put({ ...dry, args: [1] }), ['updated']);
  for (const enabled of [false, true]) {
    await setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled, ids: ['a'] });
    t.same(await redis.zrange(keys.claims, '0', '-1'), enabled ? ['b', 'a'] : ['b']);
  }
  await deleteSchedules(redis, names, keys, EPOCH, ['b']);
  t.same(await redis.zrange(keys.claims, '0', '-1'), ['a']);
  await store.put({ id: 'a', every: 1_000 });
  t.equal(await redis.exists(keys.claims, keys.times), 0);
  t.ok(await store.score('a'));
});

t.test('resumed, a calendar goes on at its next occurrence; what passed meanwhile is not missed', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const now = await store.now();
  await store.put({ id: 'a', calendar: { untilMs: now + MINUTE, values: [now + 20, now + 30_000] } });
  await setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled: false, ids: ['a'] });
  await store.passes(now + 20);
  await setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled: true, ids: ['a'] });
  t.equal((await store.score('a'))?.atMs, now + 30_000);
});

t.test('an exclusion is passed over by intervals, whose grid stays', async (t) => {
  const store = await open();
  const now = await store.now();
  const base = Math.ceil(now / 1_000) * 1_000 + 10_000;
  const windows = { untilMs: base + MINUTE, values: [now - 5_000, base + 1, base + 5_000, base + 9_001] };
  await store.put({ id: 'a', every: 1_000, phase: 0, exclusion: windows });
  t.equal((await store.score('a'))?.atMs, base + 1_000, 'none from -5 s to 10.001 s');
  await store.redis.zadd(store.keys.due, 'XX', now - 2_000, 'a');
  const before = { ...windows, name: 'wider' };
  await store.put({ id: 'a', every: 1_000, phase: 0, exclusion: before });
  t.equal((await store.score('a'))?.atMs, base + 1_000, 'what is due and excluded since is passed over');
  await store.put({ id: 'a', every: 1_000, phase: 0 });
  t.equal(((await store.score('a'))!.atMs - base) % 1_000, 0);
  t.ok((await store.score('a'))!.atMs <= (await store.now()) + 1_000, 'and without it due at once again');
  t.equal(await store.redis.exists(store.keys.times), 0);
});

t.test('an exclusion of other times leaves the next run as it was', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  const score = await store.score('a');
  const exclusion = { untilMs: null, values: [5, 6] };
  t.same(await store.put({ id: 'a', every: 3_600_000, exclusion }), ['updated']);
  t.same(await store.score('a'), score);
  t.same(await store.put({ id: 'a', every: 3_600_000, exclusion }), ['unchanged']);
  t.same(await store.put({ id: 'a', every: 3_600_000 }), ['updated']);
  t.same(await store.score('a'), score);
});

t.test('what lies beyond what is known of an exclusion waits until it is', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', every: 1_000, phase: 0, exclusion: { untilMs: now - 1, values: [] } });
  t.equal(await store.score('a'), null);
  const next = Math.ceil((now + 1) / 1_000) * 1_000;
  t.match(await refill(store, { untilMs: now + MINUTE, values: [next - 500, next + 500] }), {
    found: 1,
    earliestMs: next + 1_000,
  });
  t.equal((await store.score('a'))?.atMs, next + 1_000);
});

t.test('schedules whose next run is far off keep no other one waiting for its calendar', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const now = await store.now();
  const unknown = { untilMs: now - 1, values: [] };
  for (const from of [0, 300]) {
    const ids = Array.from({ length: 300 }, (_, i) => `far${from + i}`);
    await store.put(
      ...ids.map((id) => ({ id, every: 1e9, phase: (now - 1) % 1e9, exclusion: { ...unknown, name: 'far' } })),
    );
  }
  await store.put({ id: 'near', every: 1_000, exclusion: { ...unknown, name: 'near' } });
  const near = (await redis.hget(keys.definitions, 'near'))!.match(/;x(\d+)/)![1]!;
  const known = (await redis.hget(keys.times, near))!.slice(0, 15);
  const more = encodeTimes({ untilMs: now + MINUTE, values: [] });
  const reply = await refillTimes(redis, names, keys, EPOCH, [
    { number: near, readUntil: known, more, refillAtMs: 8e15 },
  ]);
  t.match(reply, { found: 1, waiting: 600 });
  t.ok(await store.score('near'));
});

t.test('a calendar never grows without bound, however long ago something was due', async (t) => {
  const store = await open();
  const now = await store.now();
  const values = Array.from({ length: 25_000 }, (_, i) => now - 60_000 + i);
  await store.put({ id: 'a', calendar: { untilMs: now + 10, values } }, { id: 'old', at: 5 });
  await refill(store, { untilMs: now + MINUTE, values: [now + 30_000] });
  const times = decodeTimes((await store.redis.hget(store.keys.times, await onlyNumber(store)))!);
  t.same([times.values.length, times.values.at(-1)], [20_001, now + 30_000]);
});

t.test('a one-shot that is excluded is completed without a run', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', at: now + 1_000, exclusion: { untilMs: null, values: [now, now + 2_000] } });
  t.equal(await store.score('a'), null);
  t.ok(await store.redis.zscore(store.keys.completed, 'a'));
});

t.test('a loop is not due while it is excluded, but right after', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', after: 1_000, exclusion: { untilMs: null, values: [now - 5_000, now + 20_000] } });
  t.equal((await store.score('a'))?.atMs, now + 20_000);
});

t.test('jitter moves each run by what its id and nominal time say, and no further than the next', async (t) => {
  const store = await open();
  const now = await store.now();
  const values = Array.from({ length: 100 }, (_, i) => now + 1_000 + i * 50);
  const ids = Array.from({ length: 40 }, (_, i) => `s${i}`);
  const calendar = { untilMs: null, values };
  await store.put(...ids.map((id) => ({ id, calendar, jitterMs: 400 })));
  for (const id of ids) t.equal((await store.score(id))?.atMs, jittered(id, values[0]!, 50));
  await store.put({ id: 'last', calendar: { name: 'one', untilMs: null, values: [values[0]!] }, jitterMs: 400 });
  t.equal((await store.score('last'))?.atMs, jittered('last', values[0]!, 400), 'the last one has its whole width');
});

t.test('a run is due by its jitter: its id, its lateness and its message tell that time', async (t) => {
  const store = await open();
  const now = await store.now();
  const nominal = Math.floor(now / 1_000) * 1_000 - 1_000;
  const due = jittered('a', nominal, 900);
  await store.put({ id: 'a', every: 1_000, phase: 0, jitterMs: 900 });
  await store.redis.zadd(store.keys.due, 'XX', due, 'a');
  const { nowMs, latenesses } = await store.dispatch();
  const [message] = await store.queue();
  t.equal(message?.due, due);
  t.equal(Number.parseInt(message!.id.slice(-12), 16), due);
  t.same(latenesses, [[nowMs - due, 1]]);
  t.equal((await store.score('a'))?.atMs, jittered('a', nominal + 1_000, 900));
  t.match(await store.redis.hget(store.keys.last, 'a'), `${due}:${nowMs - due}`);
});

t.test('start and end bound a calendar by the due times', async (t) => {
  const store = await open();
  const now = await store.now();
  const values = [now + 1_000, now + 2_000, now + 3_000];
  const calendar = { untilMs: null, values };
  await store.put({ id: 'a', calendar, startMs: now + 1_001, endMs: now + 3_000 });
  t.equal((await store.score('a'))?.atMs, now + 2_000);
  await store.put({ id: 'exact', calendar, startMs: now + 2_000 });
  t.equal((await store.score('exact'))?.atMs, now + 2_000);
  await store.put({ id: 'none', calendar, startMs: now + 2_001, endMs: now + 3_000 });
  t.equal(await store.score('none'), null);
  await store.put({ id: 'none', calendar, startMs: now + 2_001, endMs: now + 3_001 });
  t.equal((await store.score('none'))?.atMs, now + 3_000);
});

t.test('nothing is refilled in a namespace that is gone', async (t) => {
  const store = await open();
  await store.put({ id: 'a', calendar: { untilMs: 5, values: [] } });
  await store.redis.hset(store.names.meta, 'epoch', 'another');
  const before = await store.snapshot();
  await t.rejects(refill(store, { untilMs: 9, values: [] }), { code: 'NAMESPACE_GONE' });
  t.same(await store.snapshot(), before);
});
