import type { TaskContext, TaskLogger } from '../client/task.ts';
import type { Settlement } from '../lua/settle.ts';
import type { DeliveryInfo, ScheduleHeader, TaskMessage, Value } from '../protocol/message-reader.ts';
import { exceptionOf, failureRecord, revokedRecord, successRecord, tracebackOf } from '../protocol/result.ts';
import type { Log } from '../runtime/log.ts';
import type { Delivery } from './delivery.ts';

/** What tasks of one worker share. */
export interface Surroundings {
  readonly hostname: string;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export type Outcome =
  | { readonly state: 'success'; readonly value: unknown }
  | { readonly state: 'failure'; readonly error: unknown }
  | { readonly state: 'revoked'; readonly reason: 'expired' };

/**
 * Runs a delivery's task function and tells how it ended, at once or later. It never throws. (No promise is made here
 * for a function that made none: at 50,000 tasks a second each one counts.)
 */
export function execute(delivery: Delivery, surroundings: Surroundings, onEnd: (outcome: Outcome) => void): void {
  const { message, task } = delivery;
  let returned: unknown;
  try {
    returned = task.run(new Context(message, surroundings), message.args);
  } catch (error) {
    onEnd({ state: 'failure', error });
    return;
  }
  if (!isThenable(returned)) {
    onEnd({ state: 'success', value: returned });
    return;
  }
  returned.then(
    (value) => onEnd({ state: 'success', value }),
    (error) => onEnd({ state: 'failure', error }),
  );
}

/** How a delivery is settled after this outcome; null when there is nothing left to say to Redis. */
export function settlementOf(delivery: Delivery, outcome: Outcome, nowMs: number, isAcked: boolean): Settlement | null {
  const isIgnored = delivery.message.ignoreResult || delivery.task.options.ignoreResult === true;
  if (isIgnored && isAcked) return null;
  const { id } = delivery.message;
  const result = isIgnored ? null : { taskId: id, record: recordOf(delivery.message, outcome, nowMs) };
  return { tag: delivery.tag, mode: isAcked ? 'acked' : 'held', result, letter: null };
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

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}

class Context implements TaskContext {
  readonly #message: TaskMessage;
  readonly #surroundings: Surroundings;

  constructor(message: TaskMessage, surroundings: Surroundings) {
    this.#message = message;
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
    return this.#surroundings.signal;
  }
  get logger(): TaskLogger {
    return this.#surroundings.log.child({ task: this.#message.task, id: this.#message.id });
  }
}

function dateOf(atMs: number | null): Date | null {
  return atMs === null ? null : new Date(atMs);
}
