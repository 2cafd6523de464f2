import type { Redis } from 'ioredis';
import t from 'tap';
import { announce } from '../../lua/announce.ts';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { finishRestore } from '../../lua/finish-restore.ts';
import { openNamespace } from '../../lua/open-namespace.ts';
import { restoreSchedules } from '../../lua/restore-schedules.ts';
import { takeAbsent } from '../../lua/take-absent.ts';
import { EPOCH, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const NODE = 'node-1';
const HOUR = 3_600_000;

/** Steps of every change so far, as a node with a journal reads them. */
async function changes({ redis, keys }: Store): Promise<string[]> {
  const entries = await redis.xrange(keys.changes, '-', '+');
  return entries.flatMap(([, [, , ...steps]]) => steps);
}

/** A store whose scripts tell what they change. */
async function recorded(): Promise<Store> {
  const store = await open();
  await store.redis.hset(store.names.meta, 'journal', '1');
  return store;
}

async function lose({ redis, names }: Store): Promise<void> {
  await redis.flushall();
  await takeAbsent(redis, names, NODE, 60_000);
}

interface Restoration {
  readonly floorMs?: number;
  readonly sequence?: number;
  readonly templateNumber?: number;
}

async function restore({ redis, names, keys }: Store, steps: readonly string[], how: Restoration = {}) {
  const { floorMs = 0, sequence = 0, templateNumber = 0 } = how;
  const request = { node: NODE, leaseMs: 60_000, floorMs };
  await restoreSchedules(redis, names, keys, { ...request, begin: { sequence, templateNumber }, steps: [] });
  return restoreSchedules(redis, names, keys, { ...request, begin: null, steps });
}

/** Keys of schedules, without what is expected to be another after a restoration. */
async function schedulesIn(redis: Redis, prefix: string): Promise<Record<string, unknown>> {
  const hashes = ['definitions', 'templates', 'template-ids', 'template-uses', 'runs', 'held'];
  const sets = ['due', 'completed'];
  const found: Record<string, unknown> = {};
  for (const name of hashes) found[name] = await redis.hgetall(prefix + name);
  for (const name of sets) found[name] = await redis.zrange(prefix + name, '0', '-1', 'WITHSCORES');
  return found;
}

t.test('what the change stream told is what comes back', async (t) => {
  const store = await recorded();
  const { redis, keys, names } = store;
  const nowMs = await store.now();
  const soon = { untilMs: null, values: [nowMs + HOUR, nowMs + 2 * HOUR] };
  await store.put(
    { id: 'every', every: HOUR, phase: (nowMs + 1_000) % HOUR, maxRuns: 5, args: ['ä', 1] },
    { id: 'edited', every: HOUR, queue: 'first' },
    { id: 'paused', every: HOUR, enabled: false },
    { id: 'once', at: nowMs + HOUR },
    { id: 'gone', every: HOUR, queue: 'only-of-this-one' },
    { id: 'cron', calendar: soon },
    { id: 'excluding', every: HOUR, exclusion: { untilMs: null, values: [nowMs, nowMs + HOUR] } },
  );
  await store.put({ id: 'edited', every: HOUR, queue: 'second' });
  await deleteSchedules(redis, names, keys, EPOCH, ['gone']);
  const before = await schedulesIn(redis, keys.prefix);
  const steps = await changes(store);
  const numbers = Number((await redis.hget(keys.counts, 'templates'))!);

  await lose(store);
  t.same(await restore(store, steps, { floorMs: nowMs, sequence: 3, templateNumber: numbers }), []);
  const tidy = (await redis.hkeys(keys.templates)).flatMap((number) => ['tidy', number]);
  await restoreSchedules(redis, names, keys, {
    node: NODE,
    leaseMs: 60_000,
    floorMs: nowMs,
    begin: null,
    steps: tidy,
  });
  t.same(await schedulesIn(redis, keys.prefix), before);
  const counts = await store.counts();
  t.equal(counts.changes, 3, 'changes are numbered on');
  t.ok(counts.templates! > numbers, 'and shared texts: no number is given out twice');
  t.ok(counts.runs! >= nowMs, 'and extra runs');
  t.same((await redis.zrange(keys.refills, '0', '-1')).length, 2, 'calendar and exclusion are to be computed');
  t.equal(await redis.exists(names.meta), 0, 'the record comes last');
});

interface DueCase {
  readonly what: string;
  readonly parts: Partial<ScheduleParts>;
  /** As of the journal; null: it waits nowhere. */
  readonly due: number | null;
  readonly runs?: number;
  readonly held?: string;
  /** Relative to the floor; `now` is when it is restored. */
  readonly wanted: number | 'now' | 'claim' | null;
}

/** Everything relative to the floor, in ms. */
const DUE: readonly DueCase[] = [
  { what: 'an interval goes on at its next grid point', parts: { every: 10_000 }, due: -25_000, wanted: 5_000 },
  { what: 'a first run that was not due yet stays', parts: { every: 10_000 }, due: 25_000, wanted: 25_000 },
  { what: 'a grid point at the floor was sent', parts: { every: 5_000 }, due: 0, wanted: 5_000 },
  { what: 'the end holds', parts: { every: 10_000, endMs: 5_000 }, due: -5_000, wanted: null },
  { what: 'max_runs holds', parts: { every: 10_000, maxRuns: 3 }, due: null, runs: 3, wanted: null },
  {
    what: 'a calendar is computed first',
    parts: { calendar: { untilMs: null, values: [] } },
    due: -5,
    wanted: 'claim',
  },
  { what: 'unless its run is known', parts: { calendar: { untilMs: null, values: [] } }, due: 7_000, wanted: 7_000 },
  { what: 'a one-shot in the future', parts: { at: 9_000 }, due: 9_000, wanted: 9_000 },
  { what: 'a one-shot that was missed', parts: { at: -9_000 }, due: -9_000, wanted: -9_000 },
  { what: 'a one-shot that waited its turn', parts: { at: -9_000 }, due: null, wanted: -9_000 },
  { what: 'a one-shot that a queue cap held', parts: { at: -9_000 }, due: -500, wanted: 'now' },
  { what: 'a loop that waits', parts: { after: 60_000 }, due: 7_000, wanted: 7_000 },
  { what: 'a loop whose run was sent', parts: { after: 60_000 }, due: -7_000, wanted: 'now' },
  { what: 'a loop whose run was in flight', parts: { after: 60_000 }, due: null, wanted: 'now' },
  { what: 'a loop that was stopped', parts: { after: 60_000 }, due: null, held: '-', wanted: null },
  { what: 'a loop that a queue cap held', parts: { after: 60_000 }, due: -7_000, held: '12345', wanted: 'now' },
  { what: 'a paused interval', parts: { every: 10_000, enabled: false }, due: null, wanted: null },
];

for (const { what, parts, due, runs, held, wanted } of DUE) {
  t.test(`${what}`, async (t) => {
    const store = await recorded();
    const { redis, keys } = store;
    const floor = (await store.now()) - 1_000_000;
    const at = (ms: number | undefined) => (ms === undefined ? {} : { at: floor + ms });
    const { endMs, ...others } = parts;
    await store.put({
      id: 'a',
      // The grid point behind the floor is 5 s later.
      ...(parts.every === undefined ? {} : { phase: (floor + 5_000) % parts.every }),
      ...others,
      ...at(parts.at),
    });
    const definition = (await redis.hget(keys.definitions, 'a'))!.split('\x1f');
    if (endMs != null) definition[3] = String(floor + endMs);
    const template = (await changes(store)).slice(0, -2);
    await lose(store);
    const state = [due === null ? '' : String(floor + due), '', runs ?? '', held ?? ''];
    await restore(store, [...template, 'put', ['a', definition.join('\x1f'), ...state].join('\x1e')], {
      floorMs: floor,
    });
    const score = await redis.zscore(keys.due, 'a');
    if (wanted === 'now') t.ok(Math.abs(Number(score) - (await store.now())) < 60_000, `due at ${score}`);
    else t.equal(score, typeof wanted === 'number' ? String(floor + wanted) : null);
    t.equal(await redis.zscore(keys.claims, 'a'), wanted === 'claim' ? String(floor) : null);
    t.equal(await redis.hget(keys.held, 'a'), held ?? null);
  });
}

t.test('the same calls again in the same order give the same', async (t) => {
  const store = await recorded();
  await store.put({ id: 'a', every: HOUR, queue: 'x' }, { id: 'b', at: 5 }, { id: 'c', after: 1_000, enabled: false });
  await store.put({ id: 'a', every: HOUR, queue: 'y' });
  await deleteSchedules(store.redis, store.names, store.keys, EPOCH, ['b']);
  const steps = await changes(store);
  await lose(store);
  const floorMs = await store.now();
  const parts = [steps.slice(0, 6), steps.slice(6)];
  const request = { node: NODE, leaseMs: 60_000, floorMs };
  const once = async () => {
    const begin = { sequence: 2, templateNumber: 9 };
    await restoreSchedules(store.redis, store.names, store.keys, { ...request, begin, steps: [] });
    for (const part of parts)
      await restoreSchedules(store.redis, store.names, store.keys, { ...request, begin: null, steps: part });
  };
  await once();
  const first = await schedulesIn(store.redis, store.keys.prefix);
  // A connection that broke sends what it had no answer to once more.
  for (const part of parts)
    await restoreSchedules(store.redis, store.names, store.keys, { ...request, begin: null, steps: part });
  t.same(await schedulesIn(store.redis, store.keys.prefix), first);
  await once();
  t.same(await schedulesIn(store.redis, store.keys.prefix), first, 'also from the beginning');
});

t.test('a schedule whose template is not known is left out, and told', async (t) => {
  const store = await recorded();
  await store.put({ id: 'a' }, { id: 'b', queue: 'other' });
  const steps = await changes(store);
  const withoutFirst = steps.slice(2);
  t.match(steps[0], 'template');
  await lose(store);
  t.same(await restore(store, withoutFirst), ['a']);
  t.same(await store.redis.hkeys(store.keys.definitions), ['b']);
  t.equal(await store.redis.zscore(store.keys.due, 'a'), null);
});

t.test('in the end shared texts without uses go, and the others are found', async (t) => {
  const store = await recorded();
  const { redis, keys } = store;
  // The same text under another number each time, for it goes with its last use.
  for (const id of ['a', 'b', 'c']) {
    await store.put({ id });
    if (id !== 'c') await deleteSchedules(redis, store.names, keys, EPOCH, [id]);
  }
  const before = await schedulesIn(redis, keys.prefix);
  const steps = await changes(store);
  await lose(store);
  await restore(store, [...steps, 'template', '77\x1fcalendar\x1f{}']);
  const texts = await redis.hgetall(keys.templates);
  const tidy = Object.keys(texts).flatMap((number) => ['tidy', number]);
  await restoreSchedules(redis, store.names, keys, {
    node: NODE,
    leaseMs: 60_000,
    floorMs: 0,
    begin: null,
    steps: tidy,
  });
  t.same(await schedulesIn(redis, keys.prefix), before);
  t.same(await redis.zrange(keys.refills, '0', '-1'), []);
});

t.test('what survived of parked messages and runs in flight stays', async (t) => {
  const store = await recorded();
  const { redis, keys, names } = store;
  await store.put({ id: 'loop', after: 1_000 });
  await store.dispatch();
  await redis.zadd(keys.extra, 5, 'parked-1');
  await redis.hset(keys.parked, 'parked-1', 'celery\x1f{}');
  const flight = await redis.hgetall(keys.journal);
  t.same(Object.keys(flight), ['loop']);
  const steps = await changes(store);
  await redis.del(names.meta);
  await takeAbsent(redis, names, NODE, 60_000);
  await restore(store, steps, { floorMs: await store.now() });
  t.same(await redis.hgetall(keys.journal), flight);
  t.equal(await redis.zscore(keys.due, 'loop'), null, 'its run in flight brings it back');
  t.same(await redis.hkeys(keys.parked), ['parked-1']);
});

t.test('only who has the right to may restore, and only what is absent', async (t) => {
  const store = await recorded();
  const { redis, names } = store;
  await store.put({ id: 'a' });
  const steps = await changes(store);
  const meta = new Map([
    ['epoch', EPOCH],
    ['restores', '1'],
  ]);
  const refused = async (why: string) => {
    const before = await store.snapshot();
    await t.rejects(restore(store, steps), { code: 'RESTORE_TAKEN' }, why);
    await t.rejects(finishRestore(redis, names, NODE, meta), { code: 'RESTORE_TAKEN' }, why);
    t.same(await store.snapshot(), before);
  };
  t.notOk(await takeAbsent(redis, names, NODE, 60_000), 'the namespace is there');
  await refused('the namespace is there');
  await redis.flushall();
  await refused('nobody took the right');
  t.ok(await takeAbsent(redis, names, 'another', 60_000));
  t.notOk(await takeAbsent(redis, names, NODE, 60_000));
  await refused('another has it');
  t.ok(await takeAbsent(redis, names, 'another', 0), 'prolonged by who has it');
  await store.passes((await store.now()) + 1);
  t.ok(await takeAbsent(redis, names, NODE, 60_000), 'a dead one is replaced');
  await restore(store, steps);
  await finishRestore(redis, names, NODE, meta);
  await finishRestore(redis, names, NODE, meta);
  t.same(await redis.hgetall(names.meta), Object.fromEntries(meta), 'twice is once');
  t.equal(await redis.exists(names.restoring, names.announcements), 0);
});

t.test('nobody creates a namespace while another restores it', async (t) => {
  const { redis, names } = await open();
  await redis.flushall();
  await takeAbsent(redis, names, NODE, 60_000);
  const create = { epoch: 'new', settings: {} };
  t.equal((await openNamespace(redis, names, create)).size, 0);
  await takeAbsent(redis, names, NODE, 0);
  t.equal((await openNamespace(redis, names, create)).size, 0, 'nor what one that died has left');
  t.equal((await openNamespace(redis, names, { ...create, node: NODE })).get('epoch'), 'new');
  t.equal(await redis.exists(names.restoring), 0);
});

t.test('announcements are seen by all, and forgotten', async (t) => {
  const { redis, names } = await open();
  await redis.flushall();
  const looks = redis.duplicate();
  t.teardown(() => looks.disconnect());
  const heard: string[] = [];
  looks.on('message', (_, message: string) => heard.push(message));
  await looks.subscribe(names.wake);

  t.same((await announce(redis, names, 'a', null)).announcements, []);
  t.equal(await redis.exists(names.announcements), 0, 'who only looks leaves nothing');
  const first = await announce(redis, names, 'a', 'x');
  t.same(first.announcements, [{ node: 'a', sinceMs: first.nowMs, text: 'x' }]);
  const second = await announce(redis, names, 'b', 'y');
  t.same(second.announcements.map(({ node, text }) => [node, text]).sort(), [
    ['a', 'x'],
    ['b', 'y'],
  ]);
  const again = await announce(redis, names, 'a', 'z');
  t.equal(again.announcements.find(({ node }) => node === 'a')?.sinceMs, first.nowMs, 'since the first time');
  await redis.hset(names.announcements, 'dead', '5:6:old');
  t.notOk((await announce(redis, names, 'c', null)).announcements.some(({ node }) => node === 'dead'));
  t.equal(await redis.hexists(names.announcements, 'dead'), 0);
  t.same(
    (await announce(redis, names, 'a', null)).announcements.map(({ node }) => node),
    ['b'],
    'taken back',
  );
  t.ok((await redis.pttl(names.announcements)) > 0, 'and gone when nobody repeats his');
  await redis.ping();
  t.same(heard, ['members'], 'the first wakes all');

  await openNamespace(redis, names, { epoch: 'e', settings: {} });
  const present = await announce(redis, names, 'b', 'y');
  t.equal(present.epoch, 'e');
  t.same(await redis.hkeys(names.announcements), []);
});
