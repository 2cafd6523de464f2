import type { Redis } from 'ioredis';
import { connect } from '../lua/connection.ts';
import { Pidbox } from '../lua/pidbox.ts';
import type { LogicalClock } from '../protocol/control-message.ts';
import { messageOf } from '../protocol/errors.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Service } from '../runtime/service.ts';
import type { WorkerConfig } from './config.ts';
import { controlCommands } from './control/commands.ts';
import type { WorkerView } from './control/view.ts';
import { Gossip } from './gossip.ts';
import { mingle } from './mingle.ts';

export interface RemoteControlOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly view: WorkerView;
  readonly clock: LogicalClock;
  readonly revoked: RevokedTasks;
  readonly log: Log;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /** Shards of the namespace; 0 while there is none. */
  shards(): number;
}

/** A worker's part in what Celery's workers and tools say to each other. */
export class RemoteControl implements Service {
  readonly #options: RemoteControlOptions;
  readonly #subscriber: Redis;
  readonly #pidbox: Pidbox;
  readonly #gossip: Gossip | null;

  constructor(options: RemoteControlOptions) {
    this.#options = options;
    const { redis, config, clock, log } = options;
    const { hostname } = config;
    this.#subscriber = connect(config.redis, { option: '--redis', name: `ringbeat-control ${hostname}` });
    this.#pidbox = new Pidbox({
      redis,
      subscriber: this.#subscriber,
      node: hostname,
      commands: controlCommands({ ...options, startedAtMs: monotonicMs() }),
      clock,
      onProblem: (problem) => log.warn(problem),
    });
    this.#gossip = config.gossip ? new Gossip({ subscriber: this.#subscriber, hostname, clock, log }) : null;
  }

  /**
   * Resolves when the worker is heard, and knows what the others have revoked; until then it must not take messages.
   * (Others are asked once it is heard: what is revoked meanwhile comes to it one way or the other.)
   */
  async start(): Promise<void> {
    const { config, log } = this.#options;
    try {
      await Promise.all([this.#pidbox.start(), this.#gossip?.start()]);
    } catch (error) {
      // It listens once Redis is there again; a Redis that is out of memory refuses only to be told of it.
      log.warn({ event: 'control_not_announced', reason: messageOf(error) });
    }
    if (config.mingle) await mingle({ ...this.#options, hostname: config.hostname });
  }

  /** Celery's tools no longer see the worker. */
  async stop(): Promise<void> {
    await Promise.all([this.#pidbox.stop(), this.#gossip?.stop()]);
  }

  /** Hears nothing more, at once. */
  close(): void {
    this.#subscriber.disconnect();
  }
}
