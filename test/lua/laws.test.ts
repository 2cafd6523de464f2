import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { backfill } from '../../lua/backfill.ts';
import { completeRuns } from '../../lua/complete-runs.ts';
import { decodeShared } from '../../lua/definition.ts';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { realign } from '../../lua/realign.ts';
import { refillTimes } from '../../lua/refill-times.ts';
import { reserve } from '../../lua/reserve.ts';
import { restoreLostWorkers } from '../../lua/restore.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { type Settlement, settle } from '../../lua/settle.ts';
import { sweepShard } from '../../lua/sweep-shard.ts';
import { decodeTimes, encodeTimes, type Times } from '../../lua/times.ts';
import { trigger } from '../../lua/trigger.ts';
import { brokenLaws, strayFlights } from './laws.ts';
import { EPOCH, parseMessage, type ScheduleParts, type Sent, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const IDS = ['a', 'b', 'ü"1', 'd'];
const WORKERS = ['w1', 'w2'];

interface World {
  readonly store: Store;
  /** What each worker believes that it holds. */
  readonly held: Map<string, Sent[]>;
  calls: number;
}

interface Step {
  run(world: World): Promise<unknown>;
}

/** A step that a failing history is told with. */
function step(say: string, run: (world: World) => Promise<unknown>): Step {
  return Object.assign({ run }, { [fc.toStringMethod]: () => say });
}

/** Everything but the bucket of missed runs, which expires while nobody looks. */
async function lasting(store: Store): Promise<Record<string, unknown>> {
  const { [store.names.recovery]: _, ...rest } = await store.snapshot();
  return rest;
}

/** A calendar of these steps, or an exclusion of 5 ms in each of them, from an instant on. */
function timesOf(kind: 'calendar' | 'exclusion', stepMs: number, fromMs: number, count: number): Times {
  const first = Math.floor(fromMs / stepMs) + 1;
  const starts = Array.from({ length: count }, (_, i) => (first + i) * stepMs);
  const values = kind === 'calendar' ? starts : starts.flatMap((start) => [start, start + 5]);
  return { untilMs: (first + count) * stepMs - 1, values };
}

const series = fc.option(fc.constantFrom(7, 13, 50), { nil: undefined });

// Intervals of a few ms, so that time passes while the steps run.
const shape = fc.oneof(
  fc.record({
    every: fc.constantFrom(3, 20, 60_000),
    phase: fc.constantFrom('spread' as const, 'now' as const, 2),
    jitterMs: fc.constantFrom(0, 2),
    excluded: series,
  }),
  fc.record({ step: fc.constantFrom(7, 13), jitterMs: fc.constantFrom(0, 5), ends: fc.boolean(), excluded: series }),
  fc.record({ atIn: fc.constantFrom(-20, 0, 15, 60_000), excluded: series }),
  fc.record({ in: fc.constantFrom(0, 20) }),
  fc.record({
    after: fc.constantFrom(1, 10, 60_000),
    retry: fc.constantFrom(undefined, { delayMs: 1, maxDelayMs: 20 }),
    excluded: series,
  }),
);

const put = fc
  .record({
    id: fc.constantFrom(...IDS),
    shape,
    startIn: fc.constantFrom(null, null, -50, 30),
    endIn: fc.constantFrom(null, null, null, 10, 60),
    maxRuns: fc.constantFrom(undefined, undefined, 1, 3),
    overlap: fc.constantFrom('allow' as const, 'skip' as const, 'buffer_one' as const),
    worker: fc.constantFrom(null, 'ringbeat' as const),
    misfire: fc.record({
      policy: fc.constantFrom('latest' as const, 'all' as const, 'skip' as const),
      graceMs: fc.constantFrom(null, 15),
    }),
    expires: fc.constantFrom(null, null, { afterMs: 25 }),
    queueCap: fc.constantFrom(null, null, 2),
    args: fc.constantFrom([], [1]),
    enabled: fc.constantFrom(true, true, true, false),
    again: fc.boolean(),
  })
  .map(({ id, shape, startIn, endIn, maxRuns, again, ...rest }) =>
    step(
      `put ${JSON.stringify({ id, ...shape, startIn, endIn, maxRuns, ...rest })}${again ? ' twice' : ''}`,
      async (world) => {
        const now = await world.store.now();
        const excluded = 'excluded' in shape ? shape.excluded : undefined;
        const parts: ScheduleParts = {
          id,
          ...rest,
          // A loop or a single run never overlaps.
          overlap: 'every' in shape || 'step' in shape ? rest.overlap : 'allow',
          ...('every' in shape ? { every: shape.every, phase: shape.phase, jitterMs: shape.jitterMs } : {}),
          ...('atIn' in shape ? { at: now + shape.atIn } : {}),
          ...('in' in shape ? { in: shape.in } : {}),
          ...('after' in shape
            ? { after: shape.after, ...(shape.retry === undefined ? {} : { retry: shape.retry }) }
            : {}),
          ...('step' in shape
            ? {
                jitterMs: shape.jitterMs,
                calendar: {
                  name: `${shape.step}${shape.ends ? ' ends' : ''}`,
                  ...timesOf('calendar', shape.step, now - 20, 5),
                  ...(shape.ends ? { untilMs: null } : { refillAtMs: now }),
                },
              }
            : {}),
          ...(excluded === undefined
            ? {}
            : { exclusion: { name: `${excluded}`, ...timesOf('exclusion', excluded, now - 20, 2), refillAtMs: now } }),
          ...(startIn === null ? {} : { startMs: now + startIn }),
          endMs: endIn === null ? null : now + endIn,
          ...(maxRuns === undefined ? {} : { maxRuns }),
        };
        await world.store.put(parts);
        if (again) assert.deepEqual(await world.store.put(parts), ['unchanged'], 'the same again');
      },
    ),
  );

const enable = fc
  .record({ id: fc.constantFrom(...IDS), enabled: fc.boolean() })
  .map(({ id, enabled }) =>
    step(`${enabled ? 'resume' : 'pause'} ${id}`, ({ store: { redis, names, keys } }) =>
      setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled, ids: [id] }),
    ),
  );

