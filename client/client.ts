import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { isLosslessNumber } from 'lossless-json';
import type { z } from 'zod';
import { connect } from '../lua/connection.ts';
import type { SendOutcome } from '../lua/push-tasks.ts';
import { resultTuple } from '../protocol/canvas-freeze.ts';
import { RingbeatError } from '../protocol/errors.ts';
import type { Json } from '../protocol/json.ts';
import { typedValues, type Value } from '../protocol/message-reader.ts';
import { jsonValue } from '../protocol/result.ts';
import { BadSignature, readSignature, type Signature } from '../protocol/signature.ts';
import { Tasks } from '../registry/tasks.ts';
import { type ParentTask, Workflows } from '../registry/workflows.ts';
import { isObject } from '../schedule/fields.ts';
import { createTaskSchema, parseTask, type TaskSchema, type TaskSpec } from '../schedule/task-spec.ts';
import { current } from './current-task.ts';
import { forgetClient, setDefaultClient } from './default-client.ts';
import { handleOf } from './handles.ts';
import { jsonBytes } from './json-bytes.ts';
import { NamespaceView } from './namespace-view.ts';
import { ResultWatch } from './results.ts';
import { Schedules } from './schedules.ts';
import { SentEvents } from './sent-events.ts';
import { checkSignature } from './signature-options.ts';
import { SpecError } from './spec-error.ts';
import type { SignatureLike } from './task.ts';
import { TaskFailedError } from './task-failed-error.ts';

export interface ClientOptions {
  /** Where the namespace is: redis://, rediss:// or unix://. Default redis://127.0.0.1:6379/0. */
  readonly redis?: string;
  /** Default `rb`. A beat node must have created it. */
  readonly namespace?: string;
  /** Whether tasks are sent with this client by their `delay` and `applyAsync` from now on. Default true. */
  readonly default?: boolean;
  /** Whether monitors hear of every task that is sent, by Celery's event `task-sent`. Default false. */
  readonly taskSendSentEvent?: boolean;
}

/** How a task is sent; as the body of `POST /v1/tasks`, but that dates may be `Date`s. */
export interface TaskRequest {
  readonly args?: readonly unknown[];
  readonly kwargs?: Readonly<Record<string, unknown>>;
  /** Default `celery`. */
  readonly queue?: string;
  /** Not to be run before this time: a text needs `Z` or an offset. */
  readonly eta?: Date | string | null;
  /** Not to be run before this many s from now. */
  readonly countdown?: number | null;
  readonly options?: Omit<Partial<z.input<TaskSchema>['options'] & object>, 'expires' | 'headers'> & {
    /** s from now, or a time. */
    readonly expires?: number | Date | string | null;
    readonly headers?: Readonly<Record<string, unknown>>;
  };
}

/** What is known of a task. */
export interface TaskResult<Result = Value> {
  readonly taskId: string;
  /** Of Celery's states, and SCHEDULED while it waits for its eta; PENDING: nothing is known of it. */
  readonly state: string;
  /** What it returned, or the exception that it ended with. */
  readonly result: Result | null;
  readonly traceback: string | null;
  readonly doneAt: Date | null;
  /** When it is to run, while it waits. */
  readonly eta: Date | null;
}

/** A task that was sent, as Celery's AsyncResult. */
export interface TaskHandle<Result = Value> {
  readonly id: string;
  /** Of a workflow: what comes before it. Null where there is nothing, or nothing is known of it. */
  readonly parent: TaskHandle<unknown> | null;
  /** What is known of it now. */
  result(): Promise<TaskResult<Result>>;
  /**
   * What it returned, once it has ended. Throws TASK_FAILED when it failed or was revoked, TASK_NOT_ENDED when it has not
   * ended within `timeout` s.
   */
  get(timeout: number): Promise<Result>;
  /** Revokes it: unless it has begun, it does not run. */
  revoke(): Promise<void>;
}

/** States in which a task has ended, as Celery names them. */
const ENDED: ReadonlySet<string> = new Set(['SUCCESS', 'FAILURE', 'REVOKED']);

/**
 * Manages the schedules of a namespace and sends tasks, straight on Redis. Everything it does is a promise that rejects
 * with a RingbeatError, among them NAMESPACE_GONE, or with Redis's own error where Redis does not answer. It keeps a
 * connection, and so the process, until it is closed.
 */
export class Client {
  readonly schedules: Schedules;
  readonly #redis: Redis;
  readonly #namespace: NamespaceView;
  readonly #tasks: Tasks;
  readonly #workflows: Workflows;
  readonly #schema: TaskSchema;
  readonly #watch: ResultWatch;

