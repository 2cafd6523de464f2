import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Job, Pool } from './pools/pool.ts';

/** What is told of a worker that is asked what it is doing. */
export interface Slots {
  readonly pool: Pool;
  readonly jobs: Iterable<Job>;
  /** Messages that wait here for a slot. */
  readonly waiting: number;
}

/** Writes a line for the worker and one for each task that it runs, those that run longest first, whatever the log's level is. */
export function reportSlots(log: Log, { pool, jobs, waiting }: Slots): void {
  const told = log.child({}, { level: 'info' });
  const running = [...jobs].sort((one, other) => one.startedAtMs - other.startedAtMs);
  told.info({ event: 'slots', pool: pool.kind, size: pool.size, busy: running.length, waiting });
  const nowMs = monotonicMs();
  for (const { delivery, startedAtMs, pid } of running) {
    const { task, id } = delivery.message;
    told.info({ event: 'slot', task, id, seconds: Math.round(nowMs - startedAtMs) / 1_000, pid });
  }
}
