export {
  type AnySignature,
  type CanvasOptions,
  chain,
  chord,
  type ForeignOptions,
  type Group,
  group,
  Signature,
  signature,
} from './client/canvas.ts';
export {
  Client,
  type ClientOptions,
  type TaskHandle,
  type TaskRequest,
  type TaskResult,
} from './client/client.ts';
export { setDefaultClient, type TaskSender } from './client/default-client.ts';
export type { GroupHandle } from './client/handles.ts';
export type { ListFilter, PutSummary, Schedule, ScheduleInput, ScheduleRun, Schedules } from './client/schedules.ts';
export {
  type ConnectOptions,
  type Receiver,
  type Signal,
  type SignalEvent,
  type Signals,
  signals,
  type TaskMessageEvent,
  type TaskRunEvent,
  type WorkerEvent,
} from './client/signals.ts';
export type { SignatureOptions } from './client/signature-options.ts';
export { SpecError } from './client/spec-error.ts';
export {
  type ApplyOptions,
  type ErrorKind,
  type RegisteredTask,
  type RetryOptions,
  type SignatureLike,
  type StandardSchema,
  type Task,
  type TaskContext,
  type TaskFunction,
  type TaskLogger,
  type TaskLoop,
  type TaskOptions,
  task,
} from './client/task.ts';
export { TaskFailedError } from './client/task-failed-error.ts';
export { type ErrorCode, RingbeatError } from './protocol/errors.ts';
export type { Json } from './protocol/json.ts';
export type { DeliveryInfo, ScheduleHeader, TaskMessage, Value } from './protocol/message-reader.ts';
export {
  Ignore,
  InvalidArguments,
  isTaskError,
  MaxRetriesExceededError,
  Reject,
  Retry,
  type RetryChanges,
  SoftTimeLimitExceeded,
  TaskError,
  TaskRevokedError,
  TimeLimitExceeded,
  WorkerLostError,
} from './protocol/task-errors.ts';
export type { WorkerOptions } from './worker/config.ts';
export { Worker } from './worker/worker.ts';
