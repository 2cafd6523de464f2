import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import { shardKeys } from '../../lua/keys.ts';
import { until } from '../support/eventually.ts';
import type { SpawnedBeat } from '../support/processes.ts';

/**
 * The load of these tests: schedules of which each (schedule, due time) must be in the queue exactly once, none missing
 * from the first to the last. Nobody takes the messages, so that none can be lost on the way to whoever counts them.
 */
export const EVERY_MS = 1_000;

/** A schedule counts as having missed runs only when it is so late that the test has failed anyway. */
export const PATIENT = ['--misfire-threshold', '600'];

/** One request to a node; the answer's JSON. */
// biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever came.
export async function ask(beat: SpawnedBeat, path: string, init: RequestInit = {}): Promise<any> {
  const answer = await fetch(`${beat.api}${path}`, init);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** What registers or changes one schedule. */
export async function put(beat: SpawnedBeat, id: string, spec: object): Promise<void> {
  const headers = { 'content-type': 'application/json' };
  await ask(beat, `/v1/schedules/${id}`, { method: 'PUT', headers, body: JSON.stringify({ task: 'x', ...spec }) });
}

/** What a message of the queue was sent for. */
function occurrenceOf(message: string): { readonly schedule: string; readonly due: number } {
  const [, schedule, due] = /"ringbeat": \{"schedule": "([^"]*)", "due": (\d+)/.exec(message)!;
  return { schedule: schedule!, due: Number(due) };
}

/** Registers schedules `s0`, `s1`, … over HTTP, and waits until each of them has run. */
export async function startLoad(beat: SpawnedBeat, redis: Redis, schedules: number): Promise<void> {
  const ids = Array.from({ length: schedules }, (_, i) => `s${i}`);
  const lines = ids.map((id, i) =>
    JSON.stringify({ id, task: 'ledger', args: [i], schedule: { every: EVERY_MS / 1_000 } }),
  );
  const counts = await ask(beat, '/v1/schedules', {
    method: 'POST',
    headers: { 'content-type': 'application/x-ndjson' },
    body: `${lines.join('\n')}\n`,
  });
  assert.deepEqual(counts, { created: schedules, updated: 0, unchanged: 0, failed: 0, errors: [] });
  const haveRun = async () => {
    const sent = new Set((await redis.lrange('celery', 0, -1)).map((message) => occurrenceOf(message).schedule));
    return ids.every((id) => sent.has(id));
  };
  await until(haveRun, 'every schedule ran once', { everyMs: 50 });
}

/** Redis TIME, ms. */
export async function redisNow(redis: Redis): Promise<number> {
  const [seconds, micros] = await redis.time();
  return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
}

/** Waits until the load went on for so long, by Redis's clock. */
export async function goesOn(redis: Redis, ms: number): Promise<void> {
  const untilMs = (await redisNow(redis)) + ms;
  await until(async () => (await redisNow(redis)) >= untilMs, `${ms} ms pass`, {
    deadlineMs: ms + 60_000,
    everyMs: 50,
  });
  await caughtUp(redis, untilMs);
}

/** Waits until nothing that is due before this instant waits any more. */
export async function caughtUp(redis: Redis, atMs: number, namespace = 'rb'): Promise<void> {
  const shards = Number(await redis.hget(`${namespace}:meta`, 'shards'));
  await until(async () => {
    const heads = await Promise.all(
      Array.from({ length: shards }, async (_, shard) => {
        const [, score] = await redis.zrange(shardKeys(namespace, shard).due, '0', '0', 'WITHSCORES');
        // The fraction tells how late the last run was, and would make what is due at this very instant look later.
        return score === undefined ? Infinity : Math.floor(Number(score));
      }),
    );
    return Math.min(...heads) > atMs;
  }, 'everything due is sent');
}

export interface Account {
  /** Schedules that ran. */
  readonly schedules: number;
  /** `schedule@due` of what was sent more than once. */
  readonly doubled: readonly string[];
  /** `schedule@due` of what was never sent, between a schedule's first run and the end. */
  readonly missing: readonly string[];
}

/** What is in the queue, once everything due up to now was sent. */
export async function account(redis: Redis, list = 'celery'): Promise<Account> {
  const untilMs = await redisNow(redis);
  await caughtUp(redis, untilMs);
  const dues = new Map<string, Set<number>>();
  const doubled: string[] = [];
  // From the tail, which does not move while messages are pushed at the head.
  for (let last = -1; ; last -= 2_000) {
    const page = await redis.lrange(list, last - 1_999, last);
    for (const message of page) {
      const { schedule, due } = occurrenceOf(message);
      const seen = dues.get(schedule);
      if (seen === undefined) dues.set(schedule, new Set([due]));
      else if (seen.has(due)) doubled.push(`${schedule}@${due}`);
      else seen.add(due);
    }
    if (page.length < 2_000) break;
  }
  const missing: string[] = [];
  for (const [schedule, seen] of dues) {
    const first = Math.min(...seen);
    for (let due = first; due <= untilMs; due += EVERY_MS) if (!seen.has(due)) missing.push(`${schedule}@${due}`);
  }
  return { schedules: dues.size, doubled, missing };
}

/** The nodes that are in the ring, as one of them sees it. */
export async function nodesOf(beat: SpawnedBeat): Promise<{ pid: number; shards: number[] }[]> {
  return (await ask(beat, '/v1/nodes')).nodes;
}

/** Waits until these nodes and no others are in the ring, as each of them sees it, and every shard has one owner. */
export async function ringIs(beats: readonly SpawnedBeat[], shards = 16): Promise<void> {
  const wanted = beats.map(({ pid }) => pid).sort();
  await until(
    async () => {
      for (const beat of beats) {
        const nodes = await nodesOf(beat);
        assert.deepEqual(nodes.map(({ pid }) => pid).sort(), wanted);
        const owned = nodes.flatMap((node) => node.shards).sort((a, b) => a - b);
        assert.deepEqual(
          owned,
          Array.from({ length: shards }, (_, shard) => shard),
        );
      }
      return true;
    },
    `the ring is ${wanted.join(', ')}`,
    { everyMs: 100 },
  );
}

export async function readiness(beat: SpawnedBeat): Promise<number> {
  return (await fetch(`${beat.api}/readyz`)).status;
}
