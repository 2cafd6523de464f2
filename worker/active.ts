import { constants } from 'node:os';
import { signals } from '../client/signals.ts';
import type { RegisteredTask } from '../client/task.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { exceptionOf } from '../protocol/result.ts';
import { SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError } from '../protocol/task-errors.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Cancellation } from './cancellation.ts';
import type { TaskPort } from './context.ts';
import type { Delivery } from './delivery.ts';
import type { Events } from './events.ts';
import { tellGivenUp } from './given-up.ts';
import { Heap } from './heap.ts';
import { JobList } from './job-list.ts';
import type { WorkerMetrics } from './metrics.ts';
import type { Outcome } from './outcome.ts';
import type { Job, Pool } from './pools/pool.ts';

/** Limits of a task's run time, s; null: none. */
export interface TimeLimits {
  readonly soft: number | null;
  readonly hard: number | null;
}

export interface ActiveOptions {
  readonly pool: Pool;
  readonly clock: RedisClock;
  readonly metrics: WorkerMetrics;
  readonly events: Events;
  readonly log: Log;
  /** Where neither the message nor the task has limits of its own. */
  readonly limits: TimeLimits;
  readonly port: TaskPort;
  /** Told of every job that is entered. */
  onStart(job: Job): void;
  /** Told once of every job that ended, whichever way, and how long it ran, s. */
  onEnd(delivery: Delivery, outcome: Outcome, runtimeSec: number): void;
}

/** Ended jobs are cleared away when there are so many more of them than of running ones. */
const MANY = 1_000;

/** What the pool was given: enters tasks as their slots become free, and ends those that take too long or are terminated. */
export class Active {
  readonly #options: ActiveOptions;
  readonly #jobs = new JobList();
  readonly #totals = new Map<string, number>();
  /** Limits that were changed while the worker runs, by task. */
  readonly #changedLimits = new Map<string, TimeLimits>();
  readonly #deadlines = new Heap<Job>();
  /** How many of the jobs in `#deadlines` have ended, about. */
  #ended = 0;
  #timer: NodeJS.Timeout | null = null;
  #timerAtMs = Number.POSITIVE_INFINITY;

  constructor(options: ActiveOptions) {
    this.#options = options;
  }

  /** How many jobs the pool has, those that wait in it for their slots too. */
  get size(): number {
    return this.#jobs.size;
  }

  /** What runs now. */
  running(): Job[] {
    return this.#jobs.all().filter(({ isEntered }) => isEntered);
  }

  /** What waits in the pool for a slot. */
  waiting(): TaskMessage[] {
    return this.#jobs.all().flatMap(({ isEntered, delivery }) => (isEntered ? [] : [delivery.message]));
  }

  /** How many tasks of each name have started. */
  get totals(): ReadonlyMap<string, number> {
    return this.#totals;
  }

  limitsOf(task: string, own: RegisteredTask['options'] | undefined): TimeLimits {
    const { limits } = this.#options;
    const { soft, hard } = this.#changedLimits.get(task) ?? { soft: own?.softTimeLimit, hard: own?.timeLimit };
    return { soft: soft ?? limits.soft, hard: hard ?? limits.hard };
  }

  /** From now on these hold for a task's runs. */
  setLimits(task: string, limits: TimeLimits): void {
    this.#changedLimits.set(task, limits);
  }

