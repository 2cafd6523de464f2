export {
  type RegisteredTask,
  type Task,
  type TaskContext,
  type TaskFunction,
  type TaskLogger,
  type TaskOptions,
  task,
} from './client/task.ts';
export type { DeliveryInfo, ScheduleHeader, Value } from './protocol/message-reader.ts';
export type { WorkerOptions } from './worker/config.ts';
export { Worker } from './worker/worker.ts';