  /** Takes a URL, or options. Throws BAD_URL. */
  constructor(given: string | ClientOptions = {}) {
    const options = typeof given === 'string' ? { redis: given } : given;
    const url = options.redis ?? 'redis://127.0.0.1:6379/0';
    const name = options.namespace ?? 'rb';
    this.#redis = connect(url, { option: 'redis', name: 'ringbeat-client' });
    this.#namespace = new NamespaceView(this.#redis, name);
    const events = options.taskSendSentEvent === true ? new SentEvents(this.#redis) : null;
    const place = {
      redis: this.#redis,
      names: this.#namespace.names,
      namespace: () => this.#namespace.current(),
      onSent: async (envelopes: readonly string[], nowMs: number) => events?.tell(envelopes, nowMs),
    };
    this.#tasks = new Tasks(place);
    this.#workflows = new Workflows(place);
    this.#schema = createTaskSchema(name);
    this.#watch = new ResultWatch(() => connect(url, { option: 'redis', name: 'ringbeat-client-results' }));
    this.schedules = new Schedules(this.#redis, this.#namespace);
    if (options.default !== false) setDefaultClient(this);
  }

  /**
   * Sends a task, now or later. Throws SpecError for what cannot be sent, QUEUE_FULL at the cap of its queue, and
   * BAD_QUEUE where the queue's key is no list.
   */
  async send<Result = Value>(task: string, request: TaskRequest = {}): Promise<TaskHandle<Result>> {
    const { parent, sender } = sendingTask();
    const spec = this.#check(task, request);
    const requestId = randomUUID();
    const [sent] = await this.#namespace.use(() => this.#tasks.send([{ task: spec, position: 0, parent }], requestId));
    const { taskId, outcome } = sent!;
    if (outcome !== 'taken') throw refusal(outcome, spec.queue, task);
    sender?.addChildren([resultTuple({ id: taskId, parent: null, members: null })]);
    return this.handle<Result>(taskId);
  }

  /**
   * Sends a signature with these args before its own: all of its messages, or, where it throws, none (of more than 1,000
   * perhaps some). The handle is its last task's, of a chord its body's, of a group a GroupHandle. Throws SpecError,
   * QUEUE_FULL and BAD_QUEUE.
   */
  async apply<Result = Value>(signature: SignatureLike, args: readonly unknown[] = []): Promise<TaskHandle<Result>> {
    const { parent, sender } = sendingTask();
    const given = jsonValue(args) as readonly Json[];
    const tree = () => checkedTree(signature, this.#schema);
    const { task } = tree();
    const { applied, outcome } = await this.#namespace.use(() => this.#workflows.apply(tree(), given, parent));
    if (outcome !== 'taken') throw refusal(outcome.outcome, outcome.queue, task);
    sender?.addChildren(applied.children);
    const result = applied.result ?? { id: '', parent: null, members: [] };
    return handleOf(this, result) as TaskHandle<Result>;
  }

  /** A handle on a task that was sent before, by whomever. */
  handle<Result = Value>(id: string): TaskHandle<Result> {
    return {
      id,
      parent: null,
      result: () => this.result<Result>(id),
      get: (timeout) => this.#get<Result>(id, timeout),
      revoke: () => this.revoke(id),
    };
  }

  /** What is known of a task. */
  async result<Result = Value>(id: string): Promise<TaskResult<Result>> {
    const { taskId, state, result, traceback, doneAtMs, etaMs } = await this.#namespace.use(() =>
      this.#tasks.state(id),
    );
    return {
      taskId,
      state,
      result: typedValues(plainNumbers(result)) as Result | null,
      traceback,
      doneAt: doneAtMs === null ? null : new Date(doneAtMs),
      eta: etaMs === null ? null : new Date(etaMs),
    };
  }

  /** What is known of a task once it has ended, whichever way. Throws TASK_NOT_ENDED after `timeout` s. */
  async waitFor<Result = Value>(id: string, timeout: number): Promise<TaskResult<Result>> {
    const ended = await this.#watch.wait(id, timeout * 1_000, async () => {
      const known = await this.result<Result>(id);
      return ENDED.has(known.state) ? known : null;
    });
    if (ended !== null) return ended;
    const { state } = await this.result(id);
    throw new RingbeatError('TASK_NOT_ENDED', { task: id, seconds: timeout, state });
  }

  /** Revokes tasks: those that have not begun do not run. */
  async revoke(...ids: readonly string[]): Promise<void> {
    if (ids.length > 0) await this.#namespace.use(() => this.#tasks.revoke(ids));
  }

  /** Waits for what is under way, then lets go of Redis; tasks are not sent with this client any more. */
  async close(): Promise<void> {
    forgetClient(this);
    this.#watch.close();
    await this.#redis.quit().catch(() => {
      // Redis is away: there is nothing left to wait for.
    });
    this.#redis.disconnect();
  }

  #check(task: string, { args, kwargs, queue, eta, countdown, options }: TaskRequest): TaskSpec {
    const json = jsonBytes({ task, args, kwargs, queue, eta, countdown, options });
    if ('error' in json) throw new SpecError(`task "${task}"`, [json.error]);
    const result = parseTask(this.#schema, json.bytes);
    if (!result.ok) throw new SpecError(`task "${task}"`, result.errors);
    return result.task;
  }

  async #get<Result>(id: string, timeout: number): Promise<Result> {
    const { state, result, traceback } = await this.waitFor<Result>(id, timeout);
    if (state === 'SUCCESS') return result as Result;
    throw new TaskFailedError(id, state, result as Json, traceback);
  }
}

/** The task that sends something at this moment. */
function sendingTask() {
  const sender = current.task;
  const parent: ParentTask | null = sender === null ? null : { id: sender.id, rootId: sender.rootId ?? sender.id };
  return { parent, sender };
}

function refusal(outcome: Exclude<SendOutcome, 'taken'>, queue: string, task: string): RingbeatError {
  return new RingbeatError(outcome === 'full' ? 'QUEUE_FULL' : 'BAD_QUEUE', { queue, task });
}

/** Throws SpecError. */
function checkedTree(signature: SignatureLike, schema: TaskSchema): Signature {
  try {
    const tree = readSignature(jsonValue(signature));
    checkSignature(tree, schema);
    return tree;
  } catch (error) {
    if (!(error instanceof BadSignature)) throw error;
    throw new SpecError('signature', [{ path: '', message: error.message }]);
  }
}

/** With every number a number: whole ones beyond 2^53 lose digits, as in a task's args. */
function plainNumbers(value: Json): unknown {
  if (isLosslessNumber(value)) return Number(value.toString());
  if (Array.isArray(value)) return value.map(plainNumbers);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, plainNumbers(member)]));
}
