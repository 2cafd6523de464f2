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
  /** The message as kombu wrote it. */
  readonly envelope: string;
  readonly message: TaskMessage;
  readonly task: RegisteredTask;
  /** Acknowledged after its task has ended rather than just before. */
  readonly isLate: boolean;
  /** Found to have been restored to somebody else: it is not to be run here. */
  isLost: boolean;
  /** Its rate limit has let it pass. */
  isAdmitted: boolean;
}

/** A message that names a task which nobody has defined here. */
export interface Unknown {
  readonly message: TaskMessage;
  readonly settlement: Settlement;
}

export interface TriageOptions {
  readonly acksLate: boolean;
  readonly log: Log;
}

/**
 * Reads a reserved message. What cannot be run comes back as the way it ends, as in Celery, except that nothing is
 * dropped silently: what has no result record to tell of it is kept as a dead letter.
 */
export function triage(
  reserved: Reserved,
  nowMs: number,
  { acksLate, log }: TriageOptions,
): Delivery | Unknown | Settlement {
  const { tag, list, envelope } = reserved;
  let message: TaskMessage;
  try {
    message = readMessage(envelope);
  } catch (error) {
    const reason = messageOf(error);
    log.error({ event: 'message_undecodable', tag, queue: list, reason });
    return reserved.isAcked
      ? { ...NOTHING, tag, mode: 'acked', actions: [{ kind: 'dead', list, envelope, reason }] }
      : { ...NOTHING, tag, mode: 'held', letter: { queue: list, reason } };
  }
  const task = tasks.get(message.task);
  if (task === undefined) {
    log.error({ event: 'task_unknown', tag, queue: list, task: message.task, id: message.id });
    const record = failureRecord(message, notRegistered(message.task), null, nowMs);
    const result = message.ignoreResult ? null : { taskId: message.id, record };
    const run = endedRun(message, 'failure', null);
    const mode = reserved.isAcked ? 'acked' : 'held';
    return { message, settlement: { ...NOTHING, tag, mode, result, run } };
  }
  // A run whose end is waited for is kept until then, so that it is missed when this worker dies.
  const isLate = !reserved.isAcked && (message.schedule?.journal != null || (task.options.acksLate ?? acksLate));
  return { tag, list, envelope, message, task, isLate, isLost: false, isAdmitted: false };
}

const NOTHING = { result: null, letter: null, run: null, actions: [] } as const;

/** The run in flight that ends with a message; null where nobody waits for it. */
export function endedRun(
  { schedule }: TaskMessage,
  outcome: SettledRun['outcome'],
  wish: SettledRun['wish'],
): SettledRun | null {
  if (schedule === null || schedule.journal === null) return null;
  return { shard: schedule.journal, schedule: schedule.schedule, outcome, wish };
}
