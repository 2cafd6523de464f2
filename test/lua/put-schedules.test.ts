import t from 'tap';
import { decodeDefinition, spreadOffsetMs } from '../../lua/definition.ts';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { type PutOutcome, putSchedules } from '../../lua/put-schedules.ts';
import { decodeScore } from '../../lua/score.ts';
import { jittered } from '../../schedule/jitter.ts';
import { EPOCH, entry, firstGridPoint, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

async function create(store: Store, parts: ScheduleParts, requestId: string): Promise<PutOutcome> {
  const [outcome] = await putSchedules(store.redis, store.names, store.keys, {
    epoch: EPOCH,
    namespace: 'rb',
    shard: 0,
    entries: [entry(parts)],
    requestId,
  });
  return outcome!;
}

/** What lies in Redis beside the namespace's record. */
async function leftOver(store: Store): Promise<string[]> {
  return (await store.redis.keys('*')).filter((key) => key !== store.names.meta).sort();
}

t.test('created, unchanged, updated: an outcome for each, in order', async (t) => {
  const store = await open();
  t.same(await store.put({ id: 'a' }, { id: 'b' }), ['created', 'created']);
  t.same(await store.put({ id: 'b', args: [1] }, { id: 'c' }, { id: 'a' }), ['updated', 'created', 'unchanged']);
  const before = await store.snapshot();
  t.same(await store.put({ id: 'a' }, { id: 'b', args: [1] }, { id: 'c' }), ['unchanged', 'unchanged', 'unchanged']);
  t.same(await store.snapshot(), before, 'what is unchanged changes nothing');
});

t.test('what was put is read back as it was given', async (t) => {
  const store = await open();
  const parts: ScheduleParts = {
    id: 'ü "1" \\',
    every: 7_500,
    phase: 300,
    startMs: 1_000,
    endMs: 9e12,
    args: [1, 'é\x1f', null, { a: [] }],
    kwargs: { 'k\x1f': [true] },
    headers: { 'x-h': 'v\x1f' },
    tags: ['t1', 't "2" \\ ü'],
    enabled: false,
  };
  await store.put(parts);
  t.match(decodeDefinition(parts.id, (await store.redis.hget(store.keys.definitions, parts.id))!), {
    id: parts.id,
    timing: { kind: 'every', everyMs: 7_500, phase: 300, startMs: 1_000 },
    endMs: 9e12,
    args: parts.args,
    kwargs: parts.kwargs,
    headers: parts.headers,
    tags: parts.tags,
    enabled: false,
  });
});

const GRIDS: readonly (readonly [string, Partial<ScheduleParts> & { phase?: 'spread' | number }])[] = [
  ['spread by its id', { every: 10_000 }],
  ['spread by its id, to the ms', { every: 333 }],
  ['counted from the epoch', { every: 10_000, phase: 0 }],
  ['at an offset from the epoch', { every: 10_000, phase: 7_777 }],
  ['longer than the time since the epoch', { every: 3e12, phase: 2_999_999_999_999 }],
];
for (const [title, parts] of GRIDS) {
  t.test(`an interval schedule first runs at the next point of its grid: ${title}`, async (t) => {
    const store = await open();
    const before = await store.now();
    await store.put({ id: 'ä/1', ...parts });
    const after = await store.now();
    const due = (await store.score('ä/1'))?.atMs;
    const from = firstGridPoint({ id: 'ä/1', ...parts }, before - 1);
    const to = firstGridPoint({ id: 'ä/1', ...parts }, after - 1);
    t.ok(due === from || due === to, `${due} is ${from}`);
  });
}

t.test('spread lays ids over the whole interval, the same id always at the same place', async (t) => {
  const offsets = Array.from({ length: 1_000 }, (_, i) => spreadOffsetMs(`tenant/${i}`, 10_000));
  for (let tenth = 0; tenth < 10; tenth++) {
    const here = offsets.filter((offset) => Math.floor(offset / 1_000) === tenth).length;
    t.ok(here > 50 && here < 150, `${here} of 1000`);
  }
  t.equal(spreadOffsetMs('tenant/1', 10_000), offsets[1]);
});

t.test('phase `now` runs first at the moment of registration, and keeps that grid', async (t) => {
  const store = await open();
  const before = await store.now();
  await store.put({ id: 'a', every: 10_000, phase: 'now' });
  const due = (await store.score('a'))!.atMs;
  t.ok(due >= before && due <= (await store.now()));
  t.same(await store.put({ id: 'a', every: 10_000, phase: 'now' }), ['unchanged']);
  t.equal((await store.score('a'))?.atMs, due);
  await store.dispatch();
  t.equal((await store.score('a'))?.atMs, due + 10_000);
  t.same(await store.put({ id: 'a', every: 10_000, phase: 'now', args: [2] }), ['updated']);
  t.equal((await store.score('a'))?.atMs, due + 10_000);
});

t.test('phase `now` counts anew from a change of timing, and runs first at that moment', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 3_600_000 });
  const before = await store.now();
  await store.put({ id: 'a', every: 10_000, phase: 'now' });
  const due = (await store.score('a'))!.atMs;
  t.ok(due >= before && due <= (await store.now()));
});

