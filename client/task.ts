import type { DeliveryInfo, ScheduleHeader, Value } from '../protocol/message-reader.ts';
import type { TaskHandle, TaskRequest } from './client.ts';
import { senderFor, type TaskSender } from './default-client.ts';

/** What a task function knows about the message it runs for. */
export interface TaskContext {
  readonly id: string;
  readonly task: string;
  readonly args: readonly Value[];
  readonly kwargs: { readonly [key: string]: Value };
  readonly retries: number;
  readonly eta: Date | null;
  readonly expires: Date | null;
  /** The worker's name. */
  readonly hostname: string;
  readonly deliveryInfo: DeliveryInfo;
  readonly headers: { readonly [key: string]: unknown };
  readonly rootId: string | null;
  readonly parentId: string | null;
  /** Which occurrence of which schedule this is; null for a message that no schedule sent. */
  readonly schedule: ScheduleHeader | null;
  /**
   * Aborted when the worker is told to stop at once, and, where the message is acknowledged late, when the worker was
   * suspended for so long that the task was given to another.
   */
  readonly signal: AbortSignal;
  /** Says how the loop goes on that this run is of; without effect where it is of none. */
  readonly loop: TaskLoop;
  readonly logger: TaskLogger;
}

/** A loop's next run, as its task wants it. What was said last counts, and only when the task succeeds. */
export interface TaskLoop {
  /** The next run follows this many seconds after the end of this one. Throws RangeError for what is no duration. */
  runAgainIn(seconds: number): void;
  /** There is no next run. */
  stop(): void;
}

/** Logs one line with the task's name and id; `fields` are added to it. */
export interface TaskLogger {
  debug(fields: object, message?: string): void;
  info(fields: object, message?: string): void;
  warn(fields: object, message?: string): void;
  error(fields: object, message?: string): void;
}

export interface TaskOptions {
  /**
   * Acknowledge after the function has ended instead of just before it is entered: a worker that dies in between then
   * costs a second run instead of the run. Default: the worker's --acks-late.
   */
  readonly acksLate?: boolean;
  /** Store no result, whatever the message says. Default false. */
  readonly ignoreResult?: boolean;
}

export type TaskFunction<Args extends readonly unknown[], Result> = (
  ctx: TaskContext,
  ...args: Args
) => Result | Promise<Result>;

/** A task that exists in this process. Its methods send it, whichever process then runs it. */
export interface Task<Args extends readonly unknown[] = readonly unknown[], Result = unknown> {
  readonly name: string;
  readonly options: TaskOptions;
  readonly run: TaskFunction<Args, Result>;
  /** Sends it with these args, by the default client. Throws NO_CLIENT where there is none. */
  delay(...args: Args): Promise<TaskHandle<Result>>;
  /** Sends it with these args, later if the options say so. Throws NO_CLIENT where there is no default client. */
  applyAsync(args: Args, options?: ApplyOptions): Promise<TaskHandle<Result>>;
}

/** How a task is sent by `applyAsync`. */
export interface ApplyOptions extends Omit<TaskRequest, 'args'> {
  /** Sends it with this client instead of the default one. */
  readonly client?: TaskSender;
}

/** A task as a worker runs it: with whatever args a message brings. */
export interface RegisteredTask {
  readonly name: string;
  readonly options: TaskOptions;
  run(ctx: TaskContext, args: readonly Value[]): unknown;
}

/** Several copies of the package in one process share one registry. */
const REGISTRY = Symbol.for('ringbeat.tasks');

const shared = globalThis as typeof globalThis & { [REGISTRY]?: Map<string, RegisteredTask> };
shared[REGISTRY] ??= new Map();

/** Every task of this process by its name. */
export const tasks: Map<string, RegisteredTask> = shared[REGISTRY];

/**
 * Defines a task: from now on workers in this process run `run` for messages that name it. The message's args follow
 * `ctx`, of the types that its producer sent; its kwargs are `ctx.kwargs`. Defining a name again replaces the task.
 */
export function task<Args extends readonly unknown[], Result>(
  name: string,
  run: TaskFunction<Args, Result>,
  options: TaskOptions = {},
): Task<Args, Result> {
  if (typeof name !== 'string' || name === '') throw new TypeError('A task needs a name: task(name, fn).');
  if (typeof run !== 'function') throw new TypeError(`Task ${name} needs a function: task(name, fn).`);
  const call = run as (ctx: TaskContext, ...args: readonly unknown[]) => unknown;
  tasks.set(name, { name, options, run: (ctx, args) => call(ctx, ...args) });
  const applyAsync = async (args: Args, { client = senderFor(name), ...request }: ApplyOptions = {}) => {
    const ignoring = options.ignoreResult === true ? { ignore_result: true } : {};
    return client.send<Result>(name, { ...request, args, options: { ...ignoring, ...request.options } });
  };
  return { name, options, run, applyAsync, delay: (...args) => applyAsync(args) };
}
