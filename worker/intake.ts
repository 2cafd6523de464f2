import type { Redis } from 'ioredis';
import { type DirectStart, type Reserved, type ReserveReply, reserve } from '../lua/reserve.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Lane } from './lane.ts';
import type { WorkerMetrics } from './metrics.ts';

/** Most bytes that one reserve takes. */
const MAX_BYTES = 1_048_576;

/** Empty queues are looked at again after the first of these, ms, doubling up to the second. */
const POLL_MIN_MS = 1;
const POLL_MAX_MS = 20;

export interface IntakeOptions {
  readonly redis: Redis;
  readonly namespace: string;
  readonly workerId: string;
  readonly queues: readonly string[];
  readonly clock: RedisClock;
  readonly metrics: WorkerMetrics;
  readonly log: Log;
  /** Told when messages can be taken again after a pause. */
  onReady(): void;
}

/** Takes messages off the queues, fair between them, and pauses while these are empty. */
export class Intake {
  readonly #options: IntakeOptions;
  readonly #lane: Lane;
  #queues: readonly string[];
  #pollMs = POLL_MIN_MS;
  #timer: NodeJS.Timeout | null = null;
  #isStopped = false;
  readonly #reported = new Set<string>();

  constructor(options: IntakeOptions) {
    this.#options = options;
    this.#queues = options.queues;
    this.#lane = new Lane('reserve', options.log, () => options.clock.disturbed());
  }

  /** Queues that messages are taken from. */
  get queues(): readonly string[] {
    return [...this.#queues].sort();
  }

  add(queue: string): void {
    if (!this.#queues.includes(queue)) this.#queues = [...this.#queues, queue];
  }

  cancel(queue: string): void {
    this.#queues = this.#queues.filter((name) => name !== queue);
  }

  /** Whether messages can be taken now: no call is in flight, and this is no pause. */
  get isReady(): boolean {
    return !this.#isStopped && !this.#lane.isBusy && this.#timer === null && this.#queues.length > 0;
  }

  /** Takes up to so many messages, those that start as they are taken by `direct`. Only when ready. */
  take(
    limit: number,
    direct: DirectStart | null,
    onTaken: (messages: readonly Reserved[], nowMs: number) => void,
  ): void {
    const { redis, namespace, workerId, clock } = this.#options;
    const queues = this.#queues;
    this.#queues = [...queues.slice(1), ...queues.slice(0, 1)];
    let sentAtMs = monotonicMs();
    this.#lane.send(
      (counter) => {
        sentAtMs = monotonicMs();
        const request = { workerId, counter, limit, byteLimit: MAX_BYTES, queues };
        return reserve(redis, namespace, direct === null ? request : { ...request, direct });
      },
      (reply) => {
        clock.observe(reply.nowMs, sentAtMs);
        this.#report(reply);
        this.#pace(reply.messages.length, limit);
        onTaken(reply.messages, reply.nowMs);
      },
    );
  }

  /** Takes nothing for the longest time between two looks. */
  pause(): void {
    this.#readyIn(POLL_MAX_MS);
  }

  /** Takes no more messages; resolves when none are on their way. */
  async stop(): Promise<void> {
    this.#halt();
    await this.#lane.idle();
  }

  /** Answers that still come are dropped. */
  close(): void {
    this.#halt();
    this.#lane.close();
  }

  /** Queues that gave all that was asked for have more. */
  #pace(taken: number, limit: number): void {
    if (taken > 0) this.#pollMs = POLL_MIN_MS;
    if (taken >= limit) return;
    this.#readyIn(this.#pollMs);
    this.#pollMs = Math.min(this.#pollMs * 2, POLL_MAX_MS);
  }

  #report(reply: ReserveReply): void {
    const { metrics, log } = this.#options;
    if (reply.deadLetters > 0) {
      metrics.counts.dead += reply.deadLetters;
      log.error({ event: 'no_message', elements: reply.deadLetters });
    }
    for (const key of reply.wrongTypes) {
      if (this.#reported.has(key)) continue;
      this.#reported.add(key);
      log.error({ event: 'queue_is_no_list', key });
    }
  }

  #readyIn(ms: number): void {
    if (this.#isStopped) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#options.onReady();
    }, ms);
  }

  #halt(): void {
    this.#isStopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