t.test('with a start, the first run is the first grid point from there on', async (t) => {
  const store = await open();
  const now = await store.now();
  for (const [id, startMs] of [
    ['past', now - 100_000],
    ['soon', now + 50_000],
    ['far', now + 1e9],
  ] as const) {
    await store.put({ id, every: 10_000, startMs });
    t.equal((await store.score(id))?.atMs, firstGridPoint({ id, startMs }, Math.max(startMs - 1, now)));
  }
  await store.put({ id: 'exact', every: 10_000, phase: 0, startMs: Math.ceil(now / 10_000) * 10_000 + 20_000 });
  t.equal((await store.score('exact'))?.atMs, Math.ceil(now / 10_000) * 10_000 + 20_000);
});

const KEEPS: readonly (readonly [string, Partial<ScheduleParts>])[] = [
  ['task', { task: 'other' }],
  ['args', { args: [1] }],
  ['kwargs', { kwargs: { a: 1 } }],
  ['queue', { queue: 'other' }],
  ['queue cap', { queueCap: 5 }],
  ['misfire', { misfire: { policy: 'all', graceMs: 5 } }],
  ['priority', { priority: 9 }],
  ['expiry', { expires: { afterMs: 1 } }],
  ['limits', { timeLimit: 5, softTimeLimit: 4 }],
  ['headers', { headers: { a: 'b' } }],
  ['tags', { tags: ['t'] }],
  ['end, later than the next run', { endMs: 9e12 }],
  ['overlap', { overlap: 'skip' }],
  ['max_runs', { maxRuns: 5 }],
];
for (const [title, change] of KEEPS) {
  for (const base of [{ phase: 'spread' }, { phase: 'now' }] as const) {
    t.test(`a new ${title} keeps the grid, the next run and what the last one was (${base.phase})`, async (t) => {
      const store = await open();
      const parts = { id: 'a', every: 3_600_000, ...base };
      await store.put(parts);
      await store.redis.zadd(store.keys.due, 'XX', (await store.now()) - 5, 'a');
      await store.dispatch();
      const score = await store.redis.zscore(store.keys.due, 'a');
      const seed = (await store.redis.hget(store.keys.definitions, 'a'))!.split('\x1f')[1];
      t.same(await store.put({ ...parts, ...change }), ['updated']);
      t.equal(await store.redis.zscore(store.keys.due, 'a'), score);
      t.equal((await store.redis.hget(store.keys.definitions, 'a'))!.split('\x1f')[1], seed, 'the same task ids');
      t.same(await store.put({ ...parts, ...change }), ['unchanged']);
    });
  }
}

