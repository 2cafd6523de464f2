import type { Redis } from 'ioredis';
import { storeStates } from '../lua/store-states.ts';
import { messageOf } from '../protocol/errors.ts';
import { extendedFields, stateRecord } from '../protocol/result.ts';
import type { Log } from '../runtime/log.ts';
import type { WorkerConfig } from './config.ts';
import type { Job } from './pools/pool.ts';

/** Most records that one call stores. */
const MAX_BATCH = 500;

export interface StartedOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly log: Log;
}

/** Stores the state STARTED of tasks that want it, for all that started in one turn together. */
export class Started {
  readonly #options: StartedOptions;
  #jobs: Job[] = [];

  constructor(options: StartedOptions) {
    this.#options = options;
  }

  /** A task was entered. */
  add(job: Job): void {
    const { message, task } = job.delivery;
    if (!(task.options.trackStarted ?? this.#options.config.trackStarted)) return;
    if (message.ignoreResult || task.options.ignoreResult === true) return;
    this.#jobs.push(job);
  }

  /** Sends what was added. Only before the ends of these tasks are sent on the same connection. */
  flush(): void {
    if (this.#jobs.length === 0) return;
    const running = this.#jobs.filter(({ isOver }) => !isOver);
    this.#jobs = [];
    const { redis, config, log } = this.#options;
    const { hostname, resultExtended, resultExpiresSec } = config;
    const states = running.map(({ delivery: { message }, pid }) => {
      const details = resultExtended ? { children: [], extended: extendedFields(message, hostname) } : null;
      return { taskId: message.id, record: stateRecord(message, 'STARTED', { pid, hostname }, details) };
    });
    for (let from = 0; from < states.length; from += MAX_BATCH) {
      // Lost, it is only that the state is not shown: the end of the task follows.
      storeStates(redis, resultExpiresSec, states.slice(from, from + MAX_BATCH)).catch((error: unknown) =>
        log.warn({ event: 'redis_call_failed', call: 'store-states', reason: messageOf(error) }),
      );
    }
  }
}
