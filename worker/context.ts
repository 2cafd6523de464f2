import type { Signature } from '../client/canvas.ts';
import type { TaskHandle } from '../client/client.ts';
import { type SendingTask, within } from '../client/current-task.ts';
import type { TaskSender } from '../client/default-client.ts';
import type { RetryOptions, SignatureLike, TaskContext, TaskLogger, TaskLoop, TaskOptions } from '../client/task.ts';
import { argsRepr, type Json, pythonRepr } from '../protocol/json.ts';
import { type LoopWish, loopDelayMs } from '../protocol/loop.ts';
import type { DeliveryInfo, ScheduleHeader, TaskMessage, Value } from '../protocol/message-reader.ts';
import { jsonValue } from '../protocol/result.ts';
import { readSignature } from '../protocol/signature.ts';
import { MaxRetriesExceededError, Replaced, Retry } from '../protocol/task-errors.ts';
import type { Log } from '../runtime/log.ts';
import type { Cancellation } from './cancellation.ts';
import type { SignatureToSend } from './outcome.ts';

/** What a running task can ask of its worker, from whichever process it runs in. */
export interface TaskPort {
  /** The worker's name. */
  readonly hostname: string;
  readonly log: Log;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /**
   * Stores a state that is not the task's end, with the tuple forms of what it has sent so far; never in the place of a success.
   */
  storeState(message: TaskMessage, state: string, meta: Json, children: readonly Json[]): Promise<void>;
  /** Says that the worker still holds this message. */
  extendLease(id: string): Promise<void>;
  /** Sends a monitoring event about a task, where events are on. */
  sendEvent(id: string, type: string, fields: { readonly [key: string]: Json }): void;
}

/** As Celery's Task.max_retries and Task.default_retry_delay (celery/app/task.py). */
const MAX_RETRIES = 3;
const RETRY_DELAY_SEC = 180;

/** The `ctx` of one run of a task. */
export class Context implements TaskContext, SendingTask {
  readonly #message: TaskMessage;
  readonly #options: TaskOptions;
  readonly #cancellation: Cancellation;
  readonly #port: TaskPort;
  /** How its loop is to go on, if the task said so. */
  wish: LoopWish | null = null;
  /** What it sends as it succeeds. */
  sends: SignatureToSend[] | null = null;
  /** Tuple forms of what it has sent. */
  children: Json[] | null = null;
  kwargs: { readonly [key: string]: Value };
  #logger: TaskLogger | null = null;
  /** As its last retry said; undefined: it said nothing. */
  #maxRetries: number | null | undefined;

  constructor(message: TaskMessage, options: TaskOptions, cancellation: Cancellation, port: TaskPort) {
    this.#message = message;
    this.#options = options;
    this.#cancellation = cancellation;
    this.#port = port;
    this.kwargs = message.kwargs;
    this.#maxRetries = options.maxRetries;
  }

