import { RingbeatError } from '../protocol/errors.ts';
import type { Json } from '../protocol/json.ts';
import { isObject } from '../schedule/fields.ts';

/** TASK_FAILED, with the exception that the task ended with, wherever it ran. */
export class TaskFailedError extends RingbeatError {
  readonly state: string;
  /** Name of the exception's class, such as `ValueError`. */
  readonly excType: string;
  /** Python's module of that class; of ours `ringbeat`, or `builtins` where Python has one of the name. */
  readonly excModule: string | null;
  /** What the exception was made from; of an error of JavaScript its message. */
  readonly excMessage: readonly Json[];
  /** Python's, or the stack. */
  readonly traceback: string | null;

  /** `result` is what its record holds (celery/backends/base.py, prepare_exception). */
  constructor(taskId: string, state: string, result: Json, traceback: string | null) {
    super('TASK_FAILED', { task: taskId, state, reason: JSON.stringify(result) }, { cause: traceback });
    const { exc_type: type, exc_module: module, exc_message: message = [] } = isObject(result) ? result : {};
    this.state = state;
    this.excType = typeof type === 'string' ? type : 'Exception';
    this.excModule = typeof module === 'string' ? module : null;
    this.excMessage = Array.isArray(message) ? message : [message];
    this.traceback = traceback;
  }
}
