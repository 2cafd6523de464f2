import { signals } from '../../client/signals.ts';
import { TaskRevokedError } from '../../protocol/task-errors.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { TaskPort } from '../context.ts';
import { runTask } from '../run-task.ts';
import { Ahead } from './ahead.ts';
import type { Job, OnEnd, OnEnter, Pool } from './pool.ts';

/** Jobs are taken ahead for so long, ms, and at most so many for each slot. */
const AHEAD_MS = 10;
const MOST_AHEAD = 16;

/** Most jobs that are started, with those ahead of their slots. */
const MOST_STARTED = 500;

/** Runs tasks in this process: many at once where they await something (`async`), or one at a time (`solo`). */
export class AsyncPool implements Pool {
  readonly kind: 'async' | 'solo';
  readonly queue = 0;
  readonly restart = null;
  #size: number;
  readonly #ahead = new Ahead(AHEAD_MS, MOST_AHEAD);
  readonly #port: TaskPort;

  constructor(kind: 'async' | 'solo', size: number, port: TaskPort) {
    this.kind = kind;
    this.#size = size;
    this.#port = port;
  }

  get size(): number {
    return this.#size;
  }

  get usable(): number {
    return this.#size;
  }

  get ahead(): number {
    return Math.max(0, Math.min(this.#ahead.of(this.#size), MOST_STARTED - this.#size));
  }

  async start(): Promise<void> {
    const { hostname, log } = this.#port;
    await signals.workerProcessInit.send({ sender: hostname, pid: process.pid }, log);
  }

  run(job: Job, onEnter: OnEnter, onEnd: OnEnd): void {
    const { message, task } = job.delivery;
    onEnter(0);
    runTask({ message, task, cancellation: job.cancellation, port: this.#port }, (outcome) => {
      this.#ahead.took(monotonicMs() - job.startedAtMs);
      onEnd(outcome, 0);
    });
  }

  takeBack(): boolean {
    return false;
  }

  interrupt(job: Job, reason: Error): void {
    job.cancellation.abort(reason);
  }

  kill(job: Job): void {
    job.cancellation.abort(new TaskRevokedError('terminated'));
  }

  resize(size: number): void {
    if (this.kind === 'async') this.#size = size;
  }

  info() {
    return {
      implementation: `ringbeat:${this.kind}`,
      'max-concurrency': this.#size,
      processes: [process.pid],
      'max-tasks-per-child': 'N/A',
      'put-guarded-by-semaphore': false,
      timeouts: [],
    };
  }

  async stop(): Promise<void> {}
}
