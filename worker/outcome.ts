import type { Json } from '../protocol/json.ts';
import type { LoopWish } from '../protocol/loop.ts';
import { type ExceptionRecord, exceptionOf, tracebackOf } from '../protocol/result.ts';
import { type RetryChanges, WorkerLostError } from '../protocol/task-errors.ts';
import type { Delivery } from './delivery.ts';

/** How a task ended. It is plain data, so that pools can send it from one process to another. */
export type Outcome =
  | {
      readonly state: 'success';
      /** What it returned, or the JsonText of it. */
      readonly value: unknown;
      /** How its loop is to go on. */
      readonly wish: LoopWish | null;
      /** What is sent with its result; absent: nothing. */
      readonly sends?: readonly SignatureToSend[];
      readonly children?: Children;
    }
  | Failure
  | {
      readonly state: 'retry';
      /** Why it is to run again; null: the task did not say. */
      readonly exception: ExceptionRecord | null;
      readonly traceback: string | null;
      /** ms since epoch, by Redis's clock. */
      readonly etaMs: number;
      readonly changes: RetryChanges;
      readonly children?: Children;
    }
  /** `replacement`: the signature of the task that takes its place. */
  | { readonly state: 'ignored'; readonly replacement?: Json }
  | { readonly state: 'rejected'; readonly reason: string; readonly requeue: boolean }
  | { readonly state: 'revoked'; readonly reason: 'expired' | 'revoked' | 'terminated'; readonly signum: number | null }
  /** Its process died, and the message is to be put back. */
  | { readonly state: 'lost'; readonly reason: string };

export interface Failure {
  readonly state: 'failure';
  readonly exception: ExceptionRecord;
  readonly traceback: string | null;
  readonly children?: Children;
}

/** Tuple forms of what a task sent while it ran; absent: nothing. */
type Children = readonly Json[];

/** A task that a task sends as it succeeds. */
export interface SignatureToSend {
  readonly signature: Json;
  /** Whether it is one more member of the chord that the task is a member of. */
  readonly isPart: boolean;
}

/** The outcome of a task that threw this. */
export function failureOf(error: unknown): Failure {
  return { state: 'failure', exception: exceptionOf(error), traceback: tracebackOf(error) };
}

/** The outcome of a task whose thread or process died while it ran. */
export function lostOutcome({ isLate, task }: Delivery, reason: string): Outcome {
  if (isLate && task.options.rejectOnWorkerLost === true) return { state: 'lost', reason };
  return { state: 'failure', exception: exceptionOf(new WorkerLostError(reason)), traceback: null };
}
