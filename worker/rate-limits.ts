import { type RegisteredTask, tasks } from '../client/task.ts';
import { bucketSize, ratePerSec } from '../protocol/rate-limit.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Delivery } from './delivery.ts';
import { GlobalRateLimits, type GlobalRateLimitsOptions } from './global-rate-limits.ts';

interface Bucket {
  readonly perMs: number;
  /** Most tokens in it. */
  readonly size: number;
  tokens: number;
  atMs: number;
  readonly held: Delivery[];
}

/**
 * Holds back messages whose tasks have started too often of late: a token bucket for each task that has a limit on this
 * worker, and then one in Redis for each that has a limit on all workers together.
 */
export class RateLimits {
  readonly #onAdmitted: (deliveries: readonly Delivery[]) => void;
  readonly #limits = new Map<string, string | number | null>();
  readonly #buckets = new Map<string, Bucket>();
  readonly #global: GlobalRateLimits;
  /** Tasks whose own limits hold here, and the revision of the registry as of which these are all. */
  readonly #known = new Map<string, RegisteredTask>();
  #knownAt = Number.NaN;
  #timer: NodeJS.Timeout | null = null;
  #revision = 0;

  /** `onAdmitted` gets messages that were held back and may start now. */
  constructor(options: GlobalRateLimitsOptions) {
    this.#onAdmitted = options.onAdmitted;
    this.#global = new GlobalRateLimits(options);
  }

  /** Grows whenever a limit changes. */
  get revision(): number {
    this.#readTasks();
    return this.#revision;
  }

  /** Whether any task here is limited; look before asking for one. */
  get isOn(): boolean {
    this.#readTasks();
    return this.#buckets.size > 0 || this.#global.isOn;
  }

  /** Whether this task is limited. */
  limits(task: string): boolean {
    this.#readTasks();
    return this.#buckets.has(task) || this.#global.limits(task);
  }

  /** How many messages are held back. */
  get size(): number {
    let { size } = this.#global;
    for (const { held } of this.#buckets.values()) size += held.length;
    return size;
  }

  /** The limit of a task on this worker as it was given; null: none. */
  of(task: string): string | number | null {
    this.#readTasks();
    return this.#limits.get(task) ?? null;
  }

  /** The limit of a task on all workers together, as this worker has it; null: none. */
  globalOf(task: string): string | number | null {
    this.#readTasks();
    return this.#global.of(task);
  }

  /** Sets a task's limit on this worker. Throws RangeError for what is no limit. */
  set(task: string, limit: string | number | null): void {
    this.#readTasks();
    this.#set(task, limit);
  }

  /** Sets a task's limit on all workers together, of which each has to be told. Throws RangeError for what is no limit. */
  setGlobal(task: string, limit: string | number | null): void {
    this.#readTasks();
    this.#global.set(task, limit);
    this.#revision += 1;
  }

  /** Takes over the limits of tasks that were defined since the last time. */
  #readTasks(): void {
    if (this.#knownAt === tasks.revision) return;
    this.#knownAt = tasks.revision;
    for (const [name, task] of tasks) {
      if (this.#known.get(name) === task) continue;
      this.#known.set(name, task);
      this.#set(name, task.options.rateLimit ?? null);
      this.#global.set(name, task.options.globalRateLimit ?? null);
    }
  }

  #set(task: string, limit: string | number | null): void {
    const rate = ratePerSec(limit);
    const held = this.#buckets.get(task)?.held ?? [];
    this.#limits.set(task, limit);
    this.#revision += 1;
    this.#buckets.delete(task);
    if (rate !== null) {
      this.#buckets.set(task, { perMs: rate / 1_000, size: bucketSize(rate), tokens: 1, atMs: monotonicMs(), held });
      this.#release();
    } else if (held.length > 0) this.#pass(held);
  }

  /** Whether a message may start now; if not it is held here until it may. */
  admit(delivery: Delivery): boolean {
    const bucket = this.#buckets.get(delivery.task.name);
    if (bucket !== undefined && (bucket.held.length > 0 || !take(bucket))) {
      bucket.held.push(delivery);
      this.#arm();
      return false;
    }
    return !this.#global.hold(delivery);
  }

  /** Messages that are held back. */
  deliveries(): Delivery[] {
    return [...[...this.#buckets.values()].flatMap(({ held }) => held), ...this.#global.deliveries()];
  }

  /** Takes them out again. */
  takeWhere(isWanted: (delivery: Delivery) => boolean): Delivery[] {
    const taken = this.#global.takeWhere(isWanted);
    for (const { held } of this.#buckets.values()) {
      const kept = held.filter((delivery) => !isWanted(delivery));
      taken.push(...held.filter(isWanted));
      held.splice(0, held.length, ...kept);
    }
    return taken;
  }

  /** Hands nothing out any more. */
  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#global.close();
  }

  /** What this worker lets pass may still have to wait for the others. */
  #pass(deliveries: readonly Delivery[]): void {
    const admitted = deliveries.filter((delivery) => !this.#global.hold(delivery));
    if (admitted.length > 0) this.#onAdmitted(admitted);
  }

  #release(): void {
    const passed: Delivery[] = [];
    for (const bucket of this.#buckets.values()) {
      let count = 0;
      while (count < bucket.held.length && take(bucket)) count += 1;
      passed.push(...bucket.held.splice(0, count));
    }
    this.#pass(passed);
    this.#arm();
  }

  /** One timer, for the bucket that has its next token first. */
  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const nowMs = monotonicMs();
    let soonestMs = Number.POSITIVE_INFINITY;
    for (const { held, tokens, atMs, perMs } of this.#buckets.values())
      if (held.length > 0) soonestMs = Math.min(soonestMs, atMs + (1 - tokens) / perMs - nowMs);
    if (soonestMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.#release();
      },
      Math.min(Math.max(1, Math.ceil(soonestMs)), 3_600_000),
    );
  }
}

function take(bucket: Bucket): boolean {
  const nowMs = monotonicMs();
  bucket.tokens = Math.min(bucket.size, bucket.tokens + (nowMs - bucket.atMs) * bucket.perMs);
  bucket.atMs = nowMs;
  if (bucket.tokens < 1) return false;
  bucket.tokens -= 1;
  return true;
}
