import type { TaskMessage, Value } from '../protocol/message-reader.ts';
import type { TaskContext } from './task.ts';

/** What every signal says. */
export interface SignalEvent {
  /** The name of the task that it is about, or of the worker. */
  readonly sender: string;
}

/** About a task that runs in this process. */
export interface TaskRunEvent extends SignalEvent {
  readonly taskId: string;
  readonly args: readonly Value[];
  readonly kwargs: { readonly [key: string]: Value };
  readonly ctx: TaskContext;
}

/** About a message that this worker holds. */
export interface TaskMessageEvent extends SignalEvent {
  readonly taskId: string;
  readonly message: TaskMessage;
}

export interface WorkerEvent extends SignalEvent {
  /** Of the process that tells it. */
  readonly pid: number;
}

/** What takes the errors of receivers. */
export interface SignalLog {
  error(fields: object): void;
}

/** What is called when something happens; if it returns a promise, that is waited for where Celery would wait. */
export type Receiver<Event> = (event: Event) => unknown;

export interface ConnectOptions {
  /** Only about this task, or worker of this name. Default: all. */
  readonly sender?: string | { readonly name: string };
}

interface Connection<Event> {
  readonly receiver: Receiver<Event>;
  readonly sender: string | null;
}

/** Something that happens, and those who want to hear of it. What they throw is logged and changes nothing. */
export class Signal<Event extends SignalEvent> {
  /** As Celery names it. */
  readonly name: string;
  #connections: readonly Connection<Event>[] = [];

  constructor(name: string) {
    this.name = name;
  }

  /** How many receivers there are; what nobody hears need not be told. */
  get size(): number {
    return this.#connections.length;
  }

  /** From now on `receiver` is called, after those that were connected before. Answers what disconnects it again. */
  connect(receiver: Receiver<Event>, { sender }: ConnectOptions = {}): () => void {
    if (typeof receiver !== 'function') throw new TypeError(`Signal ${this.name} needs a function to call.`);
    const from = typeof sender === 'object' ? sender.name : (sender ?? null);
    const connection = { receiver, sender: from };
    this.#connections = [...this.#connections, connection];
    return () => {
      this.#connections = this.#connections.filter((other) => other !== connection);
    };
  }

  /** Takes `receiver` out again, however often it was connected. */
  disconnect(receiver: Receiver<Event>): void {
    this.#connections = this.#connections.filter((connection) => connection.receiver !== receiver);
  }

  /** Calls the receivers one after the other. Answers null when all are done, else what resolves when they are. */
  send(event: Event, log: SignalLog): Promise<void> | null {
    let pending: Promise<void> | null = null;
    for (const { receiver, sender } of this.#connections) {
      if (sender !== null && sender !== event.sender) continue;
      const call = () => this.#call(receiver, event, log);
      pending = pending === null ? call() : pending.then(call).then(() => {});
    }
    return pending;
  }

  #call(receiver: Receiver<Event>, event: Event, log: SignalLog): Promise<void> | null {
    const failed = (error: unknown) => log.error({ event: 'signal_failed', signal: this.name, err: error });
    try {
      const returned = receiver(event);
      if (typeof returned !== 'object' || returned === null || !('then' in returned)) return null;
      return Promise.resolve(returned).then(() => {}, failed);
    } catch (error) {
      failed(error);
      return null;
    }
  }
}

function makeSignals() {
  return {
    /** Before a task runs. It waits for the receivers. */
    taskPrerun: new Signal<TaskRunEvent>('task_prerun'),
    /** After a task ran, whichever way it ended: last of all. `state` also IGNORED or REJECTED. */
    taskPostrun: new Signal<TaskRunEvent & { readonly state: string; readonly retval: unknown }>('task_postrun'),
    taskSuccess: new Signal<TaskRunEvent & { readonly result: unknown }>('task_success'),
    /** Also when the hard time limit or the loss of its process ended it; then in the worker's process. */
    taskFailure: new Signal<TaskRunEvent & { readonly exception: unknown; readonly traceback: string | null }>(
      'task_failure',
    ),
    /** `reason` is the Retry. */
    taskRetry: new Signal<TaskRunEvent & { readonly reason: unknown }>('task_retry'),
    /** The worker has taken a message that is not revoked. */
    taskReceived: new Signal<TaskMessageEvent>('task_received'),
    /** Revoked, expired or terminated. */
    taskRevoked: new Signal<
      TaskMessageEvent & { readonly terminated: boolean; readonly signum: number | null; readonly expired: boolean }
    >('task_revoked'),
    /** A message that is none; the sender is the worker. `message` is what was taken. */
    taskRejected: new Signal<SignalEvent & { readonly message: string; readonly reason: string }>('task_rejected'),
    /** A message of a task that is not defined here; the sender is the worker. */
    taskUnknown: new Signal<TaskMessageEvent & { readonly name: string }>('task_unknown'),
    /** A worker begins to start, and waits for the receivers. */
    workerInit: new Signal<WorkerEvent>('worker_init'),
    /** A worker takes messages. */
    workerReady: new Signal<WorkerEvent>('worker_ready'),
    /** A worker is told to stop. */
    workerShuttingDown: new Signal<WorkerEvent & { readonly how: 'warm' | 'cold' }>('worker_shutting_down'),
    /** A worker has stopped, but for waiting for the receivers. */
    workerShutdown: new Signal<WorkerEvent>('worker_shutdown'),
    /** In each process or thread that runs tasks, before its first one, which waits for the receivers. */
    workerProcessInit: new Signal<WorkerEvent>('worker_process_init'),
    /** A worker told monitors that it lives. */
    heartbeatSent: new Signal<WorkerEvent>('heartbeat_sent'),
  } as const;
}

export type Signals = ReturnType<typeof makeSignals>;

/** Several copies of the package in one process share these. */
const SIGNALS = Symbol.for('ringbeat.signals');

const shared = globalThis as typeof globalThis & { [SIGNALS]?: Signals };
shared[SIGNALS] ??= makeSignals();

/** Celery's signals, by their names in camel case: `signals.taskPrerun.connect(...)` (celery/signals.py). */
export const signals: Signals = shared[SIGNALS];