const remove = fc
  .constantFrom(...IDS)
  .map((id) =>
    step(`delete ${id}`, ({ store: { redis, names, keys } }) => deleteSchedules(redis, names, keys, EPOCH, [id])),
  );

const extra = fc
  .record({ id: fc.constantFrom(...IDS), backfilled: fc.integer({ min: 0, max: 3 }) })
  .map(({ id, backfilled }) =>
    step(backfilled === 0 ? `trigger ${id}` : `backfill ${backfilled} of ${id}`, async (world) => {
      const { redis, names, keys } = world.store;
      world.calls += 1;
      const request = { epoch: EPOCH, shard: 0, id, requestId: `r${world.calls}` };
      if (backfilled === 0) {
        const answer = await trigger(redis, names, keys, request);
        const before = await lasting(world.store);
        if (typeof answer === 'object') assert.deepEqual(await trigger(redis, names, keys, request), answer);
        assert.deepEqual(await lasting(world.store), before, 'a request is answered once');
      } else {
        const duesMs = Array.from({ length: backfilled }, (_, i) => i + 1);
        await backfill(redis, names, keys, { ...request, duesMs });
      }
    }),
  );

const dispatchSome = fc
  .record({
    limit: fc.constantFrom(1, 3, 100),
    missedAfter: fc.constantFrom(2, 10, 1e6),
    recoveryRate: fc.constantFrom(0, 0, 200),
    missedFirst: fc.boolean(),
  })
  .map((request) =>
    step(`dispatch ${JSON.stringify(request)}`, async ({ store }) => {
      const { missedAfter, ...rest } = request;
      for (let calls = 0; calls < 20; calls++) {
        const { sent, isMoreDue } = await store.dispatch({ ...rest, misfireThresholdMs: missedAfter });
        if (sent === 0 && !isMoreDue) break;
      }
    }),
  );

