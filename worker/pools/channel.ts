import { type ErrorCode, type ErrorValues, messageOf, RingbeatError } from '../../protocol/errors.ts';
import type { Json } from '../../protocol/json.ts';
import { SoftTimeLimitExceeded, TaskRevokedError } from '../../protocol/task-errors.ts';

/*
 * What a worker and the children of its pool (processes or threads) say to each other. All of it is plain JSON data, for the
 * one kind of channel writes JSON. A child runs one job at a time.
 */

/** What a child needs to know before its first job. */
export interface ChildSetup {
  /** Modules that define tasks. */
  readonly tasks: readonly string[];
  /** The worker's name. */
  readonly hostname: string;
  /** Where its tasks send others. */
  readonly redis: string;
  readonly namespace: string;
  readonly taskSendSentEvent: boolean;
  readonly logLevel: string;
  /** Resident size after which it wants to be replaced, KiB; null: any. */
  readonly maxMemoryKib: number | null;
}

export type ToChild =
  | { readonly kind: 'setup'; readonly setup: ChildSetup }
  | RunMessage
  /** Aborts the `ctx.signal` of a job. */
  | { readonly kind: 'interrupt'; readonly job: number; readonly reason: ErrorData }
  /** What became of a call; null: it was done. */
  | { readonly kind: 'answer'; readonly call: number; readonly error: ErrorData | null }
  /** End: there is nothing more to do. */
  | { readonly kind: 'stop' };

export interface RunMessage {
  readonly kind: 'run';
  readonly job: number;
  /** The kombu envelope as it was taken: the child reads it itself, so that nothing is written twice. */
  readonly envelope: string;
  /** Redis's time, ms since epoch. */
  readonly nowMs: number;
}

export type FromChild =
  | { readonly kind: 'ready' }
  /** It cannot start, because of this. */
  | { readonly kind: 'failed'; readonly error: ErrorData }
  | EndMessage
  | CallMessage
  | { readonly kind: 'event'; readonly job: number; readonly type: string; readonly fields: Fields }
  /** A line of pino's JSON. */
  | { readonly kind: 'log'; readonly line: string };

export interface EndMessage {
  readonly kind: 'end';
  readonly job: number;
  readonly outcome: SentOutcome;
  /** How long ago it ended when the worker heard of it, ms, where that is not at once. */
  readonly agoMs: number;
  /** Its resident size, KiB, where that is more than it may be. */
  readonly overweightKib: number | null;
}

/** What a task asks for and waits for. */
export type CallMessage =
  | {
      readonly kind: 'store-state';
      readonly job: number;
      readonly call: number;
      readonly state: string;
      /** JSON texts. */
      readonly meta: string;
      readonly children: string;
    }
  | { readonly kind: 'extend-lease'; readonly job: number; readonly call: number };

/** An outcome as JSON texts, which keep numbers that JavaScript would change. */
export interface SentOutcome {
  /** The value that was returned: the worker need neither read nor write it. null: the task has not succeeded. */
  readonly json: string | null;
  /** All but the value. */
  readonly rest: string;
}

type Fields = { readonly [key: string]: Json };

/** An error as data. */
export interface ErrorData {
  readonly name: string;
  readonly message: string;
  /** Of the project's own errors. */
  readonly own: { readonly code: ErrorCode; readonly values: ErrorValues } | null;
}

export function errorData(error: unknown): ErrorData {
  return {
    name: error instanceof Error ? error.name : 'Error',
    message: messageOf(error),
    own: error instanceof RingbeatError ? { code: error.code, values: error.values } : null,
  };
}

/** The error that `errorData` was made of, as far as a task or a user can tell. */
export function errorFrom({ name, message, own }: ErrorData): Error {
  if (own !== null) return new RingbeatError(own.code, own.values);
  if (name === 'SoftTimeLimitExceeded') return new SoftTimeLimitExceeded();
  if (name === 'TaskRevokedError' && message === 'terminated') return new TaskRevokedError(message);
  return Object.assign(new Error(message), { name });
}
