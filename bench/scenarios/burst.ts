import type { Redis } from 'ioredis';
import { dispatchLateness } from '../interval-load.ts';
import { loadLines, register } from '../load.ts';
import { readOccurrence } from '../occurrence.ts';
import type { Percentiles } from '../percentiles.ts';
import { awaitValue } from '../processes.ts';
import type { Parameters, Scenario } from '../scenario.ts';
import { openStage, QUEUE, redisNowMs } from '../stage.ts';

/** Interval of the interval variant, s: long enough that nothing comes due twice. */
const EVERY = 3_600;
/** Time that is left for registering before the instant: a fixed part and one for each schedule, ms. */
const LEAD_MS = { fixed: 3_000, perSchedule: 0.06 };

export const burst: Scenario = {
  name: 'burst',
  doc: 'everything due at one instant: one-shots, then interval schedules with the same phase',
  defaults: { schedules: 150_000, every: EVERY, seconds: 0, nodes: 3 },
  targets: [
    { figure: 'once_drained_s', atMost: 1 },
    { figure: 'every_drained_s', atMost: 1 },
    { figure: 'limit_share', atLeast: 0.5 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
  ],
  shown: ['once_rate_per_s', 'every_rate_per_s'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    if (parameters.every * 1_000 < leadMs(parameters.schedules)) {
      throw new Error(
        `--every ${parameters.every} is too short: interval schedules would be due before all are registered.`,
      );
    }
    const once = await takeBurst(parameters, aof, say, (dueMs) => `{"at":"${new Date(dueMs).toISOString()}"}`);
    const every = await takeBurst(
      parameters,
      aof,
      say,
      (dueMs) => `{"every":${parameters.every},"phase":${(dueMs % (parameters.every * 1_000)) / 1_000}}`,
    );
    const rate = (burst: Burst) => parameters.schedules / burst.drainedSec;
    return {
      figures: {
        once_drained_s: once.drainedSec,
        once_dispatch_max_ms: once.dispatch.max,
        once_rate_per_s: rate(once),
        every_drained_s: every.drainedSec,
        every_dispatch_max_ms: every.dispatch.max,
        every_rate_per_s: rate(every),
        rate_per_s: Math.min(rate(once), rate(every)),
        lost: once.lost + every.lost,
        doubled: once.doubled + every.doubled,
        strange: once.strange + every.strange,
      },
      percentiles: { once_dispatch: once.dispatch, every_dispatch: every.dispatch },
    };
  },
};

function leadMs(schedules: number): number {
  return LEAD_MS.fixed + LEAD_MS.perSchedule * schedules;
}

interface Burst extends Account {
  /** From the instant to the first look that found every message in the queue. */
  readonly drainedSec: number;
  readonly dispatch: Percentiles;
}

async function takeBurst(
  { schedules, nodes: nodeCount }: Parameters,
  aof: boolean,
  say: (line: string) => void,
  schedule: (dueMs: number) => string,
): Promise<Burst> {
  const stage = await openStage(aof);
  try {
    const [node] = await stage.startNodes(nodeCount);
    const dueMs = Math.ceil((await redisNowMs(stage.redis)) + leadMs(schedules));
    const registered = await register(node!.api, loadLines({ to: schedules, schedule: schedule(dueMs) }));
    say(`registered ${registered.created} as ${schedule(dueMs)} in ${registered.seconds.toFixed(1)} s`);
    if ((await redisNowMs(stage.redis)) > dueMs - 500)
      throw new Error('Registering took longer than the time left for it.');

    const drainedAtMs = await awaitValue(
      'the whole burst in the queue',
      () => fullAtMs(stage.redis, schedules),
      leadMs(schedules) + 60_000,
      1,
    );
    return {
      drainedSec: (drainedAtMs - dueMs) / 1_000,
      dispatch: await dispatchLateness(stage, dueMs - 1_000),
      ...(await emptyQueue(stage.redis, schedules, dueMs)),
    };
  } finally {
    await stage.close();
  }
}

/** Redis's time once the queue holds `count` messages, else null. */
async function fullAtMs(redis: Redis, count: number): Promise<number | null> {
  const replies = await redis.multi().time().llen(QUEUE).exec();
  const [time, length] = (replies ?? []).map(([, reply]) => reply);
  if (Number(length) < count || !Array.isArray(time)) return null;
  return Number(time[0]) * 1_000 + Number(time[1]) / 1_000;
}

interface Account {
  readonly lost: number;
  readonly doubled: number;
  readonly strange: number;
}

/** Pops everything: each schedule should be there once, with this due time. */
async function emptyQueue(redis: Redis, schedules: number, dueMs: number): Promise<Account> {
  const came = new Uint8Array(schedules);
  let doubled = 0;
  let strange = 0;
  for (;;) {
    const messages = await redis.rpop(QUEUE, 1_000);
    if (messages === null) break;
    for (const message of messages) {
      const occurrence = readOccurrence(message);
      const before = came[occurrence?.index ?? -1];
      if (before === undefined || occurrence?.dueMs !== dueMs) strange += 1;
      else if (before > 0) doubled += 1;
      else came[occurrence.index] = 1;
    }
  }
  return { lost: came.filter((times) => times === 0).length, doubled, strange };
}
