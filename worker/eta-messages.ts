import type { Redis } from 'ioredis';
import { park } from '../lua/park.ts';
import type { Log } from '../runtime/log.ts';
import type { Delivery } from './delivery.ts';
import { Heap } from './heap.ts';
import { Lane } from './lane.ts';

/** Most messages that one script call carries. */
const MAX_BATCH = 500;

export interface EtaMessagesOptions {
  readonly redis: Redis;
  readonly namespace: string;
  readonly workerId: string;
  readonly log: Log;
  /** Told of every call that failed. */
  onFailure(): void;
  /** These lie in a shard by now, and are no longer this worker's. */
  onParked(tags: readonly string[]): void;
  /** The namespace is gone, or has other shards than was believed. */
  onGone(): void;
}

/**
 * Messages whose eta lies ahead. They are parked in the namespace's shards; while no beat node lives, which would take them
 * out again, they are held here.
 */
export class EtaMessages {
  readonly #options: EtaMessagesOptions;
  readonly #lane: Lane;
  readonly #toPark: Delivery[] = [];
  readonly #held = new Heap<Delivery>();
  #isHoldingSaid = false;

  constructor(options: EtaMessagesOptions) {
    this.#options = options;
    this.#lane = new Lane('park', options.log, () => options.onFailure());
  }

  /** How many are held here. */
  get held(): number {
    return this.#held.size;
  }

  add(delivery: Delivery): void {
    this.#toPark.push(delivery);
  }

  /** All that lie here, in no order. */
  items(): Delivery[] {
    return [...this.#toPark, ...this.#held.items()];
  }

  /** Takes out those of which `isWanted` holds. */
  takeWhere(isWanted: (delivery: Delivery) => boolean): Delivery[] {
    const taken = this.#toPark.filter(isWanted);
    if (taken.length > 0) {
      const kept = this.#toPark.filter((delivery) => !isWanted(delivery));
      this.#toPark.splice(0, this.#toPark.length, ...kept);
    }
    return [...taken, ...this.#held.takeWhere(isWanted)];
  }

  /** Takes out those that were held until their eta. */
  takeDue(nowMs: number): Delivery[] {
    const due: Delivery[] = [];
    for (let delivery = this.#held.pop(nowMs); delivery !== null; delivery = this.#held.pop(nowMs)) due.push(delivery);
    return due;
  }

  /** Sends the next batch into so many shards; holds them where there are none. */
  park(shards: number): void {
    if (shards === 0) {
      this.#hold(this.#toPark.splice(0));
      return;
    }
    if (this.#lane.isBusy || (this.#toPark.length === 0 && this.#held.size === 0)) return;
    const batch = this.#toPark.splice(0, MAX_BATCH);
    while (batch.length < MAX_BATCH) {
      const held = this.#held.pop(Number.POSITIVE_INFINITY);
      if (held === null) break;
      batch.push(held);
    }
    const messages = batch
      .filter((delivery) => !delivery.isLost)
      .map(({ tag, list, message }) => ({ tag, taskId: message.id, list, etaMs: message.etaMs ?? 0 }));
    if (messages.length === 0) return;
    const { redis, namespace, workerId, onParked, onGone } = this.#options;
    this.#lane.send(
      () => park(redis, namespace, { workerId, shards, messages }),
      () => onParked(messages.map(({ tag }) => tag)),
      () => {
        this.#hold(batch);
        onGone();
      },
    );
  }

  /** Resolves when nothing is on its way. */
  idle(): Promise<void> {
    return this.#lane.idle();
  }

  /** Sends nothing any more. */
  close(): void {
    this.#lane.close();
  }

  #hold(deliveries: readonly Delivery[]): void {
    if (deliveries.length === 0) return;
    for (const delivery of deliveries) this.#held.push(delivery.message.etaMs ?? 0, delivery);
    if (this.#isHoldingSaid) return;
    this.#isHoldingSaid = true;
    this.#options.log.warn({
      event: 'eta_held',
      reason: 'no beat node lives in this namespace to park messages with an eta',
      namespace: this.#options.namespace,
    });
  }
}
