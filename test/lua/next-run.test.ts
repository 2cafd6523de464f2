import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { decodeDefinition, decodeShared, spreadOffsetMs } from '../../lua/definition.ts';
import { putSchedules } from '../../lua/put-schedules.ts';
import { refillTimes } from '../../lua/refill-times.ts';
import { decodeTimes } from '../../lua/times.ts';
import { computeTimes } from '../../registry/compute-times.ts';
import { SpecEncoder } from '../../registry/spec-codec.ts';
import { nextRuns } from '../../schedule/next-run.ts';
import { createSpecSchema, parseSpec, type ScheduleSpec } from '../../schedule/spec.ts';
import { EPOCH, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);
const schema = createSpecSchema('rb');

/** Instants are told from here on, ms: before now, so that what a script finds depends on what it is asked alone. */
const FROM_MS = Date.UTC(2024, 0, 1);
const SPAN_MS = 2 * 365 * 86_400_000;

const ZONES = ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata'];
const at = (ms: number) => new Date(ms).toISOString();

const schedule = fc.oneof(
  fc.record({
    every: fc.constantFrom(0.1, 1, 10, 90, 3_600, 86_400),
    phase: fc.oneof(
      fc.constant('spread'),
      fc.integer({ min: 0, max: 99 }).map((ms) => ms / 1_000),
    ),
  }),
  fc.record({
    cron: fc.constantFrom(
      '* * * * *',
      '*/5 * * * *',
      '30 2 * * *',
      '0 9 * * 1-5',
      '15 10 * * * *',
      '0 0 1 * *',
      '@hourly',
    ),
    tz: fc.constantFrom(...ZONES),
  }),
  fc.record({
    rrule: fc.constantFrom('FREQ=HOURLY;INTERVAL=3', 'FREQ=DAILY;BYHOUR=3;COUNT=400'),
    tz: fc.constantFrom(...ZONES),
  }),
);

const exclude = fc.array(
  fc.oneof(
    fc.integer({ min: 0, max: 700 }).map((day) => at(FROM_MS + day * 86_400_000).slice(0, 10)),
    fc.constantFrom({ cron: '* 9 * * *' }, { cron: '* * * * 0' }, { cron: '*/2 * * * *' }),
    fc
      .tuple(fc.integer({ min: 0, max: SPAN_MS }), fc.integer({ min: 1, max: 5_000_000 }))
      .map(([from, length]) => ({ from: at(FROM_MS + from), to: at(FROM_MS + from + length) })),
  ),
  { maxLength: 2 },
);

/** Behind `behindMs`, in 60 days around the first of them, so that starts, ends and exclusions are met. */
const question = fc.record({
  id: fc.constantFrom('a', 'tenant/7', 'ü"1'),
  schedule,
  jitter: fc.oneof(
    fc.constant(0),
    fc.integer({ min: 1, max: 4_000 }).map((ms) => ms / 1_000),
  ),
  exclude,
  behindMs: fc.integer({ min: 0, max: SPAN_MS }),
  startIn: fc.option(fc.integer({ min: -10_000_000, max: 100_000_000 })),
  endIn: fc.option(fc.integer({ min: 100_000_001, max: 300_000_000 })),
  steps: fc.array(fc.integer({ min: 0, max: 50_000_000 }), { minLength: 1, maxLength: 6 }),
});

function specOf(members: object): ScheduleSpec | null {
  const result = parseSpec(schema, Buffer.from(JSON.stringify({ task: 't', ...members })));
  return result.ok ? result.spec : null;
}

/** Rounds of computing after which a schedule that is all excluded is given up. */
const ROUNDS = 60;

/** Computes times further, as a node does, until the shard says when the schedule is due; null: never. */
async function dueAfter({ redis, names, keys }: Store, id: string, afterMs: number): Promise<number | null> {
  await redis.zrem(keys.due, id);
  await redis.zadd(keys.claims, afterMs, id);
  for (let round = 0; round < ROUNDS; round++) {
    const claimedMs = Number(await redis.zscore(keys.claims, id));
    const numbers = round === 0 ? [] : await redis.hkeys(keys.times);
    const refills = await Promise.all(
      numbers.map(async (number) => {
        const { kind, json } = decodeShared((await redis.hget(keys.templates, number))!);
        const known = (await redis.hget(keys.times, number))!;
        const { untilMs } = decodeTimes(known);
        if (untilMs === null || kind === 'template') return null;
        const more = computeTimes(kind, json, claimedMs, untilMs);
        return { number, readUntil: known.slice(0, 15), more: more.times, refillAtMs: 8e15 };
      }),
    );
    await refillTimes(
      redis,
      names,
      keys,
      EPOCH,
      refills.filter((refill) => refill !== null),
    );
    const score = await redis.zscore(keys.due, id);
    if (score !== null) return Number(score);
    if ((await redis.zscore(keys.claims, id)) === null) return null;
  }
  return null;
}

t.test(
  'scripts find the same next runs as the preview, over kinds, zones, jitter, exclusions, starts and ends',
  async (t) => {
    const seed = Number(process.env.RINGBEAT_TEST_SEED ?? 20_261_121);
    t.comment(`RINGBEAT_TEST_SEED=${seed}`);
    let compared = 0;
    await fc.assert(
      fc.asyncProperty(question, async ({ behindMs, startIn, endIn, steps, ...members }) => {
        const baseMs = FROM_MS + behindMs;
        const spec = specOf({
          ...members,
          start: startIn === null ? null : at(baseMs + startIn),
          end: endIn === null ? null : at(baseMs + endIn),
        });
        if (spec === null) return;
        const store = await open();
        const entry = new SpecEncoder('rb').encode(spec, baseMs);
        await putSchedules(store.redis, store.names, store.keys, {
          epoch: EPOCH,
          namespace: 'rb',
          shard: 0,
          entries: [entry],
        });
        const { timing } = decodeDefinition(spec.id, (await store.redis.hget(store.keys.definitions, spec.id))!);
        const origin = timing.kind === 'every' ? originOf(spec) : null;
        let afterMs = baseMs;
        for (const step of [0, ...steps.sort((a, b) => a - b)]) {
          afterMs = Math.max(afterMs, baseMs + step);
          const [wanted = null] = nextRuns(spec, origin, afterMs, 1);
          assert.equal(await dueAfter(store, spec.id, afterMs), wanted, `after ${afterMs}`);
          compared += 1;
          if (wanted === null) return;
          afterMs = wanted;
        }
      }),
      { seed, numRuns: Number(process.env.RINGBEAT_TEST_RUNS ?? 300), endOnFailure: true, includeErrorInReport: true },
    );
    t.comment(`${compared} next runs compared`);
    t.ok(compared > 300);
  },
);

function originOf({ id, schedule }: ScheduleSpec): number {
  if (!('every' in schedule)) throw new Error('no interval');
  return schedule.phase === 'spread' ? spreadOffsetMs(id, schedule.every * 1_000) : Number(schedule.phase) * 1_000;
}
