import type { Redis } from 'ioredis';
import { refresh } from '../lua/refresh.ts';
import { storeStates } from '../lua/store-states.ts';
import { extendedFields, stateRecord } from '../protocol/result.ts';
import type { RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Active } from './active.ts';
import type { WorkerConfig } from './config.ts';
import type { TaskPort } from './context.ts';
import type { Events } from './events.ts';

export interface PortOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly workerId: string;
  readonly clock: RedisClock;
  readonly events: Events;
  readonly log: Log;
  active(): Active;
}

/** States that Celery takes for the end of a task (celery/states.py, READY_STATES). */
const ENDED: ReadonlySet<string> = new Set(['SUCCESS', 'FAILURE', 'REVOKED']);

/** What running tasks can ask of this worker. */
export function taskPort({ redis, config, workerId, clock, events, log, active }: PortOptions): TaskPort {
  return {
    hostname: config.hostname,
    log,
    nowMs: () => clock.nowMs(),
    async storeState(message, state, meta, children) {
      const extended = config.resultExtended ? extendedFields(message, config.hostname) : null;
      const doneAtMs = ENDED.has(state) ? clock.nowMs() : null;
      const record = stateRecord(message, state, meta, { children, extended }, doneAtMs);
      await storeStates(redis, config.resultExpiresSec, [{ taskId: message.id, record }]);
    },
    async extendLease(id) {
      const running = active().running();
      const tags = running.flatMap(({ delivery: { message, tag } }) => (message.id === id ? [tag] : []));
      if (tags.length > 0) await refresh(redis, config.namespace, workerId, tags);
    },
    sendEvent: (id, type, fields) => events.custom(type, id, fields),
  };
}
