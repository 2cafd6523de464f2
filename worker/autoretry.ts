import type { ErrorKind, TaskContext, TaskOptions } from '../client/task.ts';
import { isTaskError } from '../protocol/task-errors.ts';

/** As Celery's Task.retry_backoff_max (celery/app/autoretry.py). */
const BACKOFF_MAX_SEC = 600;

/**
 * What follows from an error that a task has thrown: the Retry of those that it wants to be tried again for, or, when there
 * are no retries left, the error; the error itself otherwise. Never throws.
 */
export function autoretried(error: unknown, context: TaskContext, options: TaskOptions): unknown {
  const { autoretryFor, dontAutoretryFor } = options;
  if (autoretryFor === undefined || autoretryFor.length === 0) return error;
  if (isTaskError(error, 'Ignore') || isTaskError(error, 'Retry') || isTaskError(error, 'Reject')) return error;
  if (dontAutoretryFor !== undefined && isOneOf(error, dontAutoretryFor)) return error;
  if (!isOneOf(error, autoretryFor)) return error;
  try {
    const countdown = backoffSec(context.retries, options);
    return context.retry({ exc: error, ...(countdown === null ? {} : { countdown }) });
  } catch (thrown) {
    return thrown;
  }
}

/** How long an automatic retry waits, s (celery/utils/time.py, get_exponential_backoff_interval); null: as any other. */
function backoffSec(retries: number, options: TaskOptions): number | null {
  const { retryBackoff = false, retryBackoffMax = BACKOFF_MAX_SEC, retryJitter = true } = options;
  if (retryBackoff === false || retryBackoff === 0) return null;
  const factor = Math.max(1, Math.floor(Number(retryBackoff)));
  const mostSec = Math.min(retryBackoffMax, factor * 2 ** retries);
  return retryJitter ? Math.floor(Math.random() * (Math.floor(mostSec) + 1)) : mostSec;
}

/** By class, or by the name of the error or of a class that it is of. */
function isOneOf(error: unknown, kinds: readonly ErrorKind[]): boolean {
  return kinds.some((kind) => (typeof kind === 'string' ? hasName(error, kind) : error instanceof kind));
}

function hasName(error: unknown, name: string): boolean {
  if (!(error instanceof Error)) return false;
  if (error.name === name) return true;
  for (
    let proto: unknown = Object.getPrototypeOf(error);
    proto instanceof Object;
    proto = Object.getPrototypeOf(proto)
  ) {
    if (proto.constructor.name === name) return true;
  }
  return false;
}
