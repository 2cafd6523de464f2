import type { Redis } from 'ioredis';
import { refresh } from '../lua/refresh.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Delivery } from './delivery.ts';
import { Lane } from './lane.ts';

/** Most tags that one script call carries. */
const MAX_BATCH = 500;

/** After this long without word from Redis, ms, others may have taken us for dead: look before running anything. */
const DOUBT_MS = 8_000;

export interface HoldingsOptions {
  readonly redis: Redis;
  readonly namespace: string;
  readonly workerId: string;
  readonly log: Log;
  /** Told of every call that failed. */
  onFailure(): void;
  /** This message was given to somebody else: its task is not to be started, or to be told. */
  onLost(tag: string): void;
  /** So many of those that were asked about are ours no longer; the rest may be started. */
  onVerified(lost: number): void;
}

/** What this worker holds in `unacked`, by delivery tag, and whether that is still so. */
export class Holdings {
  readonly #options: HoldingsOptions;
  readonly #lane: Lane;
  readonly #held = new Map<string, Delivery | null>();
  #verifiedAtMs = monotonicMs();

  constructor(options: HoldingsOptions) {
    this.#options = options;
    this.#lane = new Lane('verify', options.log, () => options.onFailure());
  }

  get size(): number {
    return this.#held.size;
  }

  has(tag: string): boolean {
    return this.#held.has(tag);
  }

  /** `delivery` is null while the message has not been read. */
  add(tag: string, delivery: Delivery | null): void {
    this.#held.set(tag, delivery);
  }

  /** They left `unacked`. */
  drop(tags: Iterable<string>): void {
    for (const tag of tags) this.#held.delete(tag);
  }

  /** They are held by somebody else. */
  lose(tags: readonly string[]): void {
    for (const tag of tags) {
      const delivery = this.#held.get(tag);
      this.#held.delete(tag);
      if (!delivery) continue;
      delivery.isLost = true;
      this.#options.onLost(tag);
    }
  }

  /** Whether nothing was heard of Redis for so long that others may have taken what we hold. */
  get isInDoubt(): boolean {
    return monotonicMs() - this.#verifiedAtMs > DOUBT_MS;
  }

  /** Redis was heard of. Answers whether that was the first for so long that what we hold is in doubt. */
  heard(): boolean {
    const { isInDoubt } = this;
    if (!isInDoubt) this.#verifiedAtMs = monotonicMs();
    return isInDoubt;
  }

  /** Says that we still hold what we hold, so that nobody takes it for lost, and loses what we do not. */
  async refresh(): Promise<void> {
    this.lose(await this.#lostOf([...this.#held.keys()]));
  }

  /** Asks Redis which of these messages are still ours: after a long silence others may have restored them. */
  verify(tags: readonly string[]): void {
    if (this.#lane.isBusy) return;
    this.#lane.send(
      () => this.#lostOf(tags),
      (lost) => {
        this.lose(lost);
        if (lost.length > 0) {
          const reason = 'this worker was taken for dead';
          this.#options.log.warn({ event: 'messages_lost', messages: lost.length, reason });
        }
        this.#verifiedAtMs = monotonicMs();
        this.#options.onVerified(lost.length);
      },
    );
  }

  /** Resolves when nothing is being asked. */
  idle(): Promise<void> {
    return this.#lane.idle();
  }

  /** Asks nothing any more. */
  close(): void {
    this.#lane.close();
  }

  async #lostOf(tags: readonly string[]): Promise<string[]> {
    const { redis, namespace, workerId } = this.#options;
    const gone: string[] = [];
    for (let from = 0; from < tags.length; from += MAX_BATCH) {
      const page = tags.slice(from, from + MAX_BATCH);
      const { lost } = await refresh(redis, namespace, workerId, page);
      gone.push(...page.filter((_, index) => lost.has(index)));
    }
    return gone;
  }
}
