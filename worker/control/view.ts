import type { Json } from '../../protocol/json.ts';
import type { TaskMessage } from '../../protocol/message-reader.ts';
import type { TimeLimits } from '../active.ts';

/** A task that runs. */
export interface ActiveTask {
  readonly message: TaskMessage;
  /** s since epoch. */
  readonly startedAt: number;
  /** The process that runs it. */
  readonly pid: number;
  readonly isAcked: boolean;
}

/** Grows and shrinks the pool by itself, between two sizes. */
export interface AutoscalerView {
  /** `autoscaler` of Celery's stats. */
  info(): { readonly [key: string]: Json };
  /** New sizes, each left as it is by null; answers both. */
  update(max: number | null, min: number | null): { readonly max: number; readonly min: number };
}

/** All that remote control sees of a worker, and may do with it. */
export interface WorkerView {
  /** Tasks that run. */
  active(): readonly ActiveTask[];
  /** Messages that wait for a slot. */
  reserved(): readonly TaskMessage[];
  /** Messages with a future eta that this worker holds itself. */
  held(): readonly TaskMessage[];
  /** How many tasks of each name were started so far. */
  totals(): ReadonlyMap<string, number>;

  /** Drops what waits here and is revoked by now. */
  dropRevoked(): void;
  /** Ends these tasks if they run, each recorded as revoked; answers the ids of those that did. */
  terminate(ids: ReadonlySet<string>, signal: NodeJS.Signals): readonly string[];

  /** Queues that it takes messages from. */
  queues(): readonly string[];
  addQueue(queue: string): void;
  cancelQueue(queue: string): void;

  readonly pool: {
    readonly kind: string;
    readonly size: number;
    info(): { readonly [key: string]: Json };
  };
  /** Most unacknowledged messages, eta messages that are held aside. */
  prefetch(): number;
  /** From now on runs at most so many tasks at once; the prefetch limit follows. */
  resizePool(size: number): void;
  /** Begins to replace the pool's processes or threads by new ones; null where there are none. */
  readonly restartPool: (() => void) | null;
  readonly autoscaler: AutoscalerView | null;

  /** The limit that holds for a task, as it was given; null: none. */
  rateLimit(task: string): string | number | null;
  /** Changes it. The limit is well-formed. */
  setRateLimit(task: string, limit: string | number | null): void;
  /** The same on all workers together. */
  globalRateLimit(task: string): string | number | null;
  setGlobalRateLimit(task: string, limit: string | number | null): void;
  timeLimits(task: string): TimeLimits;
  setTimeLimits(task: string, limits: TimeLimits): void;

  /** Sends events of tasks from now on, or no more; answers whether that changed anything. */
  enableEvents(): boolean;
  disableEvents(): boolean;
  /** Sends a `worker-heartbeat` now. */
  heartbeat(): void;

  /** Begins a warm shutdown. */
  shutdown(): void;
}