const take = fc
  .record({ worker: fc.constantFrom(...WORKERS), limit: fc.constantFrom(1, 5, 100) })
  .map(({ worker, limit }) =>
    step(`${worker} takes ${limit}`, async (world) => {
      const { redis } = world.store;
      world.calls += 1;
      await redis.zadd('rb:workers', await world.store.now(), worker);
      const request = { workerId: worker, counter: world.calls, limit, byteLimit: 1e6, queues: ['celery'] };
      const { messages } = await reserve(redis, 'rb', request);
      const held = world.held.get(worker) ?? [];
      world.held.set(worker, [...held, ...messages.map(({ envelope }) => parseMessage(envelope))]);
    }),
  );

const finish = fc
  .record({
    worker: fc.constantFrom(...WORKERS),
    count: fc.constantFrom(1, 100),
    outcome: fc.constantFrom('success' as const, 'success' as const, 'failure' as const),
    wish: fc.constantFrom(null, null, null, 0, 5, 'stop' as const),
  })
  .map(({ worker, count, outcome, wish }) =>
    step(`${worker} ends ${count}: ${outcome}, ${wish}`, async (world) => {
      const held = world.held.get(worker) ?? [];
      world.held.set(worker, held.slice(count));
      const ended = held.slice(0, count);
      if (ended.length === 0) return;
      world.calls += 1;
      const settlements = ended.map((message): Settlement => {
        const { journal } = message.headers.ringbeat as { readonly journal?: string };
        const run = journal === undefined ? null : { shard: journal, schedule: message.schedule, outcome, wish };
        return { tag: message.tag, mode: 'held', result: null, letter: null, run, actions: [] };
      });
      const request = { workerId: worker, counter: world.calls, resultExpiresSec: 60, shards: 0, settlements };
      await settle(world.store.redis, 'rb', request);
      const before = await lasting(world.store);
      await settle(world.store.redis, 'rb', request);
      assert.deepEqual(await lasting(world.store), before, 'the same counter again settles nothing');
    }),
  );

/** It goes on with what it holds: its settlements must be refused. */
const die = fc.constantFrom(...WORKERS).map((worker) =>
  step(`${worker} is taken for dead`, async ({ store }) => {
    await store.redis.zadd('rb:workers', 'XX', (await store.now()) - 20_000, worker);
    await restoreLostWorkers(store.redis, 'rb', await store.now());
  }),
);

const complete = fc.record({ by: fc.constantFrom('result', 'deadline'), first: fc.boolean() }).map(({ by, first }) =>
  step(`runs end by ${by}`, async ({ store }) => {
    const { redis, names, keys } = store;
    const taskIds = await redis.hkeys(keys.flights);
    if (by === 'deadline')
      for (const id of await redis.zrange(keys.deadlines, '0', '-1')) await redis.zadd(keys.deadlines, 1, id);
    const runs = taskIds.slice(first ? 0 : 1).map((taskId) => ({ taskId, outcome: 'success' as const, wish: null }));
    const request = { epoch: EPOCH, shard: 0, runs: by === 'result' ? runs : [], checksDeadlines: by === 'deadline' };
    await completeRuns(redis, names, keys, request);
    const before = await lasting(store);
    await completeRuns(redis, names, keys, request);
    assert.deepEqual(await lasting(store), before, 'a run ends once');
  }),
);

