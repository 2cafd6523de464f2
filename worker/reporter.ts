import { signals } from '../client/signals.ts';
import { pythonRepr } from '../protocol/json.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { exceptionRepr } from '../protocol/repr.ts';
import { exceptionOf } from '../protocol/result.ts';
import { Reject } from '../protocol/task-errors.ts';
import type { Log } from '../runtime/log.ts';
import type { WorkerConfig } from './config.ts';
import type { Delivery } from './delivery.ts';
import type { Ending } from './ending.ts';
import type { Events } from './events.ts';
import type { WorkerMetrics } from './metrics.ts';
import type { Outcome } from './outcome.ts';

/** Says what becomes of messages to whoever watches: the counters, the log, monitors, and signals. */
export class Reporter {
  readonly #metrics: WorkerMetrics;
  readonly #events: Events;
  readonly #hostname: string;
  readonly #log: Log;

  constructor(options: {
    readonly metrics: WorkerMetrics;
    readonly events: Events;
    readonly config: WorkerConfig;
    readonly log: Log;
  }) {
    this.#hostname = options.config.hostname;
    this.#metrics = options.metrics;
    this.#events = options.events;
    this.#log = options.log;
  }

  /** A message was taken that is not revoked. */
  received(delivery: Delivery): void {
    const { message, task } = delivery;
    if (signals.taskReceived.size > 0) {
      void signals.taskReceived.send({ sender: task.name, taskId: message.id, message }, this.#log);
    }
    if (this.#events.isOn && task.options.sendEvents !== false) this.#events.received(delivery);
  }

  /** `runtimeSec` is null for a task that was never entered. */
  ended({ message, task }: Delivery, { outcome, settlement }: Ending, runtimeSec: number | null): void {
    const isPutBack = outcome.state === 'lost' || (outcome.state === 'rejected' && outcome.requeue);
    if (settlement !== null && !isPutBack) this.#events.sent(settlement.actions);
    this.#metrics.counts[outcome.state] += 1;
    this.#write(message.task, message.id, outcome);
    if (this.#events.isOn && task.options.sendEvents !== false) this.#tell(message.id, outcome, runtimeSec ?? 0);
    if (outcome.state === 'revoked' && signals.taskRevoked.size > 0) {
      const { reason, signum } = outcome;
      const how = { terminated: reason === 'terminated', signum, expired: reason === 'expired' };
      void signals.taskRevoked.send({ sender: task.name, taskId: message.id, message, ...how }, this.#log);
    }
  }

  /** A message that could not be read. */
  dead(envelope: string, reason: string): void {
    this.#metrics.counts.dead += 1;
    void signals.taskRejected.send({ sender: this.#hostname, message: envelope, reason }, this.#log);
  }

  /** A message of a task that nobody has defined here. */
  unknown(message: TaskMessage): void {
    const { id, task } = message;
    this.#metrics.counts.unknown += 1;
    void signals.taskUnknown.send({ sender: this.#hostname, taskId: id, message, name: task }, this.#log);
    if (this.#events.isOn) this.#events.unknown(id, `NotRegistered(${pythonRepr(task)})`);
  }

  #write(task: string, id: string, outcome: Outcome): void {
    const log = this.#log;
    const { state } = outcome;
    if (state === 'success') {
      if (log.isLevelEnabled('debug')) log.debug({ event: 'task_ended', task, id, state });
      return;
    }
    const reason = reasonOf(outcome);
    const line = { event: 'task_ended', task, id, state, reason };
    if (state === 'failure') log.error({ ...line, traceback: outcome.traceback });
    else if (state === 'ignored') log.info(line);
    else log.warn(line);
  }

  #tell(id: string, outcome: Outcome, runtimeSec: number): void {
    const events = this.#events;
    switch (outcome.state) {
      case 'success':
        events.succeeded(id, outcome.value, runtimeSec);
        return;
      case 'failure':
        events.failed(id, exceptionRepr(outcome.exception), outcome.traceback);
        return;
      case 'retry':
        events.retried(
          id,
          outcome.exception === null ? 'Retry()' : exceptionRepr(outcome.exception),
          outcome.traceback,
        );
        return;
      case 'revoked': {
        const { reason } = outcome;
        events.revoked(id, {
          terminated: reason === 'terminated',
          signum: outcome.signum,
          expired: reason === 'expired',
        });
        return;
      }
      case 'rejected':
        if (!outcome.requeue) events.failed(id, exceptionRepr(exceptionOf(new Reject(outcome.reason))), null);
        events.rejected(id, outcome.requeue);
        return;
      case 'lost':
        events.rejected(id, true);
        return;
      case 'ignored':
    }
  }
}

function reasonOf(outcome: Exclude<Outcome, { readonly state: 'success' }>): string | undefined {
  switch (outcome.state) {
    case 'failure':
      return exceptionRepr(outcome.exception);
    case 'retry':
      return outcome.exception === null ? undefined : exceptionRepr(outcome.exception);
    case 'ignored':
      return undefined;
    default:
      return outcome.reason;
  }
}
