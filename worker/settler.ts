import type { Redis } from 'ioredis';
import { type Settlement, type SettleReply, settle } from '../lua/settle.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Lane } from './lane.ts';

/** Most messages and bytes of records that one settle call carries. */
const MAX_BATCH = 500;
const MAX_BYTES = 1_048_576;

/** A settlement that ends a run in flight takes as much of Redis as so many others. */
const RUN_COST = 2;

/** How long settlements are gathered while tasks take every slot, ms: a call for each of them would cost more than the tasks. */
const GATHER_MS = 10;

export interface SettlerOptions {
  readonly redis: Redis;
  readonly namespace: string;
  readonly workerId: string;
  readonly resultExpiresSec: number;
  readonly lane: Lane;
  /** Shards of the namespace; 0 while no beat node lives. */
  shards(): number;
  /** Told of every batch once it is settled. */
  onSettled(batch: readonly Settlement[], reply: SettleReply): void;
}

/** Collects how messages ended and settles them batch by batch. */
export class Settler {
  readonly #options: SettlerOptions;
  #waiting: Settlement[] = [];
  #sentAtMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: SettlerOptions) {
    this.#options = options;
  }

  /** Settlements that are not yet on their way. */
  get backlog(): number {
    return this.#waiting.length;
  }

  add(settlement: Settlement): void {
    this.#waiting.push(settlement);
  }

  /** Sends the next batch unless one is in flight. `mayGather`: unless one was just sent and the next is small. */
  flush(mayGather: boolean): void {
    const { redis, namespace, workerId, resultExpiresSec, lane, shards, onSettled } = this.#options;
    if (lane.isBusy || this.#waiting.length === 0) return;
    const nowMs = monotonicMs();
    if (mayGather && this.#waiting.length < MAX_BATCH / 10 && nowMs < this.#sentAtMs + GATHER_MS) {
      this.#timer ??= setTimeout(() => {
        this.#timer = null;
        this.flush(false);
      }, GATHER_MS);
      return;
    }
    this.#sentAtMs = nowMs;
    const settlements = this.#take();
    lane.send(
      (counter) => settle(redis, namespace, { workerId, counter, resultExpiresSec, shards: shards(), settlements }),
      (reply) => onSettled(settlements, reply),
    );
  }

  /** What waits is no longer sent. */
  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#waiting = [];
  }

  #take(): Settlement[] {
    let bytes = 0;
    let cost = 0;
    let count = 0;
    for (const { result, run, actions } of this.#waiting) {
      bytes += result === null ? 0 : result.record.length;
      cost += (run === null ? 1 : RUN_COST) + actions.length;
      if (count > 0 && (cost > MAX_BATCH || bytes > MAX_BYTES)) break;
      count += 1;
    }
    if (count < this.#waiting.length) return this.#waiting.splice(0, count);
    const all = this.#waiting;
    this.#waiting = [];
    return all;
  }
}
