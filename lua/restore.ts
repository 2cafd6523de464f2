import type { Redis } from 'ioredis';
import { type Json, parseJson, toPythonJson } from '../protocol/json.ts';
import { readMessage } from '../protocol/message-reader.ts';
import { exceptionOf } from '../protocol/result.ts';
import { WorkerLostError } from '../protocol/task-errors.ts';
import { type Action, actionArgs } from './actions.ts';
import { findLost } from './find-lost.ts';
import { type FlowSource, newIds } from './flow-source.ts';
import { KOMBU, namespaceKeys, queueList, shardKeys, workerKeys } from './keys.ts';
import { type LostRun, recoverRuns } from './recover-runs.ts';
import { holderKeys, WORKER_DEAD_LETTERS } from './reserve.ts';
import { defineScript, integerReply, listReply } from './script.ts';
import { givenUp } from './task-failure.ts';

const script = defineScript('restore');

/** Results of tasks that were given up are kept as long as Celery's by default, s. */
const RESULT_EXPIRES_SEC = 86_400;

/** Messages per script call. */
const PAGE = 100;

/** A worker is dead when its heartbeat is older than this, ms. */
export const WORKER_LEASE_MS = 10_000;

/** A beat node knows no worker's default queue. */
const BEAT_NODE: FlowSource = { ...newIds, origin: 'ringbeat', defaultQueue: 'celery' };

export interface Restored {
  /** Messages put back into their queues. */
  readonly restored: number;
  /** Messages that cannot be put back; they are in the worker dead letters. */
  readonly deadLetters: number;
}

/**
 * Gives back what dead workers of the namespace hold, and forgets those workers. Any process may call it, any number
 * at once. Call it only when Redis's clock has been seen steady for WORKER_LEASE_MS (`RedisClock.steadyFor`), with the
 * time it should show: when it has just stepped, nobody is judged. `source` sends what follows the failure of messages that
 * are given up.
 */
export async function restoreLostWorkers(
  redis: Redis,
  namespace: string,
  expectedNowMs: number,
  source: FlowSource = BEAT_NODE,
): Promise<Restored & { readonly workers: readonly string[] }> {
  const { workers } = await findLost(redis, namespace, {
    leaseMs: WORKER_LEASE_MS,
    visibilityMs: 0,
    limit: 10,
    expectedNowMs,
  });
  let restored = 0;
  let deadLetters = 0;
  for (const workerId of workers) {
    const outcome = await restoreHeld(redis, namespace, workerId, { leaseMs: WORKER_LEASE_MS, source });
    restored += outcome.restored;
    deadLetters += outcome.deadLetters;
  }
  // Of a namespace that was deleted nothing must come back.
  if (restored > 0 && (await redis.exists(namespaceKeys(namespace).meta)) === 1)
    await redis.hincrby(shardKeys(namespace, 0).counts, 'recovered', restored);
  return { workers, restored, deadLetters };
}

/** Gives back everything that this worker holds, and forgets it: for a worker that is leaving. */
export async function restoreOwn(redis: Redis, namespace: string, workerId: string): Promise<Restored> {
  const restored = await restoreHeld(redis, namespace, workerId, { leaseMs: 0, source: null });
  await redis.del(workerKeys(namespace, workerId).settled);
  return restored;
}

/**
 * Gives back messages, of whatever consumer, that have been unacked for longer than the visibility timeout: at most
 * 1,000 in one call.
 */
export async function restoreInvisible(
  redis: Redis,
  namespace: string,
  workerId: string,
  visibilityMs: number,
  expectedNowMs: () => number,
): Promise<Restored> {
  let restored = 0;
  let deadLetters = 0;
  for (let page = 0; page < 10; page++) {
    const { messages } = await findLost(redis, namespace, {
      leaseMs: 0,
      visibilityMs,
      limit: PAGE,
      expectedNowMs: expectedNowMs(),
    });
    if (messages.length === 0) break;
    const held = await readHeld(
      redis,
      messages.map((message) => message.tag),
      messages.map((message) => message.score),
    );
    const outcome = await putBack(redis, namespace, { workerId, isAgeOnly: true, leaseMs: 0, source: null }, held);
    restored += outcome.restored;
    deadLetters += outcome.deadLetters;
    if (messages.length < PAGE || outcome.restored + outcome.deadLetters === 0) break;
  }
  return { restored, deadLetters };
}

/** Gives these messages of a living worker back, the first of them to be taken first. */
export async function restoreTags(
  redis: Redis,
  namespace: string,
  workerId: string,
  tags: readonly string[],
): Promise<Restored> {
  let restored = 0;
  let deadLetters = 0;
  // From the last to the first: each goes to the end that is popped next.
  for (let end = tags.length; end > 0; end -= PAGE) {
    const held = await readHeld(redis, tags.slice(Math.max(0, end - PAGE), end).reverse());
    const outcome = await putBack(redis, namespace, { workerId, isAgeOnly: true, leaseMs: 0, source: null }, held);
    restored += outcome.restored;
    deadLetters += outcome.deadLetters;
  }
  return { restored, deadLetters };
}

