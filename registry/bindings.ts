import type { Redis } from 'ioredis';
import { queueBinding } from '../lua/keys.ts';

/** Enters queues where Celery's tools look for them, each once, as kombu does once per connection. */
export class QueueBindings {
  readonly #redis: Redis;
  readonly #bound = new Set<string>();
  #epoch = '';

  constructor(redis: Redis) {
    this.#redis = redis;
    // A Redis that comes back may be another one.
    redis.on('ready', () => this.#bound.clear());
  }

  /** `epoch` of the namespace: another one may live in a Redis that was emptied. */
  async bind(queues: Iterable<string>, epoch: string): Promise<void> {
    if (epoch !== this.#epoch) this.#bound.clear();
    this.#epoch = epoch;
    const fresh = [...new Set(queues)].filter((queue) => !this.#bound.has(queue));
    if (fresh.length === 0) return;
    const pipeline = this.#redis.pipeline();
    for (const { key, member } of fresh.map(queueBinding)) pipeline.sadd(key, member);
    for (const [error] of (await pipeline.exec()) ?? []) if (error) throw error;
    for (const queue of fresh) this.#bound.add(queue);
  }
}
