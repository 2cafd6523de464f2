import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { spreadOffsetMs } from '../../lua/definition.ts';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { realign } from '../../lua/realign.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { sweepShard } from '../../lua/sweep-shard.ts';
import { EPOCH, parseMessage, type ScheduleParts, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

/** What a test knows of a schedule that exists. */
interface Known {
  /** `at` and `in` as they were resolved. */
  readonly parts: ScheduleParts;
  enabled: boolean;
  /** Offset of the grid, ms; of a one-shot its instant. */
  origin: number;
  /** The last due time seen in a queue since it was created. */
  lastDue: number;
  /** The next run that must be sent: the score seen after the last change; null while there is none. */
  next: number | null;
}

class World {
  readonly store: Store;
  readonly known = new Map<string, Known>();
  readonly sent = new Set<string>();
  seen = 0;

  constructor(store: Store) {
    this.store = store;
  }
}

interface Step {
  run(world: World): Promise<void>;
}

/** A step that a failing history is told with. */
function step(say: string, run: (world: World) => Promise<void>): Step {
  return Object.assign({ run }, { [fc.toStringMethod]: () => say });
}

const IDS = ['a', 'b', 'ü"1'];

// Intervals of a few ms, so that time passes while the steps run.
const parts = fc.oneof(
  fc.record({
    every: fc.constantFrom(3, 7, 20, 60_000),
    phase: fc.constantFrom('spread', 'now', 0, 2),
    startIn: fc.constantFrom(null, -50, 30),
    endIn: fc.constantFrom(null, null, null, 40),
  }),
  fc.record({ atIn: fc.constantFrom(-20, 0, 15, 60_000), endIn: fc.constant(null) }),
);

const put: fc.Arbitrary<Step> = fc
  .record({
    id: fc.constantFrom(...IDS),
    shape: parts,
    task: fc.constantFrom('one', 'two'),
    args: fc.constantFrom([], [1]),
    enabled: fc.constantFrom(true, true, true, false),
    again: fc.boolean(),
  })
  .map(({ id, shape, task, args, enabled, again }) =>
    step(`put ${JSON.stringify({ id, ...shape, task, args, enabled })}${again ? ' twice' : ''}`, async (world) => {
      const now = await world.store.now();
      const given: ScheduleParts = {
        id,
        task,
        args,
        enabled,
        endMs: shape.endIn === null ? null : now + shape.endIn,
        ...('atIn' in shape
          ? { at: now + shape.atIn }
          : {
              every: shape.every,
              phase: shape.phase as 'spread',
              ...(shape.startIn === null ? {} : { startMs: now + shape.startIn }),
            }),
      };
      await world.store.put(given);
      if (again) assert.deepEqual(await world.store.put(given), ['unchanged'], 'the same again');
      const old = world.known.get(id);
      world.known.set(id, {
        parts: given,
        enabled,
        origin: await originOf(world.store, given),
        lastDue: old?.lastDue ?? -1,
        next: null,
      });
      await observe(world, id);
    }),
  );

const edit: fc.Arbitrary<Step> = fc
  .record({ id: fc.constantFrom(...IDS), args: fc.constantFrom([2], [3]), tag: fc.constantFrom('x', 'y') })
  .map(({ id, args, tag }) =>
    step(`edit ${id} ${JSON.stringify({ args, tag })}`, async (world) => {
      const known = world.known.get(id);
      if (known === undefined) return;
      const before = await world.store.redis.zscore(world.store.keys.due, id);
      await world.store.put({ ...known.parts, enabled: known.enabled, args, tags: [tag] });
      assert.equal(await world.store.redis.zscore(world.store.keys.due, id), before, 'an edit keeps the next run');
    }),
  );

const enable: fc.Arbitrary<Step> = fc
  .record({ id: fc.constantFrom(...IDS), enabled: fc.boolean() })
  .map(({ id, enabled }) =>
    step(`${enabled ? 'resume' : 'pause'} ${id}`, async (world) => {
      const request = { epoch: EPOCH, shard: 0, enabled, ids: [id] };
      const { redis, names, keys } = world.store;
      const known = world.known.get(id);
      const wanted = known === undefined ? 'missing' : known.enabled === enabled ? 'unchanged' : 'changed';
      assert.deepEqual(await setEnabled(redis, names, keys, request), [wanted]);
      assert.deepEqual(await setEnabled(redis, names, keys, request), [known === undefined ? 'missing' : 'unchanged']);
      if (known !== undefined) known.enabled = enabled;
      await observe(world, id);
    }),
  );

const remove: fc.Arbitrary<Step> = fc.constantFrom(...IDS).map((id) =>
  step(`delete ${id}`, async (world) => {
    const { redis, names, keys } = world.store;
    assert.deepEqual(await deleteSchedules(redis, names, keys, EPOCH, [id]), [world.known.has(id)]);
    assert.deepEqual(await deleteSchedules(redis, names, keys, EPOCH, [id]), [false]);
    world.known.delete(id);
  }),
);

/** Of dispatch, in one step. */
const MOST_CALLS = 25;

const dispatchDue: fc.Arbitrary<Step> = fc.record({ limit: fc.constantFrom(1, 2, 100) }).map(({ limit }) =>
  step(`dispatch ${limit} at a time`, async (world) => {
    // On a busy machine more may become due during each call than it sends: what is left then is for a later step.
    for (let calls = 0; calls < MOST_CALLS; calls++) {
      const { sent, nowMs } = await world.store.dispatch({ limit });
      await readQueue(world, nowMs);
      if (sent === 0) break;
    }
  }),
);

const keepHouse: fc.Arbitrary<Step> = fc.constant(
  step('sweep and realign', async (world) => {
    const { redis, names, keys } = world.store;
    await sweepShard(redis, names, keys, EPOCH, 3_600_000);
    await realign(redis, names, keys, EPOCH);
    for (const id of IDS) await observe(world, id);
  }),
);

const wait: fc.Arbitrary<Step> = fc
  .integer({ min: 1, max: 25 })
  .map((ms) => step(`wait ${ms} ms`, async (world) => world.store.passes((await world.store.now()) + ms)));

async function originOf(store: Store, given: ScheduleParts): Promise<number> {
  if (given.at !== undefined) return given.at;
  if (typeof given.phase === 'number') return given.phase;
  if (given.phase === 'spread') return spreadOffsetMs(given.id, given.every!);
  const timing = (await store.redis.hget(store.keys.definitions, given.id))!.split('\x1f')[2]!;
  return Number(/:n(\d+):/.exec(timing)![1]);
}

/** The next run of a schedule lies where its spec puts it, and nowhere when it has none. */
async function observe(world: World, id: string): Promise<void> {
  const known = world.known.get(id);
  const score = await world.store.score(id);
  if (known === undefined) return assert.equal(score, null, `${id} does not exist`);
  known.next = score?.atMs ?? null;
  if (!known.enabled) return assert.equal(score, null, `${id} is paused`);
  const { at, every, endMs, startMs } = known.parts;
  if (score === null) {
    const now = await world.store.now();
    const hasEnded =
      endMs != null ? endMs <= Math.max(now, known.lastDue, startMs ?? 0) + (every ?? 0) : at !== undefined;
    return assert.ok(hasEnded, `${id} has runs to come and is not due`);
  }
  assert.ok(score.atMs > known.lastDue, `${id} is due later than what was sent`);
  if (at !== undefined) assert.equal(score.atMs, at);
  else assert.equal((score.atMs - known.origin) % every!, 0, `${id} is on its grid`);
  assert.ok(score.atMs >= (startMs ?? 0), `${id} is not before its start`);
  assert.ok(endMs == null || score.atMs < endMs, `${id} is before its end`);
}

/** Every message that came is the run that was next. */
async function readQueue(world: World, nowMs: number): Promise<void> {
  // The newest are at the head.
  const raw = await world.store.redis.lrange('celery', 0, -1 - world.seen);
  for (const { schedule, due, id } of raw.reverse().map(parseMessage)) {
    const known = world.known.get(schedule);
    assert.ok(known?.enabled, `${schedule} is enabled`);
    assert.ok(!world.sent.has(id), `${schedule} at ${due} was sent once`);
    world.sent.add(id);
    assert.equal(due, known.next, `${schedule} is sent as it was due, none left out`);
    assert.ok(due <= nowMs);
    known.lastDue = due;
    const { every, endMs } = known.parts;
    known.next = every === undefined || (endMs != null && due + every >= endMs) ? null : due + every;
  }
  world.seen += raw.length;
}

async function checkTemplates(store: Store): Promise<void> {
  const definitions = Object.values(await store.redis.hgetall(store.keys.definitions));
  const uses: Record<string, string> = {};
  for (const definition of definitions) {
    const number = definition.split('\x1f')[0]!;
    uses[number] = String(Number(uses[number] ?? 0) + 1);
  }
  assert.deepEqual({ ...(await store.redis.hgetall(store.keys.templateUses)) }, uses);
  assert.deepEqual((await store.redis.hkeys(store.keys.templates)).sort(), Object.keys(uses).sort());
  assert.equal(await store.redis.hlen(store.keys.templateIds), Object.keys(uses).length);
}

t.test(
  'whatever is done to schedules, each run is sent once, and each enabled schedule waits for its next one',
  async (t) => {
    const seed = Number(process.env.RINGBEAT_TEST_SEED ?? 20_261_121);
    t.comment(`RINGBEAT_TEST_SEED=${seed}`);
    const anyStep = fc.oneof(
      { weight: 4, arbitrary: put },
      { weight: 2, arbitrary: edit },
      { weight: 2, arbitrary: enable },
      { weight: 1, arbitrary: remove },
      { weight: 4, arbitrary: dispatchDue },
      { weight: 1, arbitrary: keepHouse },
      { weight: 3, arbitrary: wait },
    );
    const history = fc.array(anyStep, { minLength: 5, maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(history, async (steps) => {
        const world = new World(await open());
        for (const step of steps) await step.run(world);
        await checkTemplates(world.store);
        const { redis, names, keys } = world.store;
        await deleteSchedules(redis, names, keys, EPOCH, IDS);
        const left = (await redis.keys('rb:*')).sort();
        const mayStay = [names.meta, keys.counts, keys.lateness, keys.history, keys.occurrences, keys.deadLetters];
        assert.deepEqual(
          left.filter((key) => !mayStay.includes(key)),
          [],
          'nothing of a deleted schedule is left',
        );
        assert.equal(await redis.exists(keys.deadLetters), 0);
      }),
      { seed, numRuns: 60, endOnFailure: true },
    );
    t.pass('all histories hold');
  },
);
