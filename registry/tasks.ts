import type { Redis } from 'ioredis';
import { type NamespaceKeys, queueList, resultKey, shardKeys, shardOf } from '../lua/keys.ts';
import { parkTasks, type TaskToPark } from '../lua/park-tasks.ts';
import { parkedId, parkedMembers } from '../lua/parked.ts';
import { broadcast } from '../lua/pidbox.ts';
import { pushTasks, type SendOutcome, type TaskToPush } from '../lua/push-tasks.ts';
import { revokeParked } from '../lua/revoke-parked.ts';
import { LogicalClock } from '../protocol/control-message.ts';
import { type Json, parseJson } from '../protocol/json.ts';
import { uuidOf } from '../protocol/message.ts';
import { taskEnvelope } from '../protocol/task-message.ts';
import { isObject } from '../schedule/fields.ts';
import { parseInstant } from '../schedule/instant.ts';
import type { TaskSpec } from '../schedule/task-spec.ts';
import { QueueBindings } from './bindings.ts';
import type { Namespace } from './namespace.ts';
import type { ParentTask } from './workflows.ts';

/** s that the record of a revoked task is kept: Celery's default for all results. */
const RESULT_EXPIRES_SEC = 86_400;

/** Most tasks that one script call takes. */
const BATCH = 250;

/** Messages of one task that are looked for among the parked ones: more than that share an id by accident only. */
const MAX_COPIES = 8;

export interface TasksOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  /** Throws NAMESPACE_GONE while there is none. */
  namespace(): Namespace;
  /** Told of the kombu envelopes that were sent, and of Redis's time then, ms since epoch; waited for. */
  onSent?(envelopes: readonly string[], nowMs: number): Promise<void>;
}

export interface TaskOfRequest {
  readonly task: TaskSpec;
  /** Which of its request's tasks it is, from 0. */
  readonly position: number;
  /** The task that sends it; absent or null: none. */
  readonly parent?: ParentTask | null;
}

export interface Sent {
  readonly taskId: string;
  readonly outcome: SendOutcome;
}

export interface TaskState {
  readonly taskId: string;
  /** Of Celery's states, and SCHEDULED while it is parked; PENDING: nothing is known of it. */
  readonly state: string;
  /** When it is to run, while it is parked, ms since epoch. */
  readonly etaMs: number | null;
  readonly result: Json;
  readonly traceback: string | null;
  readonly doneAtMs: number | null;
}

/** Sends single tasks, now or later, tells their state, and revokes them. */
export class Tasks {
  readonly #options: TasksOptions;
  readonly #bindings: QueueBindings;
  readonly #clock = new LogicalClock();

  constructor(options: TasksOptions) {
    this.#options = options;
    this.#bindings = new QueueBindings(options.redis);
  }

  /**
   * Sends tasks, those of one queue in the order given; what has an eta or a countdown is parked until then. A countdown
   * and an expiry count from Redis's time. What the same request did within the last 10 minutes is not done again, and its
   * tasks have the same ids again. Answers an outcome for each. Throws NAMESPACE_GONE.
   */
  async send(tasks: readonly TaskOfRequest[], requestId: string): Promise<Sent[]> {
    if (tasks.length === 0) return [];
    const { redis, names, onSent } = this.#options;
    const { name, epoch, shards, queueCap } = this.#options.namespace();
    await this.#bindings.bind(
      tasks.map(({ task }) => task.queue),
      epoch,
    );
    const nowMs = await this.#nowMs();
    const replyTo = uuidOf(`ringbeat:${name}`);
    const messages = tasks.map((task) => messageOf(task, { namespace: name, requestId, nowMs, replyTo }));
    const outcomes: SendOutcome[] = new Array(tasks.length).fill('taken');

    const byShard = new Map<number, TaskToPark[]>();
    const toPush: { readonly at: number; readonly task: TaskToPush }[] = [];
    messages.forEach(({ etaMs, ...message }, at) => {
      if (etaMs === null) {
        toPush.push({ at, task: message });
        return;
      }
      const shard = shardOf(parkedId(message.taskId), shards);
      const batch = byShard.get(shard) ?? [];
      byShard.set(shard, batch);
      batch.push({ ...message, etaMs });
    });

