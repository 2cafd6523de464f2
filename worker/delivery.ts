import { type RegisteredTask, tasks } from '../client/task.ts';
import type { Reserved } from '../lua/reserve.ts';
import type { SettledRun, Settlement } from '../lua/settle.ts';
import { messageOf } from '../protocol/errors.ts';
import { readMessage, type TaskMessage } from '../protocol/message-reader.ts';
import { failureRecord, notRegistered } from '../protocol/result.ts';
import type { Log } from '../runtime/log.ts';

/** A message that this worker holds, with the task it is for. */
export interface Delivery {
  readonly tag: string;
  /** The list it was taken from. */
  readonly list: string;
  readonly message: TaskMessage;
  readonly task: RegisteredTask;
  /** Acknowledged after its task has ended rather than just before. */
  readonly isLate: boolean;
  /** Found to have been restored to somebody else: it is not to be run here. */
  isLost: boolean;
  /** Aborts its task; made when the task asks for its signal. */
  abort: AbortController | null;
}

export interface TriageOptions {
  readonly acksLate: boolean;
  readonly log: Log;
}

/**
 * Reads a reserved message. What cannot be run comes back as the way it ends, as in Celery, except that nothing is
 * dropped silently: what has no result record to tell of it is kept as a dead letter.
 */
export function triage(reserved: Reserved, nowMs: number, { acksLate, log }: TriageOptions): Delivery | Settlement {
  const { tag, list } = reserved;
  let message: TaskMessage;
  try {
    message = readMessage(reserved.envelope);
  } catch (error) {
    const reason = messageOf(error);
    log.error({ event: 'message_undecodable', tag, queue: list, reason });
    return { tag, mode: 'dead', result: null, letter: { queue: list, reason }, run: null };
  }
  const task = tasks.get(message.task);
  if (task === undefined) {
    log.error({ event: 'task_unknown', tag, queue: list, task: message.task, id: message.id });
    const record = failureRecord(message, notRegistered(message.task), null, nowMs);
    return {
      tag,
      mode: 'held',
      result: message.ignoreResult ? null : { taskId: message.id, record },
      letter: null,
      run: endedRun(message, 'failure', null),
    };
  }
  if (message.workflow.length > 0) {
    // To run it and leave out what should follow would break a workflow without a trace.
    const reason = `workflow messages (${message.workflow.join(', ')}) are not supported by this version of the bundled worker`;
    log.error({
      event: 'workflow_unsupported',
      tag,
      queue: list,
      task: message.task,
      id: message.id,
      parts: message.workflow,
    });
    const exception = { type: 'NotImplementedError', module: 'builtins', args: [reason] };
    return {
      tag,
      mode: 'dead',
      result: { taskId: message.id, record: failureRecord(message, exception, null, nowMs) },
      letter: { queue: list, reason },
      run: endedRun(message, 'failure', null),
    };
  }
  // A run whose end is waited for is kept until then, so that it is missed when this worker dies.
  const isLate = message.schedule?.journal != null || (task.options.acksLate ?? acksLate);
  return { tag, list, message, task, isLate, isLost: false, abort: null };
}

/** The run in flight that ends with a message; null where nobody waits for it. */
export function endedRun(
  { schedule }: TaskMessage,
  outcome: SettledRun['outcome'],
  wish: SettledRun['wish'],
): SettledRun | null {
  if (schedule === null || schedule.journal === null) return null;
  return { shard: schedule.journal, schedule: schedule.schedule, outcome, wish };
}
