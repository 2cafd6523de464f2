import type { TaskContext, TaskLogger, TaskLoop } from '../client/task.ts';
import type { Settlement } from '../lua/settle.ts';
import { type LoopWish, loopDelayMs, loopWishOf } from '../protocol/loop.ts';
import type { DeliveryInfo, ScheduleHeader, TaskMessage, Value } from '../protocol/message-reader.ts';
import { exceptionOf, failureRecord, revokedRecord, successRecord, tracebackOf } from '../protocol/result.ts';
import type { Log } from '../runtime/log.ts';
import { type Delivery, endedRun } from './delivery.ts';

/** What tasks of one worker share. */
export interface Surroundings {
  readonly hostname: string;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export type Outcome =
  | { readonly state: 'success'; readonly value: unknown; readonly wish: LoopWish | null }
  | { readonly state: 'failure'; readonly error: unknown }
  | { readonly state: 'revoked'; readonly reason: 'expired' | 'revoked' };

/**
 * Runs a delivery's task function and tells how it ended, at once or later. It never throws. (No promise is made here
 * for a function that made none: at 50,000 tasks a second each one counts.)
 */
export function execute(delivery: Delivery, surroundings: Surroundings, onEnd: (outcome: Outcome) => void): void {
  const { message, task } = delivery;
  const context = new Context(delivery, surroundings);
  const succeed = (value: unknown) =>
    onEnd({
      state: 'success',
      value,
      wish: message.schedule?.journal == null ? null : (context.wish ?? loopWishOf(value)),
    });
  let returned: unknown;
  try {
    returned = task.run(context, message.args);
  } catch (error) {
    onEnd({ state: 'failure', error });
    return;
  }
  if (!isThenable(returned)) {
    succeed(returned);
    return;
  }
  returned.then(succeed, (error) => onEnd({ state: 'failure', error }));
}

/** How a delivery is settled after this outcome; null when there is nothing left to say to Redis. */
export function settlementOf(delivery: Delivery, outcome: Outcome, nowMs: number, isAcked: boolean): Settlement | null {
  const { message, task } = delivery;
  const isIgnored = message.ignoreResult || task.options.ignoreResult === true;
  if (isIgnored && isAcked) return null;
  const result = isIgnored ? null : { taskId: message.id, record: recordOf(message, outcome, nowMs) };
  const run =
    outcome.state === 'success' ? endedRun(message, 'success', outcome.wish) : endedRun(message, 'failure', null);
  return { tag: delivery.tag, mode: isAcked ? 'acked' : 'held', result, letter: null, run };
}

function recordOf(message: TaskMessage, outcome: Outcome, nowMs: number): string {
  switch (outcome.state) {
    case 'success':
      try {
        return successRecord(message, outcome.value, nowMs);
      } catch (error) {
        return failureRecord(message, exceptionOf(error), tracebackOf(error), nowMs);
      }
    case 'failure':
      return failureRecord(message, exceptionOf(outcome.error), tracebackOf(outcome.error), nowMs);
    case 'revoked':
      return revokedRecord(message, outcome.reason, nowMs);
  }
}

/** Why the signal of a task is aborted whose message went to somebody else. */
export const LOST = 'This worker was taken for dead, and the task was given to another.';

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}

class Context implements TaskContext {
  readonly #delivery: Delivery;
  readonly #message: TaskMessage;
  readonly #surroundings: Surroundings;
  /** How its loop is to go on, if the task said so. */
  wish: LoopWish | null = null;

  constructor(delivery: Delivery, surroundings: Surroundings) {
    this.#delivery = delivery;
    this.#message = delivery.message;
    this.#surroundings = surroundings;
  }

  get id(): string {
    return this.#message.id;
  }
  get task(): string {
    return this.#message.task;
  }
  get args(): readonly Value[] {
    return this.#message.args;
  }
  get kwargs(): { readonly [key: string]: Value } {
    return this.#message.kwargs;
  }
  get retries(): number {
    return this.#message.retries;
  }
  get eta(): Date | null {
    return dateOf(this.#message.etaMs);
  }
  get expires(): Date | null {
    return dateOf(this.#message.expiresMs);
  }
  get hostname(): string {
    return this.#surroundings.hostname;
  }
  get deliveryInfo(): DeliveryInfo {
    return this.#message.deliveryInfo;
  }
  get headers(): { readonly [key: string]: unknown } {
    return this.#message.headers;
  }
  get rootId(): string | null {
    return this.#message.rootId;
  }
  get parentId(): string | null {
    return this.#message.parentId;
  }
  get schedule(): ScheduleHeader | null {
    return this.#message.schedule;
  }
  get signal(): AbortSignal {
    const delivery = this.#delivery;
    // What was acknowledged early cannot be taken away any more.
    if (!delivery.isLate) return this.#surroundings.signal;
    if (delivery.abort === null) {
      const abort = new AbortController();
      delivery.abort = abort;
      if (delivery.isLost) abort.abort(new Error(LOST));
      const { signal } = this.#surroundings;
      if (signal.aborted) abort.abort(signal.reason);
      else signal.addEventListener('abort', () => abort.abort(signal.reason), { once: true, signal: abort.signal });
    }
    return delivery.abort.signal;
  }
  get loop(): TaskLoop {
    return {
      runAgainIn: (seconds) => {
        const delayMs = loopDelayMs(seconds);
        if (delayMs === null) throw new RangeError(`A loop waits 0 seconds or more, up to 100 years, got ${seconds}.`);
        this.wish = delayMs;
      },
      stop: () => {
        this.wish = 'stop';
      },
    };
  }
  get logger(): TaskLogger {
    return this.#surroundings.log.child({ task: this.#message.task, id: this.#message.id });
  }
}

function dateOf(atMs: number | null): Date | null {
  return atMs === null ? null : new Date(atMs);
}
