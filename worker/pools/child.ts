import { pino } from 'pino';
import { Client } from '../../client/client.ts';
import { offerClient } from '../../client/default-client.ts';
import { signals } from '../../client/signals.ts';
import { tasks } from '../../client/task.ts';
import { messageOf, RingbeatError } from '../../protocol/errors.ts';
import { type Json, toJson } from '../../protocol/json.ts';
import { readMessage, type TaskMessage } from '../../protocol/message-reader.ts';
import { valueJson } from '../../protocol/result.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { Log } from '../../runtime/log.ts';
import { defineBuiltinTasks } from '../builtin-tasks.ts';
import { Cancellation } from '../cancellation.ts';
import type { TaskPort } from '../context.ts';
import { failureOf, type Outcome } from '../outcome.ts';
import { runTask } from '../run-task.ts';
import { loadTasks } from '../tasks-modules.ts';
import {
  type ChildSetup,
  type EndMessage,
  type ErrorData,
  errorData,
  errorFrom,
  type FromChild,
  type RunMessage,
  type SentOutcome,
  type ToChild,
} from './channel.ts';

interface Call {
  done(): void;
  failed(error: Error): void;
}

/** What runs the jobs in a thread or process of a pool. */
export class JobRunner implements TaskPort {
  readonly #send: (message: FromChild) => void;
  #setup: ChildSetup | null = null;
  #log: Log = pino({ level: 'silent' });
  #closeClient = async (): Promise<void> => {};
  /** Redis's time less the monotonic one, ms. */
  #offsetMs = 0;
  /** The one that runs. */
  #job: { readonly number: number; readonly id: string; readonly isTyped: boolean } | null = null;
  #cancellation = new Cancellation();
  /** Of a job whose interruption came before the job did. */
  #interruption: { readonly job: number; readonly reason: Error } | null = null;
  #end: (end: EndMessage) => void = () => {};
  readonly #calls = new Map<number, Call>();
  #lastCall = 0;

  /** `send` takes what the worker is to hear. */
  constructor(send: (message: FromChild) => void) {
    this.#send = send;
  }

  /** Loads the tasks. Throws what keeps them from being loaded. */
  async #start(setup: ChildSetup): Promise<void> {
    this.#setup = setup;
    const write = (line: string) => this.#send({ kind: 'log', line });
    this.#log = pino({ level: setup.logLevel, base: null }, { write });
    process.on('unhandledRejection', (reason) => this.#log.error({ event: 'unhandled_rejection', err: reason }));
    await loadTasks(setup.tasks);
    defineBuiltinTasks();
    await signals.workerProcessInit.send({ sender: setup.hostname, pid: process.pid }, this.#log);
    const { redis, namespace, taskSendSentEvent } = setup;
    this.#closeClient = offerClient(() => new Client({ redis, namespace, taskSendSentEvent, default: false }));
  }

  /** Runs one job. Only after the one before has ended. */
  run({ job, envelope, nowMs }: RunMessage, onEnd: (end: EndMessage) => void): void {
    this.#offsetMs = nowMs - monotonicMs();
    const cancellation = new Cancellation();
    this.#cancellation = cancellation;
    if (this.#interruption?.job === job) cancellation.abort(this.#interruption.reason);
    this.#interruption = null;
    const message = readMessage(envelope);
    this.#job = { number: job, id: message.id, isTyped: message.isTyped };
    this.#end = onEnd;
    const task = tasks.get(message.task);
    if (task === undefined) {
      const files = this.#setup?.tasks.join(', ') ?? '';
      const reason = `it does not define task ${message.task}, which the worker knows`;
      this.#ended(job, failureOf(new RingbeatError('TASKS_MODULE', { file: files, reason })));
      return;
    }
    runTask({ message, task, cancellation, port: this }, (outcome) => this.#ended(job, outcome));
  }

  /** Does what the worker says besides jobs. */
  hear(message: Exclude<ToChild, RunMessage>): void {
    switch (message.kind) {
      case 'setup':
        this.#start(message.setup).then(
          () => this.#send({ kind: 'ready' }),
          (error: unknown) => this.#send({ kind: 'failed', error: errorData(error) }),
        );
        return;
      case 'stop':
        this.#stop();
        return;
      case 'interrupt':
        this.#interrupt(message.job, errorFrom(message.reason));
        return;
      case 'answer':
        this.#answered(message.call, message.error);
    }
  }

  #interrupt(job: number, reason: Error): void {
    if (job === this.#job?.number) this.#cancellation.abort(reason);
    else this.#interruption = { job, reason };
  }

  #answered(number: number, error: ErrorData | null): void {
    const call = this.#calls.get(number);
    this.#calls.delete(number);
    if (error === null) call?.done();
    else call?.failed(errorFrom(error));
  }

  /** Ends what the child holds open, and the child. */
  #stop(): void {
    this.#closeClient().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`${messageOf(error)}\n`);
        process.exit(1);
      },
    );
  }

  #ended(job: number, outcome: Outcome): void {
    const isTyped = this.#job?.isTyped ?? false;
    this.#job = null;
    this.#end({ kind: 'end', job, outcome: encoded(outcome, isTyped), agoMs: 0, overweightKib: this.#overweight() });
  }

  /** Resident KiB at its highest, as billiard measures it, if that is more than allowed. */
  #overweight(): number | null {
    const mostKib = this.#setup?.maxMemoryKib ?? null;
    if (mostKib === null) return null;
    const { maxRSS } = process.resourceUsage();
    return maxRSS > mostKib ? maxRSS : null;
  }

  // TaskPort

  get hostname(): string {
    return this.#setup?.hostname ?? '';
  }

  get log(): Log {
    return this.#log;
  }

  nowMs(): number {
    return Math.floor(monotonicMs() + this.#offsetMs);
  }

  storeState({ id }: TaskMessage, state: string, meta: Json, children: readonly Json[]): Promise<void> {
    const texts = { meta: toJson(meta), children: toJson(children) };
    return this.#call((call) => ({ kind: 'store-state', job: this.#numberOf(id), call, state, ...texts }));
  }

  extendLease(id: string): Promise<void> {
    return this.#call((call) => ({ kind: 'extend-lease', job: this.#numberOf(id), call }));
  }

  sendEvent(id: string, type: string, fields: { readonly [key: string]: Json }): void {
    this.#send({ kind: 'event', job: this.#numberOf(id), type, fields });
  }

  /** Throws for a task whose end has been told: it has nothing more to say. */
  #numberOf(id: string): number {
    if (this.#job?.id !== id) throw new Error(`Task ${id} has ended.`);
    return this.#job.number;
  }

  #call(message: (call: number) => FromChild): Promise<void> {
    this.#lastCall += 1;
    const call = this.#lastCall;
    return new Promise((done, failed) => {
      this.#send(message(call));
      this.#calls.set(call, { done, failed });
    });
  }
}

function encoded(outcome: Outcome, isTyped: boolean): SentOutcome {
  if (outcome.state !== 'success') return { json: null, rest: text(outcome) };
  const { value, ...rest } = outcome;
  try {
    const isPlain = rest.wish === null && rest.sends === undefined && rest.children === undefined;
    return { json: valueJson(value, isTyped), rest: isPlain ? SUCCESS : text(rest) };
  } catch (error) {
    const sent = rest.children === undefined ? {} : { children: rest.children };
    return { json: null, rest: text({ ...failureOf(error), ...sent }) };
  }
}

/** Nothing to tell but the value: what most tasks end with. */
const SUCCESS = '{"state":"success","wish":null}';

function text(outcome: Partial<Outcome>): string {
  return toJson(outcome as Json);
}
