import type { Redis } from 'ioredis';
import { forward } from '../lua/forward.ts';
import { type MessageToPark, park } from '../lua/park.ts';
import { type Reserved, reserve } from '../lua/reserve.ts';
import { restoreOwn, restoreTags } from '../lua/restore.ts';
import { type Settlement, settle } from '../lua/settle.ts';
import { workerHeartbeat } from '../lua/worker-heartbeat.ts';
import { RingbeatError } from '../protocol/errors.ts';
import { readDelay } from '../protocol/message-reader.ts';
import { revokedRecord } from '../protocol/result.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import type { Namespace } from '../registry/namespace.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';

/** The list beside a queue into which producers put what is for later. */
const SUFFIX = '.delayed';

/** Most messages and bytes that are taken at once. */
const MAX_BATCH = 250;
const MAX_BYTES = 1_048_576;

/** Empty lists are looked at again after the first of these, ms, doubling up to the second. */
const POLL_MIN_MS = 5;
const POLL_MAX_MS = 100;

/** How often to look whether there is anything to do at all, ms. */
const IDLE_MS = 1_000;

/** How often others hear that what this node holds is not lost, ms. */
const HEARTBEAT_MS = 2_000;

const RESULT_EXPIRES_SEC = 86_400;

export interface DelayedQueuesOptions {
  readonly redis: Redis;
  readonly nodeId: string;
  /** Tasks whose messages are dropped. */
  readonly revoked: RevokedTasks;
  readonly log: Log;
  /** The namespace; null while it is not in Redis. */
  namespace(): Namespace | null;
}

/**
 * Takes messages from `<queue>.delayed` of the queues that the namespace names: those with a future eta are parked until
 * then, the others go on to `<queue>` at once. So ETA tasks need no bundled worker. Every node does it; each message is
 * taken by one. Like a worker's, what a node took lies in unacked until it has been moved on.
 */
export class DelayedQueues implements Service {
  readonly #options: DelayedQueuesOptions;
  readonly #loop: Loop;
  readonly #reported = new Set<string>();
  #counter = 1;
  #pollMs = POLL_MIN_MS;
  #heardAtMs = -Infinity;

  constructor(options: DelayedQueuesOptions) {
    this.#options = options;
    this.#loop = new Loop('delayed_queues', options.log, () => this.#move());
  }

  start(): void {
    this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
    await this.#leave();
  }

  async #move(): Promise<number> {
    const { redis, nodeId } = this.#options;
    const namespace = this.#options.namespace();
    if (namespace === null || namespace.delayedQueues.length === 0) {
      await this.#leave();
      return IDLE_MS;
    }
    await this.#beat(namespace.name);
    // A batch that could not be moved to its end is given again under the same number.
    const { nowMs, messages, wrongTypes } = await reserve(redis, namespace.name, {
      workerId: nodeId,
      counter: this.#counter,
      limit: MAX_BATCH,
      byteLimit: MAX_BYTES,
      queues: namespace.delayedQueues.map((queue) => queue + SUFFIX),
    });
    this.#report(wrongTypes);
    if (messages.length === 0) {
      this.#counter += 1;
      this.#pollMs = Math.min(this.#pollMs * 2, POLL_MAX_MS);
      return this.#pollMs;
    }
    try {
      await this.#moveBatch(namespace, messages, nowMs);
    } catch (error) {
      if (!(error instanceof RingbeatError) || error.code !== 'NAMESPACE_GONE') throw error;
      const tags = messages.map(({ tag }) => tag);
      await restoreTags(redis, namespace.name, nodeId, tags);
      return IDLE_MS;
    }
    this.#counter += 1;
    this.#pollMs = POLL_MIN_MS;
    return 0;
  }

  async #moveBatch({ name, shards }: Namespace, messages: readonly Reserved[], nowMs: number): Promise<void> {
    const { redis, nodeId, revoked } = this.#options;
    const toPark: MessageToPark[] = [];
    const toForward: { readonly tag: string; readonly list: string }[] = [];
    const settlements: Settlement[] = [];
    for (const { tag, list: from, envelope } of messages) {
      const list = from.replace(SUFFIX_OF_LIST, (_, step: string | undefined) => step ?? '');
      const delay = readDelay(envelope);
      if (delay !== null && revoked.has(delay.id)) {
        const record = revokedRecord({ id: delay.id, groupId: null, parentId: null }, 'revoked', nowMs);
        settlements.push({
          tag,
          mode: 'held',
          result: { taskId: delay.id, record },
          letter: null,
          run: null,
          actions: [],
        });
      } else if (delay !== null && delay.etaMs !== null && delay.etaMs > nowMs) {
        toPark.push({ tag, taskId: delay.id, list, etaMs: delay.etaMs });
      } else {
        toForward.push({ tag, list });
      }
    }
    if (toPark.length > 0) await park(redis, name, { workerId: nodeId, shards, messages: toPark });
    if (toForward.length > 0) {
      const { stuck } = await forward(redis, name, nodeId, toForward);
      for (const { tag, list } of stuck.map((position) => toForward[position]!)) {
        const letter = { queue: list, reason: 'its queue is a key of another type' };
        settlements.push({ tag, mode: 'held', result: null, letter, run: null, actions: [] });
      }
    }
    if (settlements.length === 0) return;
    const request = {
      workerId: nodeId,
      counter: this.#counter,
      resultExpiresSec: RESULT_EXPIRES_SEC,
      shards: 0,
      settlements,
    };
    await settle(redis, name, request);
  }

  async #beat(namespace: string): Promise<void> {
    if (monotonicMs() - this.#heardAtMs < HEARTBEAT_MS) return;
    await workerHeartbeat(this.#options.redis, namespace, this.#options.nodeId);
    this.#heardAtMs = monotonicMs();
  }

  /** Gives back what it holds, and is no longer missed. */
  async #leave(): Promise<void> {
    const name = this.#options.namespace()?.name;
    if (this.#heardAtMs === -Infinity || name === undefined) return;
    await restoreOwn(this.#options.redis, name, this.#options.nodeId);
    this.#heardAtMs = -Infinity;
  }

  #report(wrongTypes: readonly string[]): void {
    for (const key of wrongTypes) {
      if (this.#reported.has(key)) continue;
      this.#reported.add(key);
      this.#options.log.error({ event: 'queue_is_no_list', key });
    }
  }
}

/** `celery.delayed\x06\x163` -> `celery\x06\x163`. */
const SUFFIX_OF_LIST = /\.delayed(\x06\x16\d)?$/;
