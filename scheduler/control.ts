import type { Redis } from 'ioredis';
import { Pidbox } from '../lua/pidbox.ts';
import { revokeParked } from '../lua/revoke-parked.ts';
import { LogicalClock } from '../protocol/control-message.ts';
import { messageOf } from '../protocol/errors.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import type { Namespace } from '../registry/namespace.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Service } from '../runtime/service.ts';

const RESULT_EXPIRES_SEC = 86_400;

export interface RemoteControlOptions {
  readonly redis: Redis;
  /** A connection that listens; others may listen on it too. */
  readonly subscriber: Redis;
  readonly clock: RedisClock;
  readonly revoked: RevokedTasks;
  readonly log: Log;
  /** The namespace; null while it is not in Redis. */
  namespace(): Namespace | null;
}

/**
 * A beat node's part in Celery's remote control: it hears `revoke`, and takes parked messages out, also where there are
 * no workers but Celery's. It is no worker, and answers nobody.
 */
export class RemoteControl implements Service {
  readonly #options: RemoteControlOptions;
  readonly #pidbox: Pidbox;

  constructor(options: RemoteControlOptions) {
    this.#options = options;
    const { redis, subscriber, log } = options;
    this.#pidbox = new Pidbox({
      redis,
      subscriber,
      node: null,
      clock: new LogicalClock(),
      commands: { revoke: ({ task_id }) => this.#revoke(task_id), terminate: ({ task_id }) => this.#revoke(task_id) },
      onProblem: (problem) => log.warn(problem),
    });
  }

  start(): void {
    // Where Redis is away just now, the connection subscribes by itself once it is back.
    this.#pidbox
      .start()
      .catch((error: unknown) => this.#options.log.warn({ event: 'subscribe_failed', reason: messageOf(error) }));
  }

  async stop(): Promise<void> {
    await this.#pidbox.stop();
  }

  async #revoke(taskId: unknown): Promise<null> {
    const { redis, clock, revoked, log } = this.#options;
    const taskIds = (Array.isArray(taskId) ? taskId : [taskId]).filter((id) => typeof id === 'string');
    revoked.add(taskIds, monotonicMs());
    const namespace = this.#options.namespace();
    if (namespace === null) return null;
    const { name, shards } = namespace;
    const request = { shards, taskIds, resultExpiresSec: RESULT_EXPIRES_SEC, nowMs: clock.nowMs() };
    const gone = await revokeParked(redis, name, request);
    if (gone.length > 0) log.info({ event: 'parked_revoked', tasks: gone.length });
    return null;
  }
}
