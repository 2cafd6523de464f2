import type { Redis } from 'ioredis';
import { decodeShared } from '../lua/definition.ts';
import type { NamespaceKeys, ShardKeys } from '../lua/keys.ts';
import { type Refill, refillTimes } from '../lua/refill-times.ts';
import { decodeTimes } from '../lua/times.ts';
import { messageOf } from '../protocol/errors.ts';
import { computeTimes } from '../registry/compute-times.ts';
import type { Namespace } from '../registry/namespace.ts';
import type { RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';

const EVERY_MS = 1_000;
/** Calendars computed further in one round of a shard. */
const BATCH = 100;

export interface CalendarsOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  readonly clock: RedisClock;
  readonly log: Log;
  /** The shards of this node, with their numbers. */
  shards(): readonly ShardKeys[];
  namespace(): Namespace | null;
  /** Something became due at this Redis time. */
  onDue(dueMs: number): void;
}

/**
 * Computes calendars and exclusions of this node's shards further, well before they run dry, and schedules what waited for
 * it. What many schedules share is computed once.
 */
export class Calendars implements Service {
  readonly #options: CalendarsOptions;
  readonly #loop: Loop;
  /** Calendars that could not be computed, so that each is told of once. */
  readonly #broken = new Set<string>();

  constructor(options: CalendarsOptions) {
    this.#options = options;
    this.#loop = new Loop('calendars', options.log, () => this.#refill());
  }

  start(): void {
    this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  /** Shards came to this node: their calendars may have been left alone for long. */
  wake(): void {
    this.#loop.wake();
  }

  async #refill(): Promise<number> {
    const namespace = this.#options.namespace();
    if (namespace === null) return EVERY_MS;
    const unfinished = await Promise.all(
      this.#options.shards().map((keys) => this.#refillShard(keys, namespace.epoch)),
    );
    return unfinished.includes(true) ? 0 : EVERY_MS;
  }

  /** Whether there is more to do at once. */
  async #refillShard(keys: ShardKeys, epoch: string): Promise<boolean> {
    const { redis, names, clock, onDue } = this.#options;
    const nowMs = clock.nowMs();
    const [numbers, claims] = await Promise.all([
      redis.zrangebyscore(keys.refills, '-inf', nowMs, 'LIMIT', 0, BATCH),
      redis.exists(keys.claims),
    ]);
    if (numbers.length === 0 && claims === 0) return false;
    const refills = numbers.length === 0 ? [] : await this.#compute(keys, numbers, nowMs);
    const { found, earliestMs } = await refillTimes(redis, names, keys, epoch, refills);
    if (earliestMs !== null) onDue(earliestMs);
    return found > 0 || numbers.length === BATCH || refills.some(({ refillAtMs }) => refillAtMs <= nowMs);
  }

  async #compute(keys: ShardKeys, numbers: readonly string[], nowMs: number): Promise<Refill[]> {
    const { redis, log } = this.#options;
    const [texts, times, ...heads] = await Promise.all([
      redis.hmget(keys.templates, ...numbers),
      redis.hmget(keys.times, ...numbers),
      ...[keys.due, keys.claims, keys.missed].map((key) => redis.zrange(key, '0', '0', 'WITHSCORES')),
    ]);
    // What was restored without its times begins with the oldest run that waits for it.
    const oldestMs = Math.min(nowMs, ...heads.map(([, score]) => Math.floor(Number(score ?? nowMs))));
    return numbers.flatMap((number, i): Refill[] => {
      const text = texts[i];
      const known = times[i];
      // Dropped since: the script clears what is left of it.
      if (text == null) return [{ number, readUntil: '', more: '', refillAtMs: nowMs }];
      const decoded = decodeShared(text);
      const kind = decoded.kind === 'exclusion' ? decoded.kind : 'calendar';
      const { json } = decoded;
      try {
        const untilMs = known == null ? null : decodeTimes(known).untilMs;
        const more =
          known == null ? computeTimes(kind, json, oldestMs) : computeTimes(kind, json, nowMs, untilMs ?? nowMs);
        const refillAtMs = Math.min(more.refillAtMs, Number.MAX_SAFE_INTEGER);
        return [{ number, readUntil: known?.slice(0, 15) ?? '', more: more.times, refillAtMs }];
      } catch (error) {
        if (!this.#broken.has(json)) log.error({ event: 'calendar_failed', calendar: json, reason: messageOf(error) });
        this.#broken.add(json);
        return [];
      }
    });
  }
}
