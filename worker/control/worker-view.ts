import { tasks } from '../../client/task.ts';
import { messageOf } from '../../protocol/errors.ts';
import type { Log } from '../../runtime/log.ts';
import type { Events } from '../events.ts';
import type { Pool } from '../pools/pool.ts';
import type { Pump } from '../pump.ts';
import type { RateLimits } from '../rate-limits.ts';
import type { AutoscalerView, WorkerView } from './view.ts';

export interface WorkerParts {
  readonly pump: Pump;
  readonly pool: Pool;
  readonly events: Events;
  readonly rateLimits: RateLimits;
  readonly autoscaler: AutoscalerView | null;
  readonly log: Log;
  /** Begins a warm shutdown. */
  shutdown(): void;
}

/** What remote control sees of a worker that is made of these parts. */
export function workerView(parts: WorkerParts): WorkerView {
  const { pump, pool, events, rateLimits, autoscaler, log, shutdown } = parts;
  const { active } = pump;
  return {
    active: () =>
      active.running().map(({ delivery, startedAt, pid }) => ({
        message: delivery.message,
        startedAt,
        pid,
        isAcked: !delivery.isLate,
      })),
    reserved: () => pump.reserved(),
    held: () => pump.held(),
    totals: () => active.totals,

    dropRevoked: () => pump.dropRevoked(),
    terminate: (ids, signal) => active.terminate(ids, signal),

    queues: () => pump.queues,
    addQueue: (queue) => pump.addQueue(queue),
    cancelQueue: (queue) => pump.cancelQueue(queue),

    pool,
    prefetch: () => pump.prefetch,
    resizePool: (size) => {
      pool.resize(size);
      pump.wake();
    },
    restartPool: pool.restart?.bind(pool) ?? null,
    autoscaler,

    rateLimit: (task) => rateLimits.of(task),
    setRateLimit: (task, limit) => rateLimits.set(task, limit),
    globalRateLimit: (task) => rateLimits.globalOf(task),
    setGlobalRateLimit: (task, limit) => rateLimits.setGlobal(task, limit),
    timeLimits: (task) => active.limitsOf(task, tasks.get(task)?.options),
    setTimeLimits: (task, limits) => active.setLimits(task, limits),

    enableEvents: () => events.enable(),
    disableEvents: () => events.disable(),
    heartbeat: () => {
      events
        .heartbeatAsked()
        .catch((error: unknown) => log.warn({ event: 'heartbeat_not_sent', reason: messageOf(error) }));
    },

    shutdown,
  };
}