    const calls: Promise<void>[] = [];
    for (const batch of pages(toPush)) {
      const remembering = shardKeys(name, shardOf(requestId, shards));
      const pushed = pushTasks(redis, names, remembering, {
        epoch,
        queueCap,
        requestId,
        tasks: batch.map(({ task }) => task),
      });
      calls.push(
        pushed.then((answers) => {
          batch.forEach(({ at }, i) => {
            outcomes[at] = answers[i]!;
          });
        }),
      );
    }
    for (const [shard, parked] of byShard) {
      for (const batch of pages(parked)) {
        const call = parkTasks(redis, names, shardKeys(name, shard), {
          epoch,
          shard,
          requestId,
          tasks: batch,
        });
        calls.push(call.then(() => {}));
      }
    }
    await Promise.all(calls);
    const taken = messages.filter((_, i) => outcomes[i] === 'taken');
    await onSent?.(
      taken.map(({ envelope }) => envelope),
      nowMs,
    );
    return messages.map(({ taskId }, i) => ({ taskId, outcome: outcomes[i]! }));
  }

  /** What is known of a task: its result record, as Celery's workers and ours write it, and whether it is parked. */
  async state(taskId: string): Promise<TaskState> {
    const { redis } = this.#options;
    const { name, shards } = this.#options.namespace();
    const record = await redis.get(resultKey(taskId));
    const keys = shardKeys(name, shardOf(parkedId(taskId), shards));
    const scores = await redis.zmscore(keys.extra, ...parkedMembers(taskId, MAX_COPIES));
    const etas = scores.flatMap((score) => (score === null ? [] : [Number(score)]));
    const etaMs = etas.length === 0 ? null : Math.min(...etas);
    const unknown = { taskId, etaMs, result: null, traceback: null, doneAtMs: null };
    if (record === null) return { ...unknown, state: etaMs === null ? 'PENDING' : 'SCHEDULED' };
    return { ...unknown, ...readRecord(record) };
  }

  /**
   * Revokes tasks: parked messages go for good, and every worker is told to drop what it holds or gets of them. Answers
   * the ids of those that were parked, which are revoked by now.
   */
  async revoke(taskIds: readonly string[]): Promise<string[]> {
    const { redis } = this.#options;
    const { name, shards } = this.#options.namespace();
    const request = { shards, taskIds, resultExpiresSec: RESULT_EXPIRES_SEC, nowMs: await this.#nowMs() };
    const revoked = await revokeParked(redis, name, request);
    await broadcast(redis, this.#clock, 'revoke', {
      task_id: taskIds.length === 1 ? taskIds[0]! : [...taskIds],
      terminate: false,
      signal: 'SIGTERM',
    });
    return revoked;
  }

  async #nowMs(): Promise<number> {
    const [seconds, micros] = await this.#options.redis.time();
    return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
  }
}

interface Message extends TaskToPush {
  readonly taskId: string;
  readonly tag: string;
  readonly etaMs: number | null;
}

interface Sender {
  readonly namespace: string;
  readonly requestId: string;
  readonly nowMs: number;
  readonly replyTo: string;
}

function messageOf({ task: spec, position, parent = null }: TaskOfRequest, sender: Sender): Message {
  const { namespace, requestId, nowMs, replyTo } = sender;
  const { queue, options } = spec;
  // A repetition of the request must mean the same task.
  const name = `${namespace}:task:${requestId}:${position}`;
  const taskId = options.task_id ?? uuidOf(name);
  // An id of ours is as unique as a tag must be; parked, the two take the place of one.
  const tag = options.task_id === null ? taskId : uuidOf(`${name}:tag`);
  const etaMs = etaOf(spec, nowMs);
  const priority = options.priority ?? 0;
  const envelope = taskEnvelope({
    id: taskId,
    parent,
    task: spec.task,
    args: spec.args,
    kwargs: spec.kwargs,
    queue,
    etaMs,
    expires: expiryOf(options.expires, nowMs),
    priority,
    timeLimit: options.time_limit,
    softTimeLimit: options.soft_time_limit,
    ignoreResult: options.ignore_result,
    shadow: options.shadow,
    headers: options.headers,
    deliveryTag: tag,
    origin: `ringbeat@${namespace}`,
    replyTo,
  });
  return { position, queue, list: queueList(queue, priority), envelope, taskId, tag, etaMs };
}

/** As in Celery, a countdown of 0 is none. */
function etaOf({ eta, countdown }: TaskSpec, nowMs: number): number | null {
  if (eta !== null) return parseInstant(eta);
  return countdown === null || countdown === 0 ? null : nowMs + Math.round(countdown * 1_000);
}

function expiryOf(expires: string | number | null, nowMs: number): { atMs: number; inMs: number } | null {
  if (expires === null) return null;
  const atMs = typeof expires === 'number' ? nowMs + Math.round(expires * 1_000) : (parseInstant(expires) ?? nowMs);
  return { atMs, inMs: atMs - nowMs };
}

function pages<Item>(items: readonly Item[]): Item[][] {
  const count = Math.ceil(items.length / BATCH);
  return Array.from({ length: count }, (_, page) => items.slice(page * BATCH, (page + 1) * BATCH));
}

/** Reads a result record (celery/backends/base.py). What is none is shown as it is. */
function readRecord(text: string): Omit<TaskState, 'taskId' | 'etaMs'> {
  const record = parseRecord(text);
  if (record === null || typeof record.status !== 'string') {
    return { state: 'UNREADABLE', result: text, traceback: null, doneAtMs: null };
  }
  const { status, result, traceback, date_done } = record;
  return {
    state: status,
    result: result ?? null,
    traceback: typeof traceback === 'string' ? traceback : null,
    doneAtMs: typeof date_done === 'string' ? instantOf(date_done) : null,
  };
}

function parseRecord(text: string): { readonly [key: string]: Json } | null {
  try {
    // Python writes what JSON has no word for bare: it becomes text, the only way to keep it.
    const json = text.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (token) =>
      token[0] === '"' ? token : `"${token}"`,
    );
    const value = parseJson(json);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

/** Celery 5.2 writes UTC without an offset. */
function instantOf(text: string): number | null {
  const atMs = Date.parse(/(?:Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`);
  return Number.isNaN(atMs) ? null : atMs;
}