  /** Gives the task to the pool. */
  start(delivery: Delivery): void {
    const { message, task } = delivery;
    const [hard, soft] = message.timeLimit;
    const limits = this.limitsOf(task.name, task.options);
    const job: Job = {
      delivery,
      startedAtMs: 0,
      startedAt: 0,
      pid: process.pid,
      // As in Celery, a message's limit of 0 is none of its own.
      softLimitSec: soft || limits.soft,
      hardLimitSec: hard || limits.hard,
      cancellation: new Cancellation(),
      place: -1,
      isEntered: false,
      terminateBy: null,
      isOver: false,
    };
    this.#jobs.add(job);
    this.#options.pool.run(
      job,
      (agoMs) => this.#entered(job, agoMs),
      (outcome, agoMs) => this.#hasEnded(job, outcome, agoMs),
    );
  }

  /** Takes back what waits in the pool and is not wanted any more; what could not be taken back has just been entered. */
  takeBack(isUnwanted: (delivery: Delivery) => boolean): Delivery[] {
    const waiting = this.#jobs.all().filter(({ isEntered, delivery }) => !isEntered && isUnwanted(delivery));
    const taken = waiting.filter((job) => this.#options.pool.takeBack(job));
    for (const job of taken) this.#jobs.remove(job);
    return taken.map(({ delivery }) => delivery);
  }

  /** Aborts the signal of a task whose message is no longer ours; it may go on. */
  interrupt(tag: string, reason: Error): void {
    for (const job of this.#jobs.all()) if (job.delivery.tag === tag) this.#options.pool.interrupt(job, reason);
  }

  /** Aborts the signals of all. */
  interruptAll(reason: Error): void {
    for (const job of this.#jobs.all()) this.#options.pool.interrupt(job, reason);
  }

  /** Ends these tasks, where they run, at once: each is recorded as revoked. Answers the ids of those that did. */
  terminate(ids: ReadonlySet<string>, signal: NodeJS.Signals): string[] {
    const terminated: string[] = [];
    for (const job of this.#jobs.all()) {
      const { id } = job.delivery.message;
      if (!ids.has(id)) continue;
      terminated.push(id);
      if (job.isEntered) this.#terminate(job, signal);
      else job.terminateBy = signal;
    }
    return terminated;
  }

  /** Stops its timer; what runs goes on unheard. */
  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const { events } = this.#options;
    for (const job of this.#jobs.all()) {
      job.isOver = true;
      job.cancellation.isOver = true;
      const { message, task, isLate } = job.delivery;
      // It goes back to its queue; what was acknowledged early is lost.
      if (isLate && job.isEntered && events.isOn && task.options.sendEvents !== false) events.cancelled(message.id);
    }
    this.#jobs.clear();
  }

  #entered(job: Job, agoMs: number): void {
    const { clock, metrics, events } = this.#options;
    const { message, task } = job.delivery;
    const nowMs = clock.nowMs() - agoMs;
    job.isEntered = true;
    job.startedAtMs = monotonicMs() - agoMs;
    job.startedAt = nowMs / 1_000;
    if (message.schedule !== null) metrics.startLateness.observe(Math.max(0, nowMs - message.schedule.due) / 1_000);
    this.#totals.set(task.name, (this.#totals.get(task.name) ?? 0) + 1);
    if (events.isOn && task.options.sendEvents !== false) events.started(message.id);
    this.#watch(job);
    this.#options.onStart(job);
    if (job.terminateBy !== null) this.#terminate(job, job.terminateBy);
  }

  #terminate(job: Job, signal: NodeJS.Signals): void {
    this.#giveUp(job, { state: 'revoked', reason: 'terminated', signum: constants.signals[signal] }, signal);
  }

  #hasEnded(job: Job, outcome: Outcome, agoMs: number): void {
    if (job.isOver) {
      this.#late(job, outcome);
      return;
    }
    this.#finish(job, outcome, agoMs);
    if (outcome.state !== 'failure' || signals.taskFailure.size === 0) return;
    const { type, args } = outcome.exception;
    // Where its process has died, nobody else can tell.
    if (type === 'WorkerLostError')
      void tellGivenUp(job, new WorkerLostError(String(args[0])), this.#options.port, false);
  }

  /** Settles a task that still runs, then ends it as well as its pool can. */
  #giveUp(job: Job, outcome: Outcome, signal: NodeJS.Signals): void {
    this.#finish(job, outcome, 0);
    this.#options.pool.kill(job, signal);
  }

  #finish(job: Job, outcome: Outcome, agoMs: number): void {
    job.isOver = true;
    job.cancellation.isOver = true;
    this.#jobs.remove(job);
    this.#unwatch(job);
    const runtimeSec = (monotonicMs() - agoMs - job.startedAtMs) / 1_000;
    this.#options.metrics.runtime.observe(runtimeSec);
    this.#options.onEnd(job.delivery, outcome, runtimeSec);
  }

  /** The task was given up before; what it did later changes nothing. */
  #late(job: Job, outcome: Outcome): void {
    const { task, id } = job.delivery.message;
    this.#options.metrics.counts.abandoned += 1;
    this.#options.log.warn({
      event: 'outcome_dropped',
      task,
      id,
      state: outcome.state,
      reason: 'it had been given up',
    });
  }

  // Time limits

  #watch(job: Job): void {
    const { softLimitSec, hardLimitSec, startedAtMs } = job;
    if (softLimitSec === null && hardLimitSec === null) return;
    const sooner = Math.min(softLimitSec ?? Number.POSITIVE_INFINITY, hardLimitSec ?? Number.POSITIVE_INFINITY);
    this.#deadlines.push(startedAtMs + sooner * 1_000, job);
    this.#arm();
  }

  /** Jobs that have ended go from `#deadlines` many at a time, long before their limits pass. */
  #unwatch({ softLimitSec, hardLimitSec }: Job): void {
    if (softLimitSec === null && hardLimitSec === null) return;
    this.#ended += 1;
    if (this.#ended <= this.#jobs.size + MANY) return;
    this.#ended = 0;
    this.#deadlines.takeWhere(({ isOver }) => isOver);
  }

  /** One timer, for whichever limit comes first. */
  #arm(): void {
    const atMs = this.#deadlines.nextAtMs;
    if (atMs >= this.#timerAtMs || atMs === Number.POSITIVE_INFINITY) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timerAtMs = atMs;
    // No timer overflows: far limits are looked at again in between.
    this.#timer = setTimeout(() => this.#limitsPassed(), Math.min(Math.max(0, atMs - monotonicMs()) + 1, 3_600_000));
  }

  #limitsPassed(): void {
    this.#timer = null;
    this.#timerAtMs = Number.POSITIVE_INFINITY;
    const nowMs = monotonicMs();
    for (let job = this.#deadlines.pop(nowMs); job !== null; job = this.#deadlines.pop(nowMs)) {
      if (!job.isOver) this.#limitPassed(job, nowMs);
    }
    this.#arm();
  }

  #limitPassed(job: Job, nowMs: number): void {
    const { softLimitSec, hardLimitSec, startedAtMs, delivery } = job;
    const { task, id } = delivery.message;
    const ranSec = (nowMs - startedAtMs) / 1_000;
    if (hardLimitSec !== null && ranSec >= hardLimitSec) {
      this.#options.log.error({ event: 'hard_time_limit', task, id, seconds: hardLimitSec });
      const error = new TimeLimitExceeded(hardLimitSec);
      job.cancellation.abort(error);
      this.#giveUp(job, { state: 'failure', exception: exceptionOf(error), traceback: null }, 'SIGKILL');
      void tellGivenUp(job, error, this.#options.port, true);
      return;
    }
    this.#options.log.warn({ event: 'soft_time_limit', task, id, seconds: softLimitSec });
    this.#options.pool.interrupt(job, new SoftTimeLimitExceeded());
    if (hardLimitSec !== null) this.#deadlines.push(startedAtMs + hardLimitSec * 1_000, job);
  }
}
