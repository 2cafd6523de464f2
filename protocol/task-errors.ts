import type { Json } from './json.ts';

/**
 * What tasks throw to say how they end, and what Ringbeat throws into them. Names and modules are those that Python sees
 * (celery/exceptions.py, billiard/exceptions.py). Several copies of the package may be in one process, so they are told apart
 * by `name` and a mark rather than by `instanceof`.
 */
const MARK = Symbol.for('ringbeat.task-error');

export class TaskError extends Error {
  /** Python's module of the exception class. */
  readonly module: string;
  /** What Python makes the exception from. */
  readonly args: readonly Json[];

  constructor(name: string, module: string, message: string, args: readonly Json[], options?: ErrorOptions) {
    super(message, options);
    this.name = name;
    this.module = module;
    this.args = args;
    Object.defineProperty(this, MARK, { value: true });
  }
}

/** Whether something thrown is the task error of this name, whichever copy of the package made it. */
export function isTaskError<Name extends keyof TaskErrors>(thrown: unknown, name: Name): thrown is TaskErrors[Name] {
  return anyTaskError(thrown) && thrown.name === name;
}

export function anyTaskError(thrown: unknown): thrown is TaskError {
  return thrown instanceof Error && MARK in thrown;
}

interface TaskErrors {
  readonly Ignore: Ignore;
  readonly Reject: Reject;
  readonly Retry: Retry;
  readonly SoftTimeLimitExceeded: SoftTimeLimitExceeded;
  readonly TimeLimitExceeded: TimeLimitExceeded;
  readonly MaxRetriesExceededError: MaxRetriesExceededError;
  readonly WorkerLostError: WorkerLostError;
  readonly TaskRevokedError: TaskRevokedError;
  readonly InvalidArguments: InvalidArguments;
}

/** Thrown by a task that wants its state left as it is: no result is stored, the message is acknowledged. */
export class Ignore extends TaskError {
  constructor(reason = '') {
    super('Ignore', 'celery.exceptions', reason, [reason]);
  }
}

/** Thrown by `ctx.replace()`: another task takes this one's place. */
export class Replaced extends Ignore {
  /** The signature of that task. */
  readonly replacement: Json;

  constructor(replacement: Json) {
    super('Replaced by new task');
    this.replacement = replacement;
  }
}

/** Thrown by a task that refuses its message; with `requeue` it goes back to its queue, where acks are late. */
export class Reject extends TaskError {
  readonly reason: string;
  readonly requeue: boolean;

  constructor(reason = '', { requeue = false }: { readonly requeue?: boolean } = {}) {
    super('Reject', 'celery.exceptions', reason, [reason, requeue]);
    this.reason = reason;
    this.requeue = requeue;
  }
}

/** What a retry changes of the message that is sent again; what is left out stays as it was. */
export interface RetryChanges {
  readonly args?: readonly Json[];
  readonly kwargs?: { readonly [key: string]: Json };
  readonly queue?: string;
  /** 0 (most urgent) to 9. */
  readonly priority?: number;
  /** Not to be started after, ms since epoch; null: no end. */
  readonly expiresMs?: number | null;
  /** Hard and soft limit, s. */
  readonly timeLimit?: number | null;
  readonly softTimeLimit?: number | null;
  readonly headers?: { readonly [key: string]: Json };
}

/** Thrown by `ctx.retry()`: the task is sent again. */
export class Retry extends TaskError {
  /** When it is to run again, ms since epoch by Redis's clock. */
  readonly etaMs: number;
  readonly changes: RetryChanges;

  constructor(etaMs: number, changes: RetryChanges = {}, cause?: unknown) {
    const message = cause instanceof Error ? `Retry: ${cause.name}: ${cause.message}` : 'Retry';
    super('Retry', 'celery.exceptions', message, [message], { cause });
    this.etaMs = etaMs;
    this.changes = changes;
  }
}

/** A task asked for one retry more than it may have. */
export class MaxRetriesExceededError extends TaskError {
  constructor(message: string) {
    super('MaxRetriesExceededError', 'celery.exceptions', message, [message]);
  }
}

/** Raised inside a task when its soft time limit has passed: the reason of `ctx.signal`. */
export class SoftTimeLimitExceeded extends TaskError {
  constructor() {
    super('SoftTimeLimitExceeded', 'billiard.exceptions', 'SoftTimeLimitExceeded()', []);
  }
}

/** Recorded for a task that was ended at its hard time limit. */
export class TimeLimitExceeded extends TaskError {
  constructor(seconds: number) {
    super('TimeLimitExceeded', 'billiard.exceptions', `TimeLimitExceeded(${seconds},)`, [seconds]);
  }
}

/** Recorded for a task whose process or thread died. */
export class WorkerLostError extends TaskError {
  constructor(message: string) {
    super('WorkerLostError', 'billiard.exceptions', message, [message]);
  }
}

/** Recorded for a task whose args or kwargs its schema refuses; it is not entered. */
export class InvalidArguments extends TaskError {
  constructor(message: string) {
    super('InvalidArguments', 'ringbeat', message, [message]);
  }
}

/** Why a task that was revoked ended; the reason of `ctx.signal` when it is terminated. */
export class TaskRevokedError extends TaskError {
  constructor(reason: 'expired' | 'revoked' | 'terminated') {
    super('TaskRevokedError', 'celery.exceptions', reason, [reason]);
  }
}
