import type { Json } from '../protocol/json.ts';
import type { DeliveryInfo, ScheduleHeader, Value } from '../protocol/message-reader.ts';
import type { RetryChanges } from '../protocol/task-errors.ts';
import { type Group, group, mapSignature, type Signature, taskSignature } from './canvas.ts';
import type { TaskHandle, TaskRequest } from './client.ts';
import { senderFor, type TaskSender } from './default-client.ts';
import { checkTaskOptions } from './task-options.ts';

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
  readonly groupId: string | null;
  /** Which occurrence of which schedule this is; null for a message that no schedule sent. */
  readonly schedule: ScheduleHeader | null;
  /**
   * Aborted at the soft time limit (reason: SoftTimeLimitExceeded), when the task is terminated or over its hard limit,
   * when the worker is told to stop at once, and, where the message is acknowledged late, when the worker was suspended for
   * so long that the task was given to another.
   */
  readonly signal: AbortSignal;
  /** Says how the loop goes on that this run is of; without effect where it is of none. */
  readonly loop: TaskLoop;
  readonly logger: TaskLogger;
  /**
   * Ends this run; the task is sent again under the same id, with one retry more. It throws in any case: Retry, or, when
   * there were `maxRetries` already, `exc` or MaxRetriesExceededError.
   */
  retry(options?: RetryOptions): never;
  /** Stores a state of its own for the task, such as `('PROGRESS', { done: 3 })`; a stored success is never overwritten. */
  updateState(state: string, meta?: Json): Promise<void>;
  /**
   * Ends this run: the signature's task takes this one's place, under its id, with all that was to follow it. It throws in
   * any case; a signature that is none fails the task.
   */
  replace(signature: SignatureLike): never;
  /** Sends a signature in the step that stores this task's success; where it fails, nothing is sent. */
  sendOnSuccess(signature: SignatureLike): void;
  /**
   * Adds a task to the chord of which this one is a member: it is sent in the step that stores this task's success, and the
   * chord's body waits for it. Throws TypeError where there is no chord.
   */
  addToChord(signature: SignatureLike): void;
  /**
   * Sends a signature now, as a child of this task: its `parentId` and `rootId` say so, and `children` of this task's
   * result. What is sent otherwise before the task first awaits something is a child, too.
   */
  send<Result>(signature: Signature<[], Result>, client?: TaskSender): Promise<TaskHandle<Result>>;
  /** Says that this worker still holds the message, so that nobody takes it for lost. It does so by itself in time. */
  extendLease(): Promise<void>;
  /** Sends a monitoring event of the task's own, `task-...`, where events are on. */
  sendEvent(type: string, fields?: { readonly [key: string]: Json }): void;
}

/** What `task.s()`, `chain()`, `group()` and `chord()` make, or the JSON that Celery makes of a signature. */
export type SignatureLike = { toJSON(): Json } | { readonly [field: string]: Json };

/** How a task is sent again. */
export interface RetryOptions extends Omit<RetryChanges, 'expiresMs'> {
  /** s from now; default: the task's `defaultRetryDelay`. */
  readonly countdown?: number;
  /** Not to be run before; instead of `countdown`. */
  readonly eta?: Date;
  /** s from now, or a time: not to be started after. */
  readonly expires?: number | Date | null;
  /** Why: it is stored as the reason of the retry, and thrown when there are no retries left. */
  readonly exc?: unknown;
  /** Instead of the task's own; null: no limit. */
  readonly maxRetries?: number | null;
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
  /**
   * When its process dies while it runs: put its message back instead of storing WorkerLostError, where acks are late.
   * Default false. (When the whole worker dies, late-acknowledged messages always come back.)
   */
  readonly rejectOnWorkerLost?: boolean;
  /** Store the state STARTED when it starts. Default: the worker's --track-started. */
  readonly trackStarted?: boolean;
  /** Send events about it, where events are on. Default true. */
  readonly sendEvents?: boolean;
  /** Errors, by class or name, after which it is sent again by itself. Default none. */
  readonly autoretryFor?: readonly ErrorKind[];
  /** Errors after which it is not, though `autoretryFor` names them. Default none. */
  readonly dontAutoretryFor?: readonly ErrorKind[];
  /** Retries before it fails; null: no limit. Default 3. */
  readonly maxRetries?: number | null;
  /** s until a retry that says nothing else. Default 180. */
  readonly defaultRetryDelay?: number;
  /** Automatic retries wait 1, 2, 4, ... s (true), or this many times that, instead of `defaultRetryDelay`. Default false. */
  readonly retryBackoff?: boolean | number;
  /** Longest such wait, s. Default 600. */
  readonly retryBackoffMax?: number;
  /** Take a random part of such a wait, so that retries do not come in waves. Default true. */
  readonly retryJitter?: boolean;
  /** s after which `ctx.signal` is aborted with SoftTimeLimitExceeded. Default: the worker's --soft-time-limit. */
  readonly softTimeLimit?: number | null;
  /** s after which it is ended: TimeLimitExceeded. Default: the worker's --time-limit. */
  readonly timeLimit?: number | null;
  /** Most starts on one worker: a number of them a second, or "100/m", "5/h". Default null: no limit. */
  readonly rateLimit?: number | string | null;
  /** Most starts on all workers of the namespace together. Default null: no limit. */
  readonly globalRateLimit?: number | string | null;
  /** Of the messages that `delay` and `applyAsync` send: 0 (most urgent) to 9. Default null: that of the queue's plain list. */
  readonly priority?: number | null;
  /** Of those messages too. Only "json" is spoken. */
  readonly serializer?: 'json';
  /** Name that those messages show in logs and monitors instead of the task's own. Default null. */
  readonly shadow?: string | null;
  /**
   * Checks its args, as a list, before it is entered, and gives it what it makes of them (https://standardschema.dev). What
   * does not pass fails with InvalidArguments and is not tried again.
   */
  readonly schema?: StandardSchema;
  /** The same for its kwargs. */
  readonly kwargsSchema?: StandardSchema;
  /** Runs before the task, in the process that runs it, as all of these do; what it throws, the task has thrown. */
  readonly beforeStart?: (ctx: TaskContext) => unknown;
  readonly onSuccess?: (ctx: TaskContext, result: unknown) => unknown;
  /** Also after the hard time limit; then in the worker's process. */
  readonly onFailure?: (ctx: TaskContext, error: unknown) => unknown;
  /** `error` is why it runs again; null where it did not say. */
  readonly onRetry?: (ctx: TaskContext, error: unknown) => unknown;
  /** Runs last, with the state that it ended in (SUCCESS, FAILURE, RETRY) and its result or error. */
  readonly afterReturn?: (ctx: TaskContext, state: string, value: unknown) => unknown;
}