const refill = fc.constant(
  step('refill', async ({ store }) => {
    const { redis, names, keys } = store;
    const now = await store.now();
    const numbers = await redis.zrangebyscore(keys.refills, '-inf', now);
    const refills = await Promise.all(
      numbers.map(async (number) => {
        const { kind, json } = decodeShared((await redis.hget(keys.templates, number))!);
        const known = (await redis.hget(keys.times, number))!;
        const { name } = JSON.parse(json) as { readonly name: string };
        const { untilMs } = decodeTimes(known);
        const stepMs = Number.parseInt(name, 10);
        const count = Math.ceil(Math.max(now - untilMs!, 0) / stepMs) + 4;
        const times = timesOf(kind as 'calendar' | 'exclusion', stepMs, untilMs!, count);
        return { number, readUntil: known.slice(0, 15), more: encodeTimes(times), refillAtMs: times.untilMs! - 20 };
      }),
    );
    await refillTimes(redis, names, keys, EPOCH, refills);
    const before = await redis.hgetall(keys.times);
    await refillTimes(redis, names, keys, EPOCH, refills);
    assert.deepEqual(await redis.hgetall(keys.times), before, 'of several who compute times one continues them');
  }),
);

const keepHouse = fc.constant(
  step('sweep and realign', async ({ store: { redis, names, keys } }) => {
    await sweepShard(redis, names, keys, EPOCH, 50);
    await realign(redis, names, keys, EPOCH);
  }),
);

const wait = fc
  .integer({ min: 1, max: 25 })
  .map((ms) => step(`wait ${ms} ms`, async ({ store }) => store.passes((await store.now()) + ms)));

/** What may be left of a namespace without schedules; of `extra` only when parked messages go back. */
const STAYS =
  /^(celery|unacked|unacked_index|celery-task-meta-.*|rb:(meta|workers|recovery|dead-letters|worker:.*)|rb:\{0\}:(counts|lateness|history|occurrences|dead-letters|extra|parked|request:.*))$/;

t.test(
  'whatever is done, the conservation laws hold, and after every schedule is deleted nothing of them is left',
  async (t) => {
    const seed = Number(process.env.RINGBEAT_TEST_SEED ?? 20_261_121);
    t.comment(`RINGBEAT_TEST_SEED=${seed}`);
    const anyStep: fc.Arbitrary<Step> = fc.oneof(
      { weight: 6, arbitrary: put },
      { weight: 2, arbitrary: enable },
      { weight: 1, arbitrary: remove },
      { weight: 3, arbitrary: extra },
      { weight: 6, arbitrary: dispatchSome },
      { weight: 3, arbitrary: take },
      { weight: 3, arbitrary: finish },
      { weight: 1, arbitrary: die },
      { weight: 1, arbitrary: complete },
      { weight: 2, arbitrary: refill },
      { weight: 1, arbitrary: keepHouse },
      { weight: 2, arbitrary: wait },
    );
    const history = fc
      .tuple(
        fc.array(put, { minLength: 3, maxLength: 6 }),
        fc.array(anyStep, { minLength: 10, maxLength: 50, size: 'max' }),
      )
      .map(([puts, steps]) => [...puts, ...steps]);
    await fc.assert(
      fc.asyncProperty(history, async (steps) => {
        const store = await open();
        const world: World = { store, held: new Map(), calls: 0 };
        const { redis, names, keys } = store;
        for (const [at, step] of steps.entries()) {
          await step.run(world);
          const broken = [...(await brokenLaws(redis, 'rb', 1)), ...(await strayFlights(redis, 'rb', 1))];
          assert.equal(broken.length, 0, `after step ${at + 1}, ${fc.stringify(step)}: ${broken.join('; ')}`);
        }
        assert.equal(await redis.exists(keys.deadLetters), 0);
        await deleteSchedules(redis, names, keys, EPOCH, IDS);
        // What is parked goes back to its queue, and the bucket of missed runs is told that there are none.
        while ((await store.dispatch()).sent > 0);
        assert.deepEqual(await brokenLaws(redis, 'rb', 1), []);
        const left = await redis.keys('*');
        assert.deepEqual(
          left.filter((key) => !STAYS.test(key)),
          [],
        );
        assert.notEqual(await redis.pttl(names.recovery), -1, 'the bucket of missed runs goes by itself');
      }),
      { seed, numRuns: Number(process.env.RINGBEAT_TEST_RUNS ?? 50), endOnFailure: true, includeErrorInReport: true },
    );
    t.pass('all histories hold');
  },
);
