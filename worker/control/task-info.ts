import { argsRepr, type Json, kwargsRepr } from '../../protocol/json.ts';
import type { TaskMessage } from '../../protocol/message-reader.ts';
import { celeryTime } from '../../protocol/task-message.ts';
import type { ActiveTask } from './view.ts';

/** How a task is to be shown: by which worker, and whether its arguments as text. */
export interface InfoOptions {
  readonly hostname: string;
  readonly isSafe?: boolean;
}

/** A task that does not run as Celery shows it (celery/worker/request.py, Request.info). */
export function taskInfo(message: TaskMessage, { hostname, isSafe = false }: InfoOptions): { [field: string]: Json } {
  const { exchange, routingKey, priority, redelivered } = message.deliveryInfo;
  const args = message.args.map(plain);
  const kwargs = plainObject(message.kwargs);
  return {
    id: message.id,
    name: message.shadow ?? message.task,
    args: isSafe ? (message.argsrepr ?? argsRepr(args)) : args,
    kwargs: isSafe ? (message.kwargsrepr ?? kwargsRepr(kwargs)) : kwargs,
    type: message.task,
    hostname,
    time_start: null,
    acknowledged: false,
    delivery_info: { exchange, routing_key: routingKey, priority, redelivered },
    worker_pid: null,
  };
}

/** A task that runs, likewise. */
export function activeInfo({ message, startedAt, pid, isAcked }: ActiveTask, options: InfoOptions): Json {
  return { ...taskInfo(message, options), time_start: startedAt, acknowledged: isAcked, worker_pid: pid };
}

/** Arguments as JSON: what is no JSON value is written as text. */
function plain(value: unknown): Json {
  if (value === null || typeof value === 'boolean' || typeof value === 'number' || typeof value === 'string')
    return value;
  if (value instanceof Date) return celeryTime(value.getTime());
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(plain);
  return plainObject(Object(value));
}

function plainObject(value: { readonly [key: string]: unknown }): { [key: string]: Json } {
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, plain(member)]));
}
