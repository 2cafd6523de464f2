import type { Redis } from 'ioredis';
import { type DispatchReply, dispatch } from '../lua/dispatch.ts';
import type { NamespaceKeys, ShardKeys } from '../lua/keys.ts';
import type { Namespace } from '../registry/namespace.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';

/** Entries a call moves at most: about 2 ms of Redis. */
const LIMIT = 400;
/** Least time between two calls while nothing is overdue: several messages then share the cost of a call. */
const MIN_TICK_MS = 2;
/** Longest sleep: what a lost wake-up costs at most. */
const MAX_SLEEP_MS = 1_000;

export interface TickerOptions {
  readonly name: string;
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  readonly clock: RedisClock;
  readonly log: Log;
  /** 0 for owned shards; for the others how much overdue their head must be before this node helps. */
  readonly graceMs: number;
  /** The shards to look after now. */
  shards(): readonly ShardKeys[];
  /** The namespace; null while it is not in Redis. */
  namespace(): Namespace | null;
  onDispatch(reply: DispatchReply): void;
}

/** Dispatches what is due in its shards, and sleeps until the next is. */
export class Ticker implements Service {
  readonly #options: TickerOptions;
  readonly #loop: Loop;
  #turn = 0;
  #lastTurnAtMs = monotonicMs();

  constructor(options: TickerOptions) {
    this.#options = options;
    this.#loop = new Loop(options.name, options.log, () => this.#tick());
  }

  start(): void {
    this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  /** Something became due at this Redis time, or the shards changed (no argument). */
  wake(dueMs = 0): void {
    const { clock, graceMs } = this.#options;
    this.#loop.wake(Math.max(0, Math.min(dueMs + graceMs - clock.nowMs(), MAX_SLEEP_MS)));
  }

  /** ms since the loop last turned, whether Redis answered or not. */
  get silentMs(): number {
    return monotonicMs() - this.#lastTurnAtMs;
  }

  async #tick(): Promise<number> {
    const { redis, names, clock, graceMs, onDispatch } = this.#options;
    const shards = this.#options.shards();
    const namespace = this.#options.namespace();
    const sentAtMs = monotonicMs();
    this.#lastTurnAtMs = sentAtMs;
    if (namespace === null || shards.length === 0) return MAX_SLEEP_MS;
    // A full call leaves the last shards out: begin with another one each time.
    const first = this.#turn++ % shards.length;
    const reply = await dispatch(redis, names, {
      epoch: namespace.epoch,
      shards: [...shards.slice(first), ...shards.slice(0, first)],
      limit: LIMIT,
      graceMs,
      misfireThresholdMs: namespace.misfireThresholdMs,
      queueCap: namespace.queueCap,
      recoveryRate: namespace.recoveryRate,
      missedFirst: namespace.missedFirst === 1,
    });
    clock.observe(reply.nowMs, sentAtMs);
    onDispatch(reply);
    if (reply.isMoreDue) return 0;
    if (reply.nextDueMs === null) return MAX_SLEEP_MS;
    const minMs = Math.max(MIN_TICK_MS, graceMs / 2);
    if (reply.nextDueMs === 'soon') return minMs;
    // Counted from sending: what the call itself took is not slept again.
    const dueInMs = reply.nextDueMs + graceMs - reply.nowMs - (monotonicMs() - sentAtMs);
    return Math.min(Math.max(dueInMs, minMs), MAX_SLEEP_MS);
  }
}
