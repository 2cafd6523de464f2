import type { Redis } from 'ioredis';
import { type TokensTaken, takeTokens } from '../lua/take-tokens.ts';
import { messageOf } from '../protocol/errors.ts';
import { bucketSize, ratePerSec } from '../protocol/rate-limit.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Delivery } from './delivery.ts';

/** Most tasks, and most tokens for one of them, that one call asks for. */
const MAX_TASKS = 200;
const MAX_TOKENS = 1_000;

/** How long to wait for a Redis that does not answer, ms. */
const FAILED_MS = 1_000;

/** Timers overflow beyond this. */
const MAX_WAIT_MS = 3_600_000;

export interface GlobalRateLimitsOptions {
  readonly redis: Redis;
  readonly namespace: string;
  readonly log: Log;
  /** Gets messages that were held back and may start now. */
  onAdmitted(deliveries: readonly Delivery[]): void;
}

interface Limited {
  readonly task: string;
  /** As it was given. */
  readonly limit: string | number | null;
  readonly perSec: number;
  readonly held: Delivery[];
  /** When to ask for tokens, on the monotonic clock. */
  askAtMs: number;
}

/**
 * Holds back messages of tasks that are limited over all workers of the namespace together, whose buckets are in Redis. One
 * call at a time asks for all that are held.
 */
export class GlobalRateLimits {
  readonly #options: GlobalRateLimitsOptions;
  readonly #limited = new Map<string, Limited>();
  #timer: NodeJS.Timeout | null = null;
  #isAsking = false;
  #isClosed = false;
  #hasFailed = false;

  constructor(options: GlobalRateLimitsOptions) {
    this.#options = options;
  }

  get isOn(): boolean {
    return this.#limited.size > 0;
  }

  limits(task: string): boolean {
    return this.#limited.has(task);
  }

  /** The limit of a task as it was given; null: none. */
  of(task: string): string | number | null {
    return this.#limited.get(task)?.limit ?? null;
  }

  /** Sets a task's limit. Throws RangeError for what is no limit. */
  set(task: string, limit: string | number | null): void {
    const perSec = ratePerSec(limit);
    const held = this.#limited.get(task)?.held ?? [];
    if (perSec === null) {
      this.#limited.delete(task);
      if (held.length > 0) this.#options.onAdmitted(held.splice(0));
    } else {
      this.#limited.set(task, { task, limit, perSec, held, askAtMs: 0 });
      this.#arm();
    }
  }

  /** How many messages are held. */
  get size(): number {
    let size = 0;
    for (const { held } of this.#limited.values()) size += held.length;
    return size;
  }

  /** Holds a message until it may start; false when its task has no such limit. */
  hold(delivery: Delivery): boolean {
    const limited = this.#limited.get(delivery.task.name);
    if (limited === undefined) return false;
    limited.held.push(delivery);
    this.#arm();
    return true;
  }

  deliveries(): Delivery[] {
    return [...this.#limited.values()].flatMap(({ held }) => held);
  }

  /** Takes them out again. */
  takeWhere(isWanted: (delivery: Delivery) => boolean): Delivery[] {
    const taken: Delivery[] = [];
    for (const { held } of this.#limited.values()) {
      const kept = held.filter((delivery) => !isWanted(delivery));
      taken.push(...held.filter(isWanted));
      held.splice(0, held.length, ...kept);
    }
    return taken;
  }

  /** Hands nothing out any more. */
  close(): void {
    this.#isClosed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** One timer, for whoever may ask first. */
  #arm(): void {
    if (this.#isClosed || this.#isAsking) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    let soonestMs = Number.POSITIVE_INFINITY;
    for (const { held, askAtMs } of this.#limited.values())
      if (held.length > 0) soonestMs = Math.min(soonestMs, askAtMs - monotonicMs());
    if (soonestMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#ask(), Math.min(Math.max(0, Math.ceil(soonestMs)), MAX_WAIT_MS));
  }

  async #ask(): Promise<void> {
    this.#timer = null;
    const { redis, namespace, log } = this.#options;
    const asking = this.#due();
    if (asking.length === 0) {
      this.#arm();
      return;
    }
    const wanted = asking.map(({ task, perSec, held }) => ({
      task,
      perSec,
      size: bucketSize(perSec),
      wanted: Math.min(held.length, MAX_TOKENS),
    }));
    this.#isAsking = true;
    try {
      this.#answered(asking, await takeTokens(redis, namespace, wanted));
      this.#hasFailed = false;
    } catch (error) {
      if (!this.#hasFailed) log.warn({ event: 'redis_call_failed', call: 'take-tokens', reason: messageOf(error) });
      this.#hasFailed = true;
      for (const limited of asking) limited.askAtMs = monotonicMs() + FAILED_MS;
    } finally {
      this.#isAsking = false;
      this.#arm();
    }
  }

  /** Tasks to ask for; what was restored to somebody else needs no token. */
  #due(): Limited[] {
    const nowMs = monotonicMs();
    const due = [...this.#limited.values()].filter(({ held, askAtMs }) => held.length > 0 && askAtMs <= nowMs);
    for (const { held } of due) {
      const kept = held.filter(({ isLost }) => !isLost);
      held.splice(0, held.length, ...kept);
    }
    return due.filter(({ held }) => held.length > 0).slice(0, MAX_TASKS);
  }

  #answered(asked: readonly Limited[], answers: readonly TokensTaken[]): void {
    const nowMs = monotonicMs();
    const admitted = asked.flatMap((limited, index) => {
      const { taken, waitMs } = answers[index]!;
      limited.askAtMs = nowMs + waitMs;
      return limited.held.splice(0, taken);
    });
    if (admitted.length > 0 && !this.#isClosed) this.#options.onAdmitted(admitted);
  }
}
