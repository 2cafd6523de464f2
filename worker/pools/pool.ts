import type { Json } from '../../protocol/json.ts';
import type { Cancellation } from '../cancellation.ts';
import type { Delivery } from '../delivery.ts';
import type { Outcome } from '../outcome.ts';

/** `async`: many at once in one event loop; `solo`: one at a time; `threads`: worker threads; `processes`: child processes. */
export type PoolKind = 'async' | 'solo' | 'threads' | 'processes';

/** A task that was given to the pool. */
export interface Job {
  readonly delivery: Delivery;
  /** On the monotonic clock. */
  readonly startedAtMs: number;
  /** s since epoch. */
  readonly startedAt: number;
  /** The process that runs it. */
  pid: number;
  /** s; null: none. */
  readonly softLimitSec: number | null;
  readonly hardLimitSec: number | null;
  /** Aborts `ctx.signal`, in pools that run tasks in this process. */
  readonly cancellation: Cancellation;
  /** It ended, was abandoned or terminated: an outcome that still comes is dropped. */
  isOver: boolean;
}

/** Where tasks run. */
export interface Pool {
  readonly kind: PoolKind;
  /** Most tasks that it runs at once. */
  readonly size: number;
  /** Tasks that it could be running now: fewer than `size` while a thread or process is being replaced. */
  readonly usable: number;
  /**
   * How many more messages are worth starting already, because their slots will be free in a moment: then one call to Redis
   * starts several. 0 unless tasks are short.
   */
  readonly ahead: number;
  /** Resolves when tasks can be given to it. */
  start(): Promise<void>;
  /** Enters the task. Never throws; calls `onEnd` once, unless the job was killed. At most `usable` at once. */
  run(job: Job, onEnd: (outcome: Outcome) => void): void;
  /** Aborts the task's `ctx.signal`. */
  interrupt(job: Job, reason: Error): void;
  /** Ends the thread or process of a job whose outcome is settled already; where there is none, aborts `ctx.signal`. */
  kill(job: Job, signal: NodeJS.Signals): void;
  /** From now on runs at most so many at once. */
  resize(size: number): void;
  /** Replaces its threads or processes, each once it has nothing to do; null: it has none. */
  readonly restart: (() => void) | null;
  /** `pool` of Celery's stats. */
  info(): { readonly [key: string]: Json };
  /** Cold: without regard for what runs. */
  stop(isCold: boolean): Promise<void>;
}