/** An error class, or the name of one. */
export type ErrorKind = string | (abstract new (...args: never[]) => Error);

/** The part of https://standardschema.dev that is used: zod, valibot and others have it. */
export interface StandardSchema {
  readonly '~standard': {
    readonly validate: (value: unknown) => StandardResult | Promise<StandardResult>;
  };
}

type StandardResult =
  | { readonly value: unknown; readonly issues?: undefined }
  | { readonly issues: readonly { readonly message: string; readonly path?: readonly unknown[] | undefined }[] };

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
  /** A signature with these args, or the last ones of them: what comes before them is given when it is sent. */
  s<Given extends LastOf<Args>>(...args: Given): Signature<MissingFrom<Args, Given>, Result>;
  /** A signature with these args that takes no others: an immutable one. */
  si(...args: Args): Signature<readonly unknown[], Result>;
  /** A task that runs this one for each of the items, one after the other. */
  map(items: readonly Args[0][]): Signature<readonly unknown[], Result[]>;
  /** The same with several args each. */
  starmap(items: readonly Args[]): Signature<readonly unknown[], Result[]>;
  /** A group of such, for so many items each. */
  chunks(items: readonly Args[], size: number): Group<Result[][]>;
}

/** The last of a function's args: all of them, or none. */
export type LastOf<Args extends readonly unknown[]> =
  | Args
  | (Args extends readonly [unknown, ...infer Rest] ? LastOf<Rest> : readonly []);

/** Its args without the last ones that are given. Which those are is not known where some may be left out. */
export type MissingFrom<
  Args extends readonly unknown[],
  Given extends readonly unknown[],
> = number extends Args['length'] ? Args : Args extends Required<Args> ? WithoutLast<Args, Given> : readonly unknown[];

type WithoutLast<Args extends readonly unknown[], Given extends readonly unknown[]> = Given extends Args
  ? []
  : Args extends readonly [infer First, ...infer Rest]
    ? [First, ...WithoutLast<Rest, Given>]
    : readonly unknown[];

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

/** Tasks by their names. */
class TaskRegistry extends Map<string, RegisteredTask> {
  /** Grows whenever a task is defined. */
  revision = 0;

  override set(name: string, task: RegisteredTask): this {
    this.revision += 1;
    return super.set(name, task);
  }
}

/** Several copies of the package in one process share one registry. */
const REGISTRY = Symbol.for('ringbeat.tasks');

const shared = globalThis as typeof globalThis & { [REGISTRY]?: TaskRegistry };
shared[REGISTRY] ??= new TaskRegistry();

/** Every task of this process by its name. */
export const tasks: TaskRegistry = shared[REGISTRY];

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
  checkTaskOptions(name, options);
  const sending = sendingOptions(options);
  const call = run as (ctx: TaskContext, ...args: readonly unknown[]) => unknown;
  tasks.set(name, { name, options, run: (ctx, args) => call(ctx, ...args) });
  const applyAsync = async (args: Args, { client = senderFor(name), ...request }: ApplyOptions = {}) => {
    return client.send<Result>(name, { ...request, args, options: { ...sending, ...request.options } });
  };
  const partial = <Missing extends readonly unknown[]>(args: readonly unknown[], isImmutable: boolean) =>
    taskSignature<Missing, Result>(name, { args, options: { ...sending }, isImmutable });
  const starmap = (items: readonly Args[]) => mapSignature<Result>('celery.starmap', partial([], false), items);
  return {
    name,
    options,
    run,
    applyAsync,
    delay: (...args) => applyAsync(args),
    s: (...args) => partial(args, false),
    si: (...args) => partial(args, true),
    map: (items) => mapSignature('celery.map', partial([], false), items),
    starmap,
    chunks: (items, size) => group(inChunks(items, size).map(starmap)),
  };
}

function inChunks<Item>(items: readonly Item[], size: number): Item[][] {
  if (!Number.isInteger(size) || size < 1) throw new RangeError(`Chunks have 1 item or more, got ${size}.`);
  const count = Math.ceil(items.length / size);
  return Array.from({ length: count }, (_, at) => items.slice(at * size, (at + 1) * size));
}

/** What messages of a task say unless their sender says otherwise (celery/app/task.py, _get_exec_options). */
function sendingOptions({ ignoreResult, priority, shadow, timeLimit, softTimeLimit }: TaskOptions) {
  return {
    ...(ignoreResult === true ? { ignore_result: true } : {}),
    ...(priority == null ? {} : { priority }),
    ...(shadow == null ? {} : { shadow }),
    ...(timeLimit == null ? {} : { time_limit: timeLimit }),
    ...(softTimeLimit == null ? {} : { soft_time_limit: softTimeLimit }),
  };
}