const RETIMES: readonly (readonly [string, Partial<ScheduleParts> & { phase?: 'spread' | number }])[] = [
  ['interval', { every: 60_000 }],
  ['phase', { every: 20_000, phase: 123 }],
  ['start', { every: 20_000, startMs: 1 }],
];
for (const [title, change] of RETIMES) {
  t.test(`a new ${title} makes a new grid, from the first point later than now and the last run`, async (t) => {
    const store = await open();
    await store.put({ id: 'a', every: 20_000 });
    const before = await store.now();
    t.same(await store.put({ id: 'a', ...change }), ['updated']);
    const due = (await store.score('a'))!.atMs;
    const bounds = [before, await store.now()].map((atMs) => firstGridPoint({ id: 'a', ...change }, atMs));
    t.ok(bounds.includes(due), `${due} is ${bounds[0]}`);
  });
}

t.test('a new jitter makes a new grid of new ids, its first run later than both now and the last one', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 5;
  const parts = { id: 'a', every: 20_000, phase: dueMs % 20_000 };
  await store.putDue({ ...parts, dueMs });
  const { latenesses } = await store.dispatch();
  const seed = async () => (await store.redis.hget(store.keys.definitions, 'a'))!.split('\x1f')[1];
  const before = await seed();
  t.same(await store.put({ ...parts, jitterMs: 15_000 }), ['updated']);
  t.not(await seed(), before);
  // The nominal time that was sent may, with its jitter, still lie ahead.
  const dues = [dueMs, dueMs + 20_000].map((nominalMs) => jittered('a', nominalMs, 15_000));
  const wanted = dues.find((due) => due > dueMs + 1_000);
  t.equal((await store.score('a'))?.atMs, wanted);
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${dueMs}:${latenesses[0]?.[0]}`);
});

t.test('a new grid begins after the last due time that was sent, even where that lies ahead', async (t) => {
  const store = await open();
  const ahead = (await store.now()) + 600_000;
  await store.put({ id: 'a', every: 60_000 });
  // As after a step back of the clock: the last run was due ten minutes from now.
  await store.redis.hset(store.keys.last, 'a', `${ahead}:3`);
  await store.put({ id: 'a', every: 10_000 });
  t.equal((await store.score('a'))?.atMs, firstGridPoint({ id: 'a' }, ahead));
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${ahead}:3`);
});