async function restoreHeld(
  redis: Redis,
  namespace: string,
  workerId: string,
  judge: Pick<Holder, 'leaseMs' | 'source'>,
): Promise<Restored> {
  const { leaseMs } = judge;
  const { reserved } = workerKeys(namespace, workerId);
  let restored = 0;
  let deadLetters = 0;
  let leftBefore = Infinity;
  for (;;) {
    const tags = await redis.srandmember(reserved, PAGE);
    const held = await readHeld(redis, tags);
    const recovered = leaseMs === 0 ? NONE : await recover(redis, namespace, workerId, leaseMs, held);
    const rest = held.filter(({ tag }) => !recovered.tags.has(tag));
    const outcome = await putBack(redis, namespace, { workerId, isAgeOnly: false, ...judge }, rest);
    restored += outcome.restored + recovered.recovered;
    deadLetters += outcome.deadLetters + recovered.givenUp;
    // No progress: somebody else restores them, or the worker came back. Whoever is right goes on.
    if (outcome.left === 0 || outcome.left >= leftBefore) return { restored, deadLetters };
    leftBefore = outcome.left;
  }
}

const NONE = { tags: new Set<string>(), recovered: 0, givenUp: 0 };

/** Starts the next attempt of what are runs in flight; `tags` are those that need not be put back. */
async function recover(
  redis: Redis,
  namespace: string,
  workerId: string,
  leaseMs: number,
  held: readonly Held[],
): Promise<{ readonly tags: ReadonlySet<string>; readonly recovered: number; readonly givenUp: number }> {
  const runs = held.flatMap((message) => nextAttempt(message) ?? []);
  if (runs.length === 0) return NONE;
  const { recovered, givenUp, ordinary } = await recoverRuns(redis, namespace, workerId, leaseMs, runs);
  const tags = runs.filter((_, at) => !ordinary.has(at)).map(({ tag }) => tag);
  return { tags: new Set(tags), recovered, givenUp };
}

/** The next attempt of a run in flight; null for any other message. */
function nextAttempt({ tag, score, value }: Held): LostRun | null {
  const attempt = JOURNAL_TAG.exec(tag)?.[1];
  if (attempt === undefined || value === null) return null;
  try {
    const { envelope, routingKey, priority } = redelivery(value);
    const message = readMessage(envelope);
    const { schedule } = message;
    if (schedule === null || schedule.journal === null) return null;
    const next = schedule.attempt + 1;
    const nextTag = tag.replace(JOURNAL_TAG, `$2b${next.toString(16).padStart(3, '0')}$3`);
    const parsed = parseJson(envelope) as { readonly headers: JsonObject; readonly properties: JsonObject };
    return {
      tag,
      score,
      shard: schedule.journal,
      schedule: schedule.schedule,
      list: queueList(routingKey, priority),
      nextTag,
      envelope: toPythonJson({
        ...parsed,
        headers: { ...parsed.headers, ringbeat: { ...(parsed.headers.ringbeat as JsonObject), attempt: next } },
        properties: { ...parsed.properties, delivery_tag: nextTag },
      }),
    };
  } catch {
    // It cannot be read: putting it back says so.
    return null;
  }
}

