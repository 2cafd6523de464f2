import type { Json } from '../../protocol/json.ts';
import type { Cancellation } from '../cancellation.ts';
import type { Delivery } from '../delivery.ts';
import type { Outcome } from '../outcome.ts';

/** `async`: many at once in one event loop; `solo`: one at a time; `threads`: worker threads; `processes`: child processes. */
export type PoolKind = 'async' | 'solo' | 'threads' | 'processes';

/** A task that was given to the pool. */
export interface Job {
  readonly delivery: Delivery;
  /** On the monotonic clock, when it was entered. */
  startedAtMs: number;
  /** s since epoch. */
  startedAt: number;
  /** The process that runs it. */
  pid: number;
  /** s; null: none. */
  readonly softLimitSec: number | null;
  readonly hardLimitSec: number | null;
  /** Aborts `ctx.signal`, in pools that run tasks in this process. */
  readonly cancellation: Cancellation;
  /** Where it is in the list of jobs. */
  place: number;
  /** Until then it waits in the pool for its slot. */
  isEntered: boolean;
  /** Ends it as soon as it is entered; null: it may run. */
  terminateBy: NodeJS.Signals | null;
  /** It ended, was abandoned or terminated: an outcome that still comes is dropped. */
  isOver: boolean;
}

/** Told how long ago the job was entered, ms; more than 0 in pools that look for that now and then. */
export type OnEnter = (agoMs: number) => void;

/** Told how the job ended, and how long ago, ms. */
export type OnEnd = (outcome: Outcome, agoMs: number) => void;

/** Where tasks run. */
export interface Pool {
  readonly kind: PoolKind;
  /** Most tasks that it runs at once. */
  readonly size: number;
  /** Tasks that it could be running now: fewer than `size` while a thread or process is being replaced. */
  readonly usable: number;
  /**
   * How many more messages are worth starting than it can run, because their slots will be free in a moment: then one call to
   * Redis starts several. 0 unless tasks are short.
   */
  readonly ahead: number;
  /** How many more jobs it takes than it can run, so that no slot has to wait for the next. */
  readonly queue: number;
  /** Resolves when tasks can be given to it. */
  start(): Promise<void>;
  /**
   * Runs the job once it has a slot. Never throws; calls `onEnter` and then `onEnd` once each, unless the job is taken back or
   * killed. At most `usable + queue` at once.
   */
  run(job: Job, onEnter: OnEnter, onEnd: OnEnd): void;
  /** Takes back a job that has not been entered; answers false where it is too late for that. */
  takeBack(job: Job): boolean;
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