t.test('what the last run was survives a new timing', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 5;
  await store.putDue({ id: 'a', every: 60_000, dueMs });
  const { latenesses } = await store.dispatch();
  await store.put({ id: 'a', every: 30_000 });
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${dueMs}:${latenesses[0]?.[0]}`);
  t.equal((await store.score('a'))?.latenessMs, null);
});

t.test('`in` is resolved at first registration, and the same again keeps it', async (t) => {
  const store = await open();
  const before = await store.now();
  await store.put({ id: 'a', in: 60_000 });
  const due = (await store.score('a'))!.atMs;
  t.ok(due >= before + 60_000 && due <= (await store.now()) + 60_000);
  await store.passes(before + 5);
  t.same(await store.put({ id: 'a', in: 60_000 }), ['unchanged']);
  t.same(await store.put({ id: 'a', in: 60_000, args: [1] }), ['updated']);
  t.equal((await store.score('a'))?.atMs, due);
  t.same(await store.put({ id: 'a', in: 90_000, args: [1] }), ['updated'], 'another delay counts from now');
  t.ok((await store.score('a'))!.atMs >= before + 90_000);
});

t.test('an instant is due at that instant, in the past too', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'past', at: 5 }, { id: 'epoch', at: 0 }, { id: 'ahead', at: now + 60_000 });
  t.equal((await store.score('past'))?.atMs, 5);
  t.equal((await store.score('epoch'))?.atMs, 0);
  t.equal((await store.score('ahead'))?.atMs, now + 60_000);
});

t.test('a completed one-shot that is put again is unchanged and does not run again', async (t) => {
  const store = await open();
  const at = (await store.now()) - 5;
  await store.put({ id: 'at', at }, { id: 'in', in: 0 });
  t.match(await store.dispatch(), { sent: 2 });
  const before = await store.snapshot();
  t.same(await store.put({ id: 'at', at }, { id: 'in', in: 0 }), ['unchanged', 'unchanged']);
  t.same(await store.snapshot(), before);
  t.match(await store.dispatch(), { sent: 0 });
});

t.test('a completed one-shot with other args stays completed, with another time it runs again', async (t) => {
  const store = await open();
  const at = (await store.now()) - 5;
  await store.put({ id: 'a', at });
  await store.dispatch();
  const completed = await store.redis.zscore(store.keys.completed, 'a');
  t.same(await store.put({ id: 'a', at, args: [1] }), ['updated']);
  t.equal(await store.redis.zscore(store.keys.completed, 'a'), completed);
  t.equal(await store.score('a'), null);
  t.same(await store.put({ id: 'a', at: at + 60_000, args: [1] }), ['updated']);
  t.equal((await store.score('a'))?.atMs, at + 60_000);
  t.equal(await store.redis.zscore(store.keys.completed, 'a'), null);
});

t.test('a completed one-shot that is paused and enabled again still tells when it ran', async (t) => {
  const store = await open();
  const at = (await store.now()) - 5;
  await store.put({ id: 'a', at });
  const { nowMs, latenesses } = await store.dispatch();
  await store.passes(nowMs + 2);
  await store.put({ id: 'a', at, enabled: false });
  await store.put({ id: 'a', at, enabled: true });
  t.same(decodeScore((await store.redis.zscore(store.keys.completed, 'a'))!), {
    atMs: nowMs,
    latenessMs: latenesses[0]![0],
  });
});

t.test('paused by `enabled`, a schedule is not due, and goes on at the next point of its grid', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 20 }, { id: 'once', at: (await store.now()) + 60_000 });
  t.same(await store.put({ id: 'a', every: 20, enabled: false }), ['updated']);
  t.same(await store.put({ id: 'a', every: 20, enabled: false }), ['unchanged']);
  t.equal(await store.score('a'), null);
  const pausedAt = await store.now();
  await store.passes(pausedAt + 50);
  const before = await store.now();
  t.same(await store.put({ id: 'a', every: 20 }), ['updated']);
  const bounds = [before, await store.now()].map((atMs) => firstGridPoint({ id: 'a', every: 20 }, atMs));
  const due = (await store.score('a'))!.atMs;
  t.ok(due >= bounds[0]! && due <= bounds[1]!, 'times that passed while it was paused are not missed');
  t.same(await store.put({ id: 'once', at: pausedAt, enabled: false }), ['updated']);
  t.equal(await store.score('once'), null);
});

t.test('created paused, a schedule is not due until it is enabled', async (t) => {
  const store = await open();
  t.same(await store.put({ id: 'a', enabled: false }, { id: 'once', at: 5, enabled: false }), ['created', 'created']);
  t.same(await store.redis.zrange(store.keys.due, '0', '-1'), []);
  t.equal(await store.redis.exists(store.keys.completed), 0);
  await store.put({ id: 'a' });
  t.ok(await store.score('a'));
});

t.test('while paused, the timing may be changed, and what the last run was is kept', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 5;
  await store.putDue({ id: 'a', every: 60_000, dueMs });
  const { latenesses } = await store.dispatch();
  await store.put({ id: 'a', every: 60_000, phase: dueMs % 60_000, enabled: false });
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${dueMs}:${latenesses[0]?.[0]}`);
  t.same(await store.put({ id: 'a', every: 30_000, enabled: false }), ['updated']);
  t.equal(await store.score('a'), null);
  await store.put({ id: 'a', every: 30_000 });
  t.equal((await store.score('a'))!.atMs % 30_000, spreadOffsetMs('a', 30_000));
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${dueMs}:${latenesses[0]?.[0]}`);
});

t.test('an earlier end takes the next run away, a later one gives it back', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 5;
  await store.putDue({ id: 'a', dueMs });
  const { latenesses } = await store.dispatch();
  const parts = { id: 'a', phase: dueMs % 10_000 };
  const next = dueMs + 10_000;
  await store.put({ ...parts, endMs: next + 1 });
  t.equal((await store.score('a'))?.atMs, next, 'still before the end');
  await store.put({ ...parts, endMs: next });
  t.equal(await store.score('a'), null);
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${dueMs}:${latenesses[0]?.[0]}`);
  await store.put({ ...parts, endMs: next + 1 });
  t.equal((await store.score('a'))?.atMs, next);
  await store.put({ ...parts, endMs: dueMs });
  await store.put(parts);
  t.equal((await store.score('a'))?.atMs, next, 'without an end');
});