/** Of runs in flight: the attempt, what is before it and behind it (lua/dispatch.lua). */
const JOURNAL_TAG =
  /^(?=.*-b([0-9a-f]{3})-[0-9a-f]{12}$)([0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-)b[0-9a-f]{3}(-[0-9a-f]{12})$/;

type JsonObject = { readonly [key: string]: Json };

/** A message as it lies in unacked; `value` is null when it is not there. */
interface Held {
  readonly tag: string;
  readonly score: string;
  readonly value: string | null;
}

async function readHeld(redis: Redis, tags: readonly string[], knownScores?: readonly string[]): Promise<Held[]> {
  if (tags.length === 0) return [];
  const values = await redis.hmget(KOMBU.unacked, ...tags);
  const scores = knownScores ?? (await redis.zmscore(KOMBU.unackedIndex, ...tags));
  return tags.map((tag, at) => ({ tag, score: scores[at] ?? '', value: values[at] ?? null }));
}

interface Holder {
  readonly workerId: string;
  /** Whether the messages are not (only) this worker's, so that it is not forgotten. */
  readonly isAgeOnly: boolean;
  readonly leaseMs: number;
  /** Who sends what follows the failure of messages that are given up for their crashes; null: none are. */
  readonly source: FlowSource | null;
}

async function putBack(
  redis: Redis,
  namespace: string,
  holder: Holder,
  held: readonly Held[],
): Promise<Restored & { left: number }> {
  const lists: string[] = [];
  const entries: (string | number)[] = [];
  const follows = await followsOf(redis, namespace, holder, held);
  for (const [at, { tag, score, value }] of held.entries()) {
    const move = value === null ? { list: null, text: '' } : await wayBack(redis, value);
    let number = 0;
    if (move.list !== null) {
      number = lists.indexOf(move.list) + 1;
      if (number === 0) number = lists.push(move.list);
    }
    const actions = follows[at] ?? [];
    entries.push(tag, score, number, move.text, actions.length);
    for (const action of actions) entries.push(...actionArgs(action, namespace, 0));
  }
  const worker = workerKeys(namespace, holder.workerId);
  const names = namespaceKeys(namespace);
  const reply = await script.run(
    redis,
    [...holderKeys(namespace, holder.workerId), worker.waiting, names.crashes, worker.direct, names.chords, ...lists],
    [holder.isAgeOnly ? '' : holder.workerId, holder.leaseMs, WORKER_DEAD_LETTERS, RESULT_EXPIRES_SEC, ...entries],
  );
  const [, restored, deadLetters, left] = listReply(script, reply);
  return {
    restored: integerReply(script, restored),
    deadLetters: integerReply(script, deadLetters),
    left: integerReply(script, left),
  };
}

/** What happens if these messages are given up for their crashes, of those whose tasks had started. */
async function followsOf(
  redis: Redis,
  namespace: string,
  { workerId, source }: Holder,
  held: readonly Held[],
): Promise<readonly (readonly Action[])[]> {
  if (source === null || held.length === 0) return [];
  const { waiting } = workerKeys(namespace, workerId);
  const [isWaiting, [seconds]] = await Promise.all([
    redis.smismember(waiting, ...held.map(({ tag }) => tag)),
    redis.time(),
  ]);
  const nowMs = Number(seconds) * 1_000;
  const lost = exceptionOf(new WorkerLostError('Worker exited prematurely, in each of the runs of this task.'));
  return held.map(({ value }, at) => {
    if (isWaiting[at] === 1 || value === null) return [];
    try {
      const message = readMessage(redelivery(value).envelope);
      return givenUp(message, lost, { nowMs, isStored: !message.ignoreResult }, source);
    } catch {
      // It cannot be read: putting it back says so.
      return [];
    }
  });
}

/** The list that an unacked message goes back to and its new envelope; or null, and why it cannot go back. */
async function wayBack(redis: Redis, value: string): Promise<{ readonly list: string | null; readonly text: string }> {
  let message: ReturnType<typeof redelivery>;
  try {
    message = redelivery(value);
  } catch (error) {
    return { list: null, text: `cannot be restored: ${error instanceof Error ? error.message : String(error)}` };
  }
  const queue = await queueOf(redis, message.exchange, message.routingKey);
  return { list: queueList(queue, message.priority), text: message.envelope };
}

/** An envelope with both of its `redelivered` flags set, as kombu writes it when it puts a message back. */
export function redelivered(envelope: string): string {
  return toPythonJson(flagged(parseJson(envelope)));
}

/** The envelope of an unacked value with both of its `redelivered` flags set, as kombu restores it. Throws if it is none. */
export function redelivery(value: string): {
  envelope: string;
  exchange: string;
  routingKey: string;
  priority: number;
} {
  const parsed = parseJson(value);
  if (!Array.isArray(parsed)) throw new SyntaxError('it is no list');
  const [envelope, exchange, routingKey] = parsed as readonly Json[];
  if (!isObject(envelope) || typeof exchange !== 'string' || typeof routingKey !== 'string')
    throw new SyntaxError('it is no message');
  const message = flagged(envelope);
  const priority = Number(message.properties.priority ?? 0);
  return {
    envelope: toPythonJson(message),
    exchange,
    routingKey,
    priority: Number.isInteger(priority) ? Math.min(Math.max(priority, 0), 9) : 0,
  };
}

function flagged(envelope: Json): {
  readonly [key: string]: Json;
  readonly properties: { readonly [key: string]: Json };
} {
  if (!isObject(envelope)) throw new SyntaxError('it is no message');
  const { headers, properties } = envelope;
  if (!isObject(properties) || !isObject(properties.delivery_info)) throw new SyntaxError('it has no delivery_info');
  return {
    ...envelope,
    headers: { ...(isObject(headers) ? headers : {}), redelivered: true },
    properties: { ...properties, delivery_info: { ...properties.delivery_info, redelivered: true } },
  };
}

/** The queue that a routing key leads to: itself for the anonymous exchange, else what is bound to the exchange. */
async function queueOf(redis: Redis, exchange: string, routingKey: string): Promise<string> {
  if (exchange === '') return routingKey;
  const bindings = await redis.smembers(`_kombu.binding.${exchange}`);
  for (const binding of bindings) {
    const [key, pattern, queue] = binding.split(KOMBU.separator);
    if (queue !== undefined && (key === routingKey || matches(pattern, routingKey))) return queue;
  }
  return routingKey;
}

/** Topic exchanges store the pattern as a regular expression of Python's. */
function matches(pattern: string | undefined, routingKey: string): boolean {
  if (!pattern) return false;
  try {
    return new RegExp(pattern).test(routingKey);
  } catch {
    return false;
  }
}

function isObject(value: unknown): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
