import { messageOf, RingbeatError } from '../../protocol/errors.ts';
import { type Json, parseJson } from '../../protocol/json.ts';
import { JsonText } from '../../protocol/result.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { Log } from '../../runtime/log.ts';
import type { TaskPort } from '../context.ts';
import { lostOutcome, type Outcome } from '../outcome.ts';
import { Ahead } from './ahead.ts';
import {
  type CallMessage,
  type ChildSetup,
  type EndMessage,
  errorData,
  errorFrom,
  type FromChild,
  type SentOutcome,
  type ToChild,
} from './channel.ts';
import type { Job, OnEnd, OnEnter, Pool, PoolKind } from './pool.ts';

/** A thread or process that runs one job at a time. */
export interface Child {
  /** The process that its jobs run in. */
  readonly pid: number;
  /** What the log calls it. */
  readonly name: { readonly pid: number } | { readonly thread: number };
  send(message: ToChild): void;
  /**
   * Takes back the jobs it was sent that it has not entered; answers how many, the last ones. null: it cannot be sent a job
   * before it has ended the one before.
   */
  readonly takeBack: (() => number) | null;
  /** Ends it by this signal, and in any case soon. */
  kill(signal: NodeJS.Signals): void;
}

export interface ChildListener {
  heard(message: FromChild): void;
  /** It has ended; `how` as Celery says it: `exitcode 1`, `signal 9 (SIGKILL)`. Told once, after everything it said. */
  ended(how: string): void;
}

export interface ChildrenPoolOptions {
  readonly size: number;
  readonly setup: ChildSetup;
  /** Jobs after which a child is replaced; null: never. */
  readonly maxTasks: number | null;
  readonly port: TaskPort;
  readonly log: Log;
  /** Told when more jobs can be given to it than before. */
  onUsable(): void;
}

/** A child that died on its own accord is replaced after the first of these, ms, doubling up to the second. */
const RESPAWN_MIN_MS = 100;
const RESPAWN_MAX_MS = 10_000;

/** Jobs are taken ahead for so long, ms, and at most so many for each child. */
const AHEAD_MS = 50;
const MOST_AHEAD = 48;

/** How long children that were told to stop may take, ms. */
const STOP_MS = 5_000;

interface Assignment {
  readonly number: number;
  readonly job: Job;
  readonly onEnter: OnEnter;
  readonly onEnd: OnEnd;
  enteredAtMs: number;
  /** Why its signal is to be aborted as soon as it runs. */
  interruption: Error | null;
  /** Its outcome is settled already. */
  isKilled: boolean;
}

interface Slot {
  /** null until it has been spawned. */
  child: Child | null;
  /** It has loaded the tasks. */
  isReady: boolean;
  assignment: Assignment | null;
  /** What it was sent behind that one, and enters by itself. */
  queue: Assignment[];
  /** Jobs that it has ended. */
  jobs: number;
  /** To be replaced once its job has ended. */
  isOutdated: boolean;
  /** Told to end. */
  isLeaving: boolean;
  /** Resolves when it is ready or has ended before that. */
  readonly started: Promise<Error | null>;
  readonly ended: Promise<void>;
}

/**
 * Runs tasks in children, one job in each at a time. A child that dies is replaced, whatever it died of, and costs only the job
 * that it ran:
 *
 *     spawned --ready--> idle --run--> busy --end--> idle, or leaving when it is spent or one too many
 *
 * Jobs beyond the free children wait here, or in the queues of busy children that can be sent jobs before they have ended the
 * one before: these go from one job to the next without a word from here, and what they have not entered can be taken back.
 */
export abstract class ChildrenPool implements Pool {
  abstract readonly kind: PoolKind;
  protected abstract spawn(listener: ChildListener): Child | Promise<Child>;
  readonly #options: ChildrenPoolOptions;
  readonly #slots = new Set<Slot>();
  readonly #idle: Slot[] = [];
  readonly #waiting: Assignment[] = [];
  #size: number;
  #jobs = 0;
  readonly #ahead = new Ahead(AHEAD_MS, MOST_AHEAD);
  /** Children that died in a row before any of them ended a job. */
  #deaths = 0;
  #respawnTimer: NodeJS.Timeout | null = null;
  #isStarted = false;
  #isStopping = false;

  constructor(options: ChildrenPoolOptions) {
    this.#options = options;
    this.#size = options.size;
  }

  get size(): number {
    return this.#size;
  }