t.test('a one-shot that its end takes away is completed, and scheduled again when the end moves', async (t) => {
  const store = await open();
  const at = (await store.now()) + 60_000;
  await store.put({ id: 'a', at, endMs: at + 1 });
  await store.put({ id: 'a', at, endMs: at });
  t.equal(await store.score('a'), null);
  t.ok(await store.redis.zscore(store.keys.completed, 'a'));
  await store.put({ id: 'a', at });
  t.equal((await store.score('a'))?.atMs, at);
  t.equal(await store.redis.zscore(store.keys.completed, 'a'), null);
});

t.test('a one-shot that a queue cap holds stays due when its end moves to behind its due time', async (t) => {
  const store = await open();
  const at = (await store.now()) - 50;
  await store.redis.lpush('celery', 'in the way');
  await store.put({ id: 'a', at });
  const { nowMs } = await store.dispatch({ queueCap: 1 });
  t.same(await store.put({ id: 'a', at, endMs: at + 100 }), ['updated']);
  t.equal((await store.score('a'))?.atMs, nowMs + 1_000);
  t.same(await store.put({ id: 'a', at, endMs: at }), ['updated']);
  t.equal(await store.score('a'), null, 'and not when it moves before it');
});

t.test('create refuses what exists, and the same request again is told that it created', async (t) => {
  const store = await open();
  t.equal(await create(store, { id: 'a' }, 'r1'), 'created');
  const before = await store.snapshot();
  t.equal(await create(store, { id: 'a' }, 'r1'), 'created');
  t.equal(await create(store, { id: 'a', args: [1] }, 'r2'), 'refused');
  t.same(await store.snapshot(), before);
  const ttl = await store.redis.pttl(`${store.keys.prefix}request:r1`);
  t.ok(ttl > 590_000 && ttl <= 600_000);
});

t.test('a create request that comes again after its schedule was deleted creates nothing', async (t) => {
  const store = await open();
  await create(store, { id: 'a' }, 'r1');
  await deleteSchedules(store.redis, store.names, store.keys, EPOCH, ['a']);
  t.equal(await create(store, { id: 'a' }, 'r1'), 'created');
  t.equal(await store.redis.exists(store.keys.definitions), 0);
  t.equal(await create(store, { id: 'a' }, 'r2'), 'created');
  t.equal(await store.redis.exists(store.keys.definitions), 1);
});

t.test('a revision is replaced only while it is what is stored', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  const { revision } = decodeDefinition('a', (await store.redis.hget(store.keys.definitions, 'a'))!);
  const replace = (parts: ScheduleParts) =>
    putSchedules(store.redis, store.names, store.keys, {
      epoch: EPOCH,
      namespace: 'rb',
      shard: 0,
      entries: [entry(parts)],
      revision,
    });
  t.same(await replace({ id: 'missing' }), ['refused']);
  t.same(await replace({ id: 'a', args: [1] }), ['updated']);
  const before = await store.snapshot();
  t.same(await replace({ id: 'a', args: [2] }), ['refused']);
  t.same(await store.snapshot(), before);
});

t.test('a definition that cannot be read is repaired by putting it again', async (t) => {
  const store = await open();
  await store.put({ id: 'a' }, { id: 'b' });
  await store.redis.hset(store.keys.definitions, 'a', 'nonsense');
  t.same(await store.put({ id: 'b', args: [1] }, { id: 'a' }), ['updated', 'created']);
  t.ok(await store.score('a'));
});

t.test('schedules with the same task, queue and options share one template', async (t) => {
  const store = await open();
  await store.put({ id: 'a', args: [1] }, { id: 'b', kwargs: { x: 1 }, every: 5_000 }, { id: 'c', tags: ['t'] });
  await store.put({ id: 'd', task: 'other' }, { id: 'e' });
  t.equal(await store.redis.hlen(store.keys.templates), 2);
  t.same(Object.values(await store.redis.hgetall(store.keys.templateUses)).sort(), ['1', '4']);
});

