import type { Redis } from 'ioredis';
import { restoreLostWorkers, WORKER_LEASE_MS } from '../lua/restore.ts';
import type { RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';

const EVERY_MS = 500;

export interface RecoveryOptions {
  readonly redis: Redis;
  readonly namespace: string;
  readonly clock: RedisClock;
  readonly log: Log;
  onRecovered(messages: number): void;
}

/**
 * Gives the messages that a dead bundled worker had reserved back to their queues, so that a fleet whose other workers
 * are all Celery's need not wait for the visibility timeout. Every node looks; the script lets one of them win.
 */
export class Recovery implements Service {
  readonly #options: RecoveryOptions;
  readonly #loop: Loop;

  constructor(options: RecoveryOptions) {
    this.#options = options;
    this.#loop = new Loop('recovery', options.log, () => this.#recover());
  }

  start(): void {
    this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  async #recover(): Promise<number> {
    const { redis, namespace, clock, log, onRecovered } = this.#options;
    if (!clock.steadyFor(WORKER_LEASE_MS)) return EVERY_MS;
    const { workers, restored, deadLetters } = await restoreLostWorkers(redis, namespace, clock.nowMs());
    if (workers.length > 0) log.warn({ event: 'lost_workers_recovered', workers, restored, dead_letters: deadLetters });
    onRecovered(restored);
    return EVERY_MS;
  }
}