  get id(): string {
    return this.#message.id;
  }
  get task(): string {
    return this.#message.task;
  }
  get args(): readonly Value[] {
    return this.#message.args;
  }
  get retries(): number {
    return this.#message.retries;
  }
  get eta(): Date | null {
    return dateOf(this.#message.etaMs);
  }
  get expires(): Date | null {
    return dateOf(this.#message.expiresMs);
  }
  get hostname(): string {
    return this.#port.hostname;
  }
  get deliveryInfo(): DeliveryInfo {
    return this.#message.deliveryInfo;
  }
  get headers(): { readonly [key: string]: unknown } {
    return this.#message.headers;
  }
  get rootId(): string | null {
    return this.#message.rootId;
  }
  get parentId(): string | null {
    return this.#message.parentId;
  }
  get groupId(): string | null {
    return this.#message.groupId;
  }
  get schedule(): ScheduleHeader | null {
    return this.#message.schedule;
  }
  get signal(): AbortSignal {
    return this.#cancellation.signal;
  }
  get loop(): TaskLoop {
    return {
      runAgainIn: (seconds) => {
        const delayMs = loopDelayMs(seconds);
        if (delayMs === null) throw new RangeError(`A loop waits 0 seconds or more, up to 100 years, got ${seconds}.`);
        this.wish = delayMs;
      },
      stop: () => {
        this.wish = 'stop';
      },
    };
  }
  get logger(): TaskLogger {
    this.#logger ??= this.#port.log.child({ task: this.#message.task, id: this.#message.id });
    return this.#logger;
  }

  retry(options: RetryOptions = {}): never {
    checkRetry(options);
    const { countdown, eta, expires, exc, maxRetries, args, kwargs, ...changes } = options;
    if (maxRetries !== undefined) this.#maxRetries = maxRetries;
    const most = this.#maxRetries === undefined ? MAX_RETRIES : this.#maxRetries;
    if (most !== null && this.retries + 1 > most) throw exc ?? this.#exhausted();
    const nowMs = this.#port.nowMs();
    const delaySec = countdown ?? this.#options.defaultRetryDelay ?? RETRY_DELAY_SEC;
    throw new Retry(
      eta === undefined ? Math.round(nowMs + delaySec * 1_000) : eta.getTime(),
      {
        ...changes,
        ...(args === undefined ? {} : { args: jsonValue(args) as readonly Json[] }),
        ...(kwargs === undefined ? {} : { kwargs: jsonValue(kwargs) as { readonly [key: string]: Json } }),
        ...(expires === undefined ? {} : { expiresMs: expiryOf(expires, nowMs) }),
      },
      exc,
    );
  }

  async updateState(state: string, meta: Json = null): Promise<void> {
    this.#mustRun();
    if (typeof state !== 'string' || state === '') throw new TypeError(`A state is a text, got ${String(state)}.`);
    await this.#port.storeState(this.#message, state, meta, this.children ?? []);
  }

  async extendLease(): Promise<void> {
    this.#mustRun();
    await this.#port.extendLease(this.#message.id);
  }

  sendEvent(type: string, fields: { readonly [key: string]: Json } = {}): void {
    this.#mustRun();
    this.#port.sendEvent(this.#message.id, type, fields);
  }

  /** A task that was given up may go on; what it says then would overwrite how it ended. */
  #mustRun(): void {
    if (this.#cancellation.isOver) throw new Error(`Task ${this.task}[${this.id}] has ended.`);
  }

  replace(signature: SignatureLike): never {
    throw new Replaced(jsonValue(signature));
  }

  send<Result>(signature: Signature<[], Result>, client?: TaskSender): Promise<TaskHandle<Result>> {
    return within(this, () => signature.applyAsync([], client === undefined ? {} : { client }));
  }

  addChildren(children: readonly Json[]): void {
    this.children ??= [];
    this.children.push(...children);
  }

  sendOnSuccess(signature: SignatureLike): void {
    this.#send({ signature: jsonValue(signature), isPart: false });
  }

  addToChord(signature: SignatureLike): void {
    if (this.#message.workflow.chord === null || this.#message.groupId === null)
      throw new TypeError(`Task ${this.task}[${this.id}] is not a member of any chord.`);
    this.#send({ signature: jsonValue(signature), isPart: true });
  }

  #send(sending: SignatureToSend): void {
    // What is none is refused here, where the task can be told.
    readSignature(sending.signature);
    this.sends ??= [];
    this.sends.push(sending);
  }

  /** In Celery's words (celery/app/task.py, retry). */
  #exhausted(): MaxRetriesExceededError {
    const { task, id, args, kwargs } = this.#message;
    const shown = `args:${argsRepr(jsonList(args))} kwargs:${pythonRepr(jsonValue(kwargs))}`;
    return new MaxRetriesExceededError(`Can't retry ${task}[${id}] ${shown}`);
  }
}

function jsonList(args: readonly Value[]): readonly Json[] {
  return args.map((arg) => jsonValue(arg));
}

/** Throws TypeError for what a retry cannot be told. */
function checkRetry(options: RetryOptions): void {
  const { countdown, eta, expires, maxRetries, args, kwargs, queue, priority, timeLimit, softTimeLimit } = options;
  const refuse = (what: string, value: unknown): never => {
    throw new TypeError(`A retry's ${what}, got ${String(value)}.`);
  };
  if (countdown !== undefined && !isSeconds(countdown)) refuse('countdown is 0 s or more', countdown);
  if (eta !== undefined && !isDate(eta)) refuse('eta is a Date', eta);
  if (eta !== undefined && countdown !== undefined) refuse('eta excludes a countdown', countdown);
  if (expires != null && !isDate(expires) && !(isSeconds(expires) && expires > 0))
    refuse('expires is more than 0 s, a Date, or null', expires);
  if (maxRetries != null && !(Number.isInteger(maxRetries) && maxRetries >= 0))
    refuse('maxRetries is a whole number of 0 or more, or null', maxRetries);
  if (args !== undefined && !Array.isArray(args)) refuse('args are a list', args);
  if (kwargs !== undefined && (typeof kwargs !== 'object' || kwargs === null || Array.isArray(kwargs)))
    refuse('kwargs are an object', kwargs);
  if (queue !== undefined && (typeof queue !== 'string' || queue === '')) refuse('queue is a name', queue);
  if (priority !== undefined && !(Number.isInteger(priority) && priority >= 0 && priority <= 9))
    refuse('priority is a whole number from 0 to 9', priority);
  for (const limit of [timeLimit, softTimeLimit]) {
    if (limit != null && !(isSeconds(limit) && limit > 0)) refuse('time limits are more than 0 s, or null', limit);
  }
}

function isSeconds(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

function isDate(value: unknown): value is Date {
  return value instanceof Date && !Number.isNaN(value.getTime());
}

function expiryOf(expires: number | Date | null, nowMs: number): number | null {
  if (expires === null) return null;
  return typeof expires === 'number' ? Math.round(nowMs + expires * 1_000) : expires.getTime();
}

function dateOf(atMs: number | null): Date | null {
  return atMs === null ? null : new Date(atMs);
}
