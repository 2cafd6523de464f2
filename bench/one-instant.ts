import type { Redis } from 'ioredis';
import { dispatchLateness } from './interval-load.ts';
import { loadLines, register } from './load.ts';
import { readOccurrence } from './occurrence.ts';
import type { Percentiles } from './percentiles.ts';
import { awaitValue, type Node } from './processes.ts';
import { QUEUE, redisNowMs, type Stage } from './stage.ts';

/** Time that is left for registering before the instant: a fixed part and one for each schedule, ms. */
const LEAD_MS = { fixed: 3_000, perSchedule: 0.06 };
/** Registering must be over so long before the instant, ms. */
const CALM_MS = 500;

export function leadMs(schedules: number): number {
  return LEAD_MS.fixed + LEAD_MS.perSchedule * schedules;
}

/** The first instant of this grid (1 ms: any) that leaves time to register so many schedules, ms since epoch. */
export async function instantAhead(stage: Stage, schedules: number, gridMs = 1): Promise<number> {
  return Math.ceil(((await redisNowMs(stage.redis)) + leadMs(schedules)) / gridMs) * gridMs;
}

/** Registers schedules that are all due at one instant. Throws when that takes too long. */
export async function registerForInstant(
  stage: Stage,
  node: Node,
  schedules: number,
  dueMs: number,
  schedule: (index: number) => string,
): Promise<number> {
  const { seconds } = await register(node.api, loadLines({ to: schedules, schedule }));
  if ((await redisNowMs(stage.redis)) > dueMs - CALM_MS)
    throw new Error(`Registering took ${seconds.toFixed(1)} s, longer than the time left for it.`);
  return seconds;
}

export interface Burst extends Account {
  /** From the instant to the first look that found every message in the queue. */
  readonly drainedSec: number;
  readonly dispatch: Percentiles;
}

/** Redis's time at the first look, each ms, that finds so many messages in the queue. */
export async function queueFull(redis: Redis, messages: number, dueMs: number): Promise<number> {
  const WAIT_MS = 60_000;
  const deadlineMs = Math.max(0, dueMs - (await redisNowMs(redis))) + WAIT_MS;
  return awaitValue('the whole burst in the queue', () => timeIfFull(redis, messages), deadlineMs, 1);
}

/** Redis's time if the queue holds so many messages, else null. */
async function timeIfFull(redis: Redis, messages: number): Promise<number | null> {
  const replies = await redis.multi().time().llen(QUEUE).exec();
  const [time, length] = (replies ?? []).map(([, reply]) => reply);
  if (Number(length) < messages || !Array.isArray(time)) return null;
  return Number(time[0]) * 1_000 + Number(time[1]) / 1_000;
}

/** Empties the queue, which was full with all of them at `fullAtMs`, and judges what came. */
export async function judgeBurst(stage: Stage, schedules: number, dueMs: number, fullAtMs: number): Promise<Burst> {
  return {
    drainedSec: (fullAtMs - dueMs) / 1_000,
    dispatch: await dispatchLateness(stage, dueMs - 1_000),
    ...(await emptyQueue(stage.redis, schedules, dueMs)),
  };
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
