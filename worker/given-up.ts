import { signals } from '../client/signals.ts';
import { tracebackOf } from '../protocol/result.ts';
import { Context, type TaskPort } from './context.ts';
import type { Job } from './pools/pool.ts';

/**
 * Tells those who want to hear of it that a task failed with `error` without having ended by itself, as Celery's worker process
 * does (celery/worker/request.py): its hooks, where the hard time limit ended it, and the signal.
 */
export async function tellGivenUp(job: Job, error: Error, port: TaskPort, hasHooks: boolean): Promise<void> {
  const { message, task } = job.delivery;
  const { id, args, kwargs } = message;
  const { onFailure, afterReturn } = task.options;
  const ctx = new Context(message, task.options, job.cancellation, port);
  try {
    if (hasHooks) {
      await onFailure?.(ctx, error);
      await afterReturn?.(ctx, 'FAILURE', error);
    }
  } catch (thrown) {
    port.log.error({ event: 'hook_failed', task: task.name, id, state: 'FAILURE', err: thrown });
  }
  const traceback = tracebackOf(error);
  await signals.taskFailure.send(
    { sender: task.name, taskId: id, args, kwargs, ctx, exception: error, traceback },
    port.log,
  );
}