  get usable(): number {
    let usable = 0;
    for (const { isReady, isLeaving, assignment } of this.#slots) {
      if (isReady && !isLeaving && assignment?.isKilled !== true) usable += 1;
    }
    return Math.min(usable, this.#size);
  }

  get ahead(): number {
    return this.#ahead.of(this.usable);
  }

  get queue(): number {
    return this.ahead;
  }

  /** Throws what keeps a child from starting. */
  async start(): Promise<void> {
    this.#fill();
    const problems = await Promise.all([...this.#slots].map(({ started }) => started));
    const problem = problems.find((problem) => problem !== null);
    if (problem === undefined) {
      this.#isStarted = true;
      return;
    }
    await this.stop(true);
    throw problem;
  }

  run(job: Job, onEnter: OnEnter, onEnd: OnEnd): void {
    this.#waiting.push({
      number: this.#jobs,
      job,
      onEnter,
      onEnd,
      enteredAtMs: 0,
      interruption: null,
      isKilled: false,
    });
    this.#jobs += 1;
    this.#distribute();
  }

  takeBack(job: Job): boolean {
    const queue = this.#queueOf(job);
    if (queue !== null) this.#unqueue(queue);
    const index = this.#waiting.findIndex((assignment) => assignment.job === job);
    if (index >= 0) this.#waiting.splice(index, 1);
    this.#distribute();
    return index >= 0;
  }

  interrupt(job: Job, reason: Error): void {
    const slot = this.#slotOf(job);
    if (slot !== null) {
      this.#interrupt(slot, reason);
      return;
    }
    const waiting = [...this.#waiting, ...(this.#queueOf(job)?.queue ?? [])];
    const assignment = waiting.find((assignment) => assignment.job === job);
    if (assignment !== undefined) assignment.interruption = reason;
  }

  kill(job: Job, signal: NodeJS.Signals): void {
    const slot = this.#slotOf(job);
    if (slot === null || slot.assignment === null) return;
    const sent = slot.queue.length;
    const unqueued = this.#unqueue(slot);
    // A child that has entered the next job has ended this one: only the end has not yet been heard.
    if (unqueued === sent) {
      slot.assignment.isKilled = true;
      slot.child?.kill(signal);
    }
    this.#distribute();
  }

  /** Children that are busy or starting leave when they are done with that. */
  resize(size: number): void {
    this.#size = size;
    // Whoever ends a job first leaves.
    if (this.#isSurplus) for (const slot of this.#slots) this.#unqueue(slot);
    while (this.#isSurplus) {
      const slot = this.#idle.pop();
      if (slot === undefined) break;
      this.#dismiss(slot);
    }
    this.#fill();
    this.#distribute();
  }

  /** Replaces every child, those that are busy once their jobs have ended. */
  restart(): void {
    for (const slot of this.#slots) {
      slot.isOutdated = true;
      this.#unqueue(slot);
    }
    for (const slot of this.#idle.splice(0)) this.#dismiss(slot);
    this.#fill();
  }

  abstract info(): { readonly [key: string]: Json };

  async stop(isCold: boolean): Promise<void> {
    this.#isStopping = true;
    if (this.#respawnTimer !== null) clearTimeout(this.#respawnTimer);
    const slots = [...this.#slots];
    for (const slot of slots) {
      if (isCold) this.#kill(slot);
      else this.#dismiss(slot);
    }
    const late = setTimeout(() => {
      for (const slot of slots) this.#kill(slot);
    }, STOP_MS);
    await Promise.all(slots.map(({ ended }) => ended));
    clearTimeout(late);
  }

  /** Children that jobs can be given to, now or when their present one has ended. */
  protected get children(): Child[] {
    return [...this.#slots].flatMap(({ child, isLeaving }) => (child === null || isLeaving ? [] : [child]));
  }

  /** How many children there are, those that leave aside. */
  get #staying(): number {
    let staying = 0;
    for (const slot of this.#slots) if (!slot.isLeaving) staying += 1;
    return staying;
  }

  get #isSurplus(): boolean {
    return this.#staying > this.#size;
  }

  #slotOf(job: Job): Slot | null {
    for (const slot of this.#slots) if (slot.assignment?.job === job) return slot;
    return null;
  }

  /** The slot in whose queue a job is. */
  #queueOf(job: Job): Slot | null {
    for (const slot of this.#slots) if (slot.queue.some((assignment) => assignment.job === job)) return slot;
    return null;
  }

  // Children

  #fill(): void {
    if (this.#isStopping || this.#respawnTimer !== null) return;
    for (let missing = this.#size - this.#staying; missing > 0; missing--) this.#add();
  }

  #add(): void {
    let started: (problem: Error | null) => void = () => {};
    let ended = () => {};
    const slot: Slot = {
      child: null,
      isReady: false,
      assignment: null,
      queue: [],
      jobs: 0,
      isOutdated: false,
      isLeaving: false,
      started: new Promise((resolve) => {
        started = resolve;
      }),
      ended: new Promise((resolve) => {
        ended = resolve;
      }),
    };
    this.#slots.add(slot);
    const end = (how: string) => {
      if (!this.#slots.delete(slot)) return;
      started(new RingbeatError('CHILD_LOST', { reason: how }));
      ended();
      this.#childEnded(slot, how);
    };
    const heard = (message: FromChild) => {
      if (message.kind === 'failed') started(errorFrom(message.error));
      this.#heard(slot, message);
      if (message.kind === 'ready') started(null);
    };
    void this.#spawn(slot, { heard, ended: end });
  }

  async #spawn(slot: Slot, listener: ChildListener): Promise<void> {
    try {
      const child = await this.spawn(listener);
      slot.child = child;
      // Stopped meanwhile.
      if (slot.isLeaving) child.kill('SIGKILL');
      else child.send({ kind: 'setup', setup: this.#options.setup });
    } catch (error) {
      listener.ended(messageOf(error));
    }
  }

  #heard(slot: Slot, message: FromChild): void {
    switch (message.kind) {
      case 'ready':
        slot.isReady = true;
        this.#free(slot);
        if (this.#isStarted) this.#options.onUsable();
        return;
      case 'failed':
        this.#options.log.error({ event: 'child_failed', ...slot.child?.name, reason: message.error.message });
        slot.child?.kill('SIGKILL');
        return;
      case 'end':
        this.#ended(slot, message);
        return;
      case 'log':
        this.#log(message.line);
        return;
      case 'event':
        if (slot.assignment?.number !== message.job) return;
        this.#options.port.sendEvent(slot.assignment.job.delivery.message.id, message.type, message.fields);
        return;
      default:
        void this.#call(slot, message);
    }
  }

  #childEnded(slot: Slot, how: string): void {
    const { assignment, child, isLeaving } = slot;
    const idle = this.#idle.indexOf(slot);
    if (idle >= 0) this.#idle.splice(idle, 1);
    // What is left in its queue was entered.
    this.#unqueue(slot);
    const lost = [assignment, ...slot.queue].filter((one) => one !== null && !one.isKilled) as Assignment[];
    slot.assignment = null;
    slot.queue = [];
    const { log } = this.#options;
    if (lost.length === 0 && !isLeaving && assignment === null) {
      log.error({ event: 'child_lost', ...child?.name, how });
      this.#respawnLater();
    } else {
      this.#fill();
    }
    for (const { number, job, onEnter, onEnd } of lost) {
      const { id, task } = job.delivery.message;
      log.error({ event: 'child_lost', ...child?.name, how, task, id });
      if (!job.isEntered) onEnter(0);
      // billiard/pool.py, mark_as_worker_lost
      onEnd(lostOutcome(job.delivery, `Worker exited prematurely: ${how} Job: ${number}.`), 0);
    }
    this.#distribute();
  }

  /** A child that dies without a job would most likely do so again. */
  #respawnLater(): void {
    if (this.#isStopping) return;
    const ms = Math.min(RESPAWN_MIN_MS * 2 ** this.#deaths, RESPAWN_MAX_MS);
    this.#deaths += 1;
    this.#respawnTimer ??= setTimeout(() => {
      this.#respawnTimer = null;
      this.#fill();
    }, ms);
  }

  /** Lets it end by itself; it gets no more jobs. */
  #dismiss(slot: Slot): void {
    slot.isLeaving = true;
    slot.child?.send({ kind: 'stop' });
  }

  #kill(slot: Slot): void {
    slot.isLeaving = true;
    slot.child?.kill('SIGKILL');
  }

  // Jobs

  /** Gives what waits to children that are free, or will be. */
  #distribute(): void {
    while (this.#waiting.length > 0) {
      const idle = this.#idle.pop();
      const slot = idle ?? this.#shortestQueue();
      const assignment = slot === null ? undefined : this.#waiting.shift();
      if (slot === null || assignment === undefined) return;
      this.#send(slot, assignment);
      if (slot === idle) this.#enter(slot, assignment, 0);
      else slot.queue.push(assignment);
    }
  }

  #send({ child }: Slot, { number, job }: Assignment): void {
    if (child === null) throw new Error('only children that are ready are given jobs');
    job.pid = child.pid;
    child.send({ kind: 'run', job: number, envelope: job.delivery.envelope, nowMs: this.#options.port.nowMs() });
  }

  #enter(slot: Slot, assignment: Assignment, agoMs: number): void {
    slot.assignment = assignment;
    assignment.enteredAtMs = monotonicMs() - agoMs;
    assignment.onEnter(agoMs);
    if (assignment.interruption !== null) this.#interrupt(slot, assignment.interruption);
  }

  /** Of the children that can be sent jobs ahead, the one that has the fewest. */
  #shortestQueue(): Slot | null {
    if (this.#isSurplus) return null;
    let shortest: Slot | null = null;
    for (const slot of this.#slots) {
      const { child, assignment, isReady, isOutdated, isLeaving, queue } = slot;
      if (!isReady || isOutdated || isLeaving || assignment === null || assignment.isKilled) continue;
      if (child === null || child.takeBack === null) continue;
      if (queue.length < (shortest?.queue.length ?? MOST_AHEAD)) shortest = slot;
    }
    return shortest;
  }

  /** Takes back what a child has not entered; answers how many of its queue that were. */
  #unqueue(slot: Slot): number {
    if (slot.queue.length === 0) return 0;
    const taken = slot.child?.takeBack?.() ?? 0;
    // The one that it is to run now was among them: it has not yet come to it.
    if (taken > slot.queue.length && slot.assignment !== null) this.#send(slot, slot.assignment);
    const kept = Math.max(0, slot.queue.length - taken);
    const unqueued = slot.queue.splice(kept);
    this.#waiting.unshift(...unqueued);
    return unqueued.length;
  }

  #interrupt({ child, assignment }: Slot, reason: Error): void {
    if (assignment !== null) child?.send({ kind: 'interrupt', job: assignment.number, reason: errorData(reason) });
  }

  #ended(slot: Slot, { job, outcome, agoMs, overweightKib }: EndMessage): void {
    const { assignment } = slot;
    if (assignment === null || assignment.number !== job) return;
    slot.assignment = null;
    slot.jobs += 1;
    this.#deaths = 0;
    this.#ahead.took(monotonicMs() - agoMs - assignment.enteredAtMs);
    if (overweightKib !== null) {
      const { log, setup } = this.#options;
      // As billiard warns (pool.py, MAXMEM_USED_FMT).
      log.warn({ event: 'child_too_large', ...slot.child?.name, kib: overweightKib, mostKib: setup.maxMemoryKib });
    }
    if (overweightKib !== null || slot.jobs === this.#options.maxTasks) slot.isOutdated = true;
    if (assignment.isKilled) {
      // Its signal is on the way: whatever it was given now would die with it.
      slot.isLeaving = true;
      this.#fill();
      return;
    }
    const next = slot.queue.shift();
    if (next === undefined) this.#free(slot);
    else this.#enter(slot, next, agoMs);
    assignment.onEnd(received(outcome), agoMs);
  }

  /** What a child does that has nothing to do: what waits here or in the queue of another, or it leaves. */
  #free(slot: Slot): void {
    if (slot.isLeaving) return;
    if (slot.isOutdated || this.#isSurplus) {
      this.#dismiss(slot);
      this.#fill();
      return;
    }
    this.#idle.push(slot);
    if (this.#waiting.length === 0) {
      const longest = [...this.#slots].sort((one, other) => other.queue.length - one.queue.length)[0];
      if (longest !== undefined) this.#unqueue(longest);
    }
    this.#distribute();
  }

  /** Does for a task what it asks for, and tells it what became of it. */
  async #call(slot: Slot, message: CallMessage): Promise<void> {
    const { job, call } = message;
    const { assignment } = slot;
    if (assignment === null || assignment.number !== job) return;
    const { port } = this.#options;
    const task = assignment.job.delivery.message;
    let error: unknown = null;
    try {
      if (message.kind === 'store-state') {
        const [meta, children] = [parseJson(message.meta), parseJson(message.children) as readonly Json[]];
        await port.storeState(task, message.state, meta, children);
      } else await port.extendLease(task.id);
    } catch (thrown) {
      error = thrown;
    }
    slot.child?.send({ kind: 'answer', call, error: error === null ? null : errorData(error) });
  }

  #log(line: string): void {
    const { level, time: _time, msg, ...fields } = JSON.parse(line);
    const { log } = this.#options;
    log[log.levels.labels[level] as 'info'](fields, msg);
  }
}

function received(outcome: SentOutcome): Outcome {
  const { json, rest } = outcome;
  const told = parseJson(rest) as unknown as Outcome;
  return json === null ? told : ({ ...told, value: new JsonText(json) } as Outcome);
}