t.test('a template goes with its last use, and its number is not given out again', async (t) => {
  const store = await open();
  await store.put({ id: 'a' }, { id: 'b', task: 'other' });
  const [number] = (await store.redis.hget(store.keys.definitions, 'a'))!.split('\x1f');
  t.same(await store.put({ id: 'a', task: 'other' }), ['updated']);
  t.equal(await store.redis.hexists(store.keys.templates, number!), 0);
  t.equal(await store.redis.hlen(store.keys.templates), 1);
  t.equal(await store.redis.hlen(store.keys.templateIds), 1);
  t.same(Object.values(await store.redis.hgetall(store.keys.templateUses)), ['2']);
  await store.put({ id: 'a' });
  t.not((await store.redis.hget(store.keys.definitions, 'a'))!.split('\x1f')[0], number);
});

t.test('two schedules that swap their templates in one call keep both', async (t) => {
  const store = await open();
  await store.put({ id: 'a', task: 'one' }, { id: 'b', task: 'two' });
  t.same(await store.put({ id: 'a', task: 'two' }, { id: 'b', task: 'one' }), ['updated', 'updated']);
  t.equal(await store.redis.hlen(store.keys.templates), 2);
  t.same(Object.values(await store.redis.hgetall(store.keys.templateUses)), ['1', '1']);
});

t.test('after every schedule is deleted only totals are left', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a', task: 'one' }, { id: 'b', task: 'two', enabled: false }, { id: 'once', at: now - 5 });
  await store.dispatch();
  await store.put({ id: 'once', at: now + 60_000 }, { id: 'a', task: 'three', every: 4_000 });
  t.same(await deleteSchedules(store.redis, store.names, store.keys, EPOCH, ['a', 'b', 'once']), [true, true, true]);
  t.same(await leftOver(store), ['celery', store.keys.counts, store.keys.lateness, store.keys.occurrences].sort());
});

t.test('what becomes the head of its shard within a second is announced, anything else is not', async (t) => {
  const store = await open();
  const heard: string[] = [];
  const subscriber = store.redis.duplicate();
  t.teardown(() => subscriber.disconnect());
  await subscriber.subscribe(store.names.wake);
  subscriber.on('message', (_, message) => heard.push(message));
  const now = await store.now();
  await store.put({ id: 'far', at: now + 3_600_000 });
  await store.put({ id: 'paused', at: now, enabled: false });
  await store.put({ id: 'soon', at: now + 700 }, { id: 'sooner', at: now + 600 });
  await store.put({ id: 'behind', at: now + 800 });
  await store.put({ id: 'sooner', at: now + 600 });
  await store.put({ id: 'sooner', at: now + 500 });
  await store.put({ id: 'last', at: 0 });
  await subscriber.ping();
  t.same(heard, [`0:${now + 600}`, `0:${now + 500}`, '0:0']);
});

t.test('nothing is written to a namespace that is gone', async (t) => {
  const store = await open();
  await store.redis.del(store.names.meta);
  await t.rejects(store.put({ id: 'a' }), { code: 'NAMESPACE_GONE' });
  await t.rejects(create(store, { id: 'a' }, 'r1'), { code: 'NAMESPACE_GONE' });
  t.same(await leftOver(store), []);
});

t.test('while memory is full nothing is stored in part', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  const before = await store.snapshot();
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    await t.rejects(store.put({ id: 'a', task: 'other' }, { id: 'b' }), { message: /OOM/ });
    t.same(await store.put({ id: 'a' }), ['unchanged']);
    t.same(await store.snapshot(), before);
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
});

t.test('500 schedules with templates of their own go into one call', async (t) => {
  const store = await open();
  const schedules = Array.from({ length: 500 }, (_, i) => ({ id: `s${i}`, task: `task${i}` }));
  t.same(new Set(await store.put(...schedules)), new Set(['created']));
  t.equal(await store.redis.zcard(store.keys.due), 500);
  t.equal(await store.redis.hlen(store.keys.templates), 500);
});
