import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from '../lua/keys.ts';
import { sweepShard } from '../lua/sweep-shard.ts';
import type { Namespace } from '../registry/namespace.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';

const EVERY_MS = 1_000;
/** Nothing dispatched means no lateness to move; completed one-shots can wait. */
const IDLE_EVERY_MS = 5_000;

export interface SweeperOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  readonly log: Log;
  shards(): readonly ShardKeys[];
  namespace(): Namespace | null;
  /** Whether anything was dispatched lately. */
  isBusy(): boolean;
}

/** The owner's housekeeping: moves lateness into the history, removes one-shots that completed long enough ago. */
export class Sweeper implements Service {
  readonly #options: SweeperOptions;
  readonly #loop: Loop;

  constructor(options: SweeperOptions) {
    this.#options = options;
    this.#loop = new Loop('sweeper', options.log, () => this.#sweep());
  }

  start(): void {
    this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  /** Something was dispatched after a quiet time. */
  wake(): void {
    this.#loop.wake(EVERY_MS);
  }

  async #sweep(): Promise<number> {
    const { redis, names } = this.#options;
    const namespace = this.#options.namespace();
    if (namespace === null) return EVERY_MS;
    const unfinished = await Promise.all(
      this.#options.shards().map((keys) => sweepShard(redis, names, keys, namespace.epoch, namespace.keepCompletedMs)),
    );
    if (unfinished.includes(true)) return 0;
    return this.#options.isBusy() ? EVERY_MS : IDLE_EVERY_MS;
  }
}
