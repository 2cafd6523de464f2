import { current, within } from '../client/current-task.ts';
import { signals } from '../client/signals.ts';
import type { RegisteredTask, TaskOptions } from '../client/task.ts';
import { loopWishOf } from '../protocol/loop.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { exceptionOf, JsonText, jsonValue, tracebackOf, valueJson } from '../protocol/result.ts';
import { isTaskError } from '../protocol/task-errors.ts';
import { checkedArguments } from './arguments-schema.ts';
import { autoretried } from './autoretry.ts';
import type { Cancellation } from './cancellation.ts';
import { Context, type TaskPort } from './context.ts';
import { failureOf, type Outcome } from './outcome.ts';

export interface TaskRun {
  readonly message: TaskMessage;
  readonly task: RegisteredTask;
  readonly cancellation: Cancellation;
  readonly port: TaskPort;
}

/**
 * Runs a task's function and tells how it ended, at once or later. It never throws. (No promise is made here for a
 * function that made none: at 60,000 tasks a second each one counts.)
 */
export function runTask(run: TaskRun, onEnd: (outcome: Outcome) => void): void {
  const { message, task, cancellation, port } = run;
  const context = new Context(message, task.options, cancellation, port);
  if (isWatched(task.options)) {
    runWatched(run, context).then(onEnd);
    return;
  }
  const failed = (error: unknown) => onEnd(endOf(thrownBy(error, run, context), context).outcome);
  let returned: unknown;
  try {
    current.task = context;
    returned = task.run(context, message.args);
  } catch (error) {
    current.task = null;
    failed(error);
    return;
  }
  current.task = null;
  if (!isThenable(returned)) {
    onEnd(success(context, message, returned));
    return;
  }
  returned.then((value) => onEnd(success(context, message, value)), failed);
}

/** Whether anybody has a say in how the task runs, or wants to hear of it. */
function isWatched(options: TaskOptions): boolean {
  return (
    options.schema !== undefined ||
    options.kwargsSchema !== undefined ||
    options.beforeStart !== undefined ||
    options.onSuccess !== undefined ||
    options.onFailure !== undefined ||
    options.onRetry !== undefined ||
    options.afterReturn !== undefined ||
    signals.taskPrerun.size > 0 ||
    signals.taskPostrun.size > 0 ||
    signals.taskSuccess.size > 0 ||
    signals.taskFailure.size > 0 ||
    signals.taskRetry.size > 0
  );
}

/** How a task ended, as hooks and signals are told. */
interface TaskEnd {
  readonly outcome: Outcome;
  readonly state: 'SUCCESS' | 'FAILURE' | 'RETRY' | 'IGNORED' | 'REJECTED';
  /** What it returned or threw. */
  readonly value: unknown;
}

/**
 * Runs a task with its hooks and signals, in Celery's order (celery/app/trace.py). What a hook throws after the task has ended
 * is logged, keeps the hooks that would follow from running, and does not change how the task ended.
 */
async function runWatched(run: TaskRun, context: Context): Promise<Outcome> {
  const { message, task, cancellation, port } = run;
  const { id, args, kwargs } = message;
  const { log } = port;
  const event = { sender: task.name, taskId: id, args, kwargs, ctx: context };
  await signals.taskPrerun.send(event, log);
  const ending = await enter(run, context);
  // Given up meanwhile: others have been told how it ended.
  if (cancellation.isOver) return ending.outcome;
  const { state, value } = ending;
  try {
    await tellEnd(task.options, context, ending, event, log);
    if (state !== 'IGNORED' && state !== 'REJECTED') await task.options.afterReturn?.(context, state, value);
  } catch (error) {
    log.error({ event: 'hook_failed', task: task.name, id, state, err: error });
  }
  await signals.taskPostrun.send({ ...event, state, retval: value }, log);
  return ending.outcome;
}

async function enter(run: TaskRun, context: Context): Promise<TaskEnd> {
  const { task, message } = run;
  const { options } = task;
  let args: TaskMessage['args'];
  try {
    const checked = await checkedArguments(task.name, options, message);
    args = checked.args;
    context.kwargs = checked.kwargs;
    await options.beforeStart?.(context);
  } catch (error) {
    return endOf(error, context);
  }
  let value: unknown;
  try {
    value = await within(context, () => task.run(context, args));
  } catch (error) {
    return endOf(thrownBy(error, run, context), context);
  }
  try {
    // What cannot be written has failed, and that must be known before anybody is told.
    const outcome = { ...success(context, message, value), value: new JsonText(valueJson(value, message.isTyped)) };
    return { outcome, state: 'SUCCESS', value };
  } catch (error) {
    return endOf(error, context);
  }
}

async function tellEnd(
  { onSuccess, onFailure, onRetry }: TaskOptions,
  context: Context,
  { state, value }: TaskEnd,
  event: Parameters<typeof signals.taskPrerun.send>[0],
  log: TaskPort['log'],
): Promise<void> {
  switch (state) {
    case 'SUCCESS':
      await onSuccess?.(context, value);
      await signals.taskSuccess.send({ ...event, result: value }, log);
      return;
    case 'FAILURE':
      await onFailure?.(context, value);
      await signals.taskFailure.send({ ...event, exception: value, traceback: tracebackOf(value) }, log);
      return;
    case 'RETRY':
      await onRetry?.(context, isTaskError(value, 'Retry') ? (value.cause ?? null) : null);
      await signals.taskRetry.send({ ...event, reason: value }, log);
      return;
    case 'REJECTED':
      if (!isTaskError(value, 'Reject') || value.requeue) return;
      await signals.taskFailure.send({ ...event, exception: value, traceback: tracebackOf(value) }, log);
      return;
    case 'IGNORED':
  }
}

function success(context: Context, message: TaskMessage, value: unknown): Extract<Outcome, { state: 'success' }> {
  const wish = message.schedule?.journal == null ? null : (context.wish ?? loopWishOf(value));
  const { sends, children } = context;
  if (sends === null && children === null) return { state: 'success', value, wish };
  return { state: 'success', value, wish, sends: sends ?? [], children: children ?? [] };
}

/** What the task has thrown, or the Retry that follows from it. */
function thrownBy(error: unknown, { task, cancellation }: TaskRun, context: Context): unknown {
  const { reason } = cancellation;
  // What was awaited with `ctx.signal` may fail with an AbortError of its own making.
  const isAbort = reason !== null && error instanceof Error && error.name === 'AbortError';
  return autoretried(isAbort ? reason : error, context, task.options);
}

/** How a task ended that threw this. */
function endOf(error: unknown, { children }: Context): TaskEnd {
  const sent = children === null ? {} : { children };
  if (isTaskError(error, 'Retry')) {
    const { cause, etaMs, changes } = error;
    const exception = cause === undefined ? null : exceptionOf(cause);
    const traceback = tracebackOf(cause ?? error);
    return { outcome: { state: 'retry', exception, traceback, etaMs, changes, ...sent }, state: 'RETRY', value: error };
  }
  if (isTaskError(error, 'Ignore')) {
    const replaced = 'replacement' in error ? { replacement: jsonValue(error.replacement) } : {};
    return { outcome: { state: 'ignored', ...replaced }, state: 'IGNORED', value: error };
  }
  if (isTaskError(error, 'Reject')) {
    const { reason, requeue } = error;
    return { outcome: { state: 'rejected', reason, requeue }, state: 'REJECTED', value: error };
  }
  return { outcome: { ...failureOf(error), ...sent }, state: 'FAILURE', value: error };
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}
