import type { Log } from '../../runtime/log.ts';
import type { WorkerConfig } from '../config.ts';
import type { TaskPort } from '../context.ts';
import { AsyncPool } from './async-pool.ts';
import type { Pool } from './pool.ts';
import { ProcessesPool } from './processes-pool.ts';
import { ThreadsPool } from './threads-pool.ts';

/** The pool that a worker is configured to run its tasks in; it calls `onUsable` when it can run more tasks than before. */
export function makePool(config: WorkerConfig, port: TaskPort, log: Log, onUsable: () => void): Pool {
  const { concurrency, pool, tasks, hostname, redis, namespace, taskSendSentEvent } = config;
  if (pool === 'async' || pool === 'solo') return new AsyncPool(pool, concurrency, port);
  const isProcesses = pool === 'processes';
  const options = {
    size: concurrency,
    setup: {
      tasks,
      hostname,
      redis,
      namespace,
      taskSendSentEvent,
      logLevel: log.level,
      maxMemoryKib: isProcesses ? config.maxMemoryKib : null,
    },
    maxTasks: isProcesses ? config.maxTasksPerChild : null,
    port,
    log,
    onUsable,
  };
  if (!isProcesses) return new ThreadsPool(options);
  return new ProcessesPool({ ...options, timeouts: [config.softTimeLimitSec, config.timeLimitSec] });
}
