import { availableParallelism, hostname as machineName } from 'node:os';
import { COMMON_OPTIONS } from '../runtime/common-options.ts';
import { checkWorkerOptions, inProgram, type Spelling } from './check-options.ts';
import { type Autoscale, WORKER_OPTIONS } from './options.ts';
import type { PoolKind } from './pools/pool.ts';

const DEFAULT_CONCURRENCY = 100;

const AUTOSCALE_KEEPALIVE_SEC = 30;
const MIN_KEEPALIVE_SEC = 0.1;
const MAX_KEEPALIVE_SEC = 86_400;

/** What a worker needs to know to run; every default is filled in. */
export interface WorkerConfig {
  readonly redis: string;
  readonly namespace: string;
  readonly queues: readonly string[];
  readonly pool: PoolKind;
  /** Slots at the start. */
  readonly concurrency: number;
  readonly autoscale: Autoscale | null;
  readonly autoscaleKeepaliveMs: number;
  /** Modules that define tasks: loaded at the start, here and in children of the pool. */
  readonly tasks: readonly string[];
  /** null: any number. */
  readonly maxTasksPerChild: number | null;
  readonly maxMemoryKib: number | null;
  /** Most unacknowledged messages; null: four for every slot, however many there are. */
  readonly prefetch: number | null;
  readonly hostname: string;
  readonly acksLate: boolean;
  readonly trackStarted: boolean;
  /** s; null: none. */
  readonly softTimeLimitSec: number | null;
  readonly timeLimitSec: number | null;
  readonly maxCrashes: number;
  /** Where tasks of workflows go that name no queue. */
  readonly defaultQueue: string;
  readonly resultExtended: boolean;
  readonly resultExpiresSec: number;
  readonly visibilityMs: number;
  /** Whether events of tasks are sent from the start. */
  readonly taskEvents: boolean;
  /** Whether monitors hear of each task that is sent here. */
  readonly taskSendSentEvent: boolean;
  /** Seconds between two heartbeats that monitors hear; null: they hear nothing of the worker itself. */
  readonly heartbeatSec: number | null;
  /** File that keeps what was revoked; null: none. */
  readonly statedb: string | null;
  readonly mingle: boolean;
  readonly gossip: boolean;
}

/** What `new Worker()` takes. Only `redis` is needed; the rest defaults as on the command line. */
export interface WorkerOptions {
  readonly redis: string;
  readonly namespace?: string;
  readonly queues?: readonly string[];
  readonly pool?: PoolKind;
  readonly concurrency?: number | null;
  readonly autoscale?: Autoscale | null;
  /** Modules that define tasks, loaded at the start. Pools threads and processes need them: each child loads them anew. */
  readonly tasks?: readonly string[];
  readonly maxTasksPerChild?: number | null;
  /** KiB. */
  readonly maxMemoryPerChild?: number | null;
  readonly prefetch?: number | null;
  readonly hostname?: string;
  readonly acksLate?: boolean;
  readonly excludeQueues?: readonly string[];
  readonly trackStarted?: boolean;
  /** Seconds. */
  readonly softTimeLimit?: number | null;
  /** Seconds. */
  readonly timeLimit?: number | null;
  readonly maxCrashes?: number;
  /** Queue for tasks of workflows that name none. Default `celery`. */
  readonly defaultQueue?: string;
  readonly resultExtended?: boolean;
  /** Seconds; 0: for ever. */
  readonly resultExpires?: number;
  /** Seconds. */
  readonly visibilityTimeout?: number;
  readonly taskEvents?: boolean;
  readonly taskSendSentEvent?: boolean;
  /** Seconds. */
  readonly heartbeatInterval?: number;
  readonly withoutHeartbeat?: boolean;
  /** File that keeps what was revoked across restarts; %n, %h and %d are the parts of the worker's name. */
  readonly statedb?: string | null;
  readonly withoutMingle?: boolean;
  readonly withoutGossip?: boolean;
}

/**
 * Throws TypeError or RangeError for what makes no sense or would have no effect, BAD_NAMESPACE for a namespace that cannot
 * be; `spell` is what their texts call the options.
 */
export function workerConfig(options: WorkerOptions, spell: Spelling = inProgram): WorkerConfig {
  checkWorkerOptions(options, spell);
  const excluded = new Set(options.excludeQueues);
  const queues = [...new Set(options.queues ?? WORKER_OPTIONS.queues.default)].filter((name) => !excluded.has(name));
  if (queues.length === 0) {
    throw new TypeError(
      `A worker needs at least one queue: name one in ${spell('queues')} that ${spell('excludeQueues')} does not leave out.`,
    );
  }
  const pool = options.pool ?? WORKER_OPTIONS.pool.default;
  const scale = options.autoscale ?? null;
  const hostname = nodeName(options.hostname ?? WORKER_OPTIONS.hostname.default, machineName());
  return {
    redis: options.redis,
    namespace: options.namespace ?? COMMON_OPTIONS.namespace.default,
    queues,
    pool,
    concurrency: concurrencyOf(pool, scale, options.concurrency ?? null),
    autoscale: scale,
    autoscaleKeepaliveMs: scale === null ? AUTOSCALE_KEEPALIVE_SEC * 1_000 : autoscaleKeepaliveMs(),
    tasks: options.tasks ?? WORKER_OPTIONS.tasks.default,
    maxTasksPerChild: options.maxTasksPerChild ?? null,
    maxMemoryKib: options.maxMemoryPerChild ?? null,
    prefetch: options.prefetch ?? null,
    hostname,
    acksLate: options.acksLate ?? false,
    trackStarted: options.trackStarted ?? false,
    softTimeLimitSec: options.softTimeLimit ?? null,
    timeLimitSec: options.timeLimit ?? null,
    maxCrashes: options.maxCrashes ?? WORKER_OPTIONS.maxCrashes.default,
    defaultQueue: options.defaultQueue ?? WORKER_OPTIONS.defaultQueue.default,
    resultExtended: options.resultExtended ?? false,
    resultExpiresSec: options.resultExpires ?? WORKER_OPTIONS.resultExpires.default,
    visibilityMs: Math.round((options.visibilityTimeout ?? WORKER_OPTIONS.visibilityTimeout.default) * 1_000),
    statedb: options.statedb == null ? null : fileName(options.statedb, hostname),
    mingle: options.withoutMingle !== true,
    gossip: options.withoutGossip !== true,
    taskEvents: options.taskEvents ?? false,
    taskSendSentEvent: options.taskSendSentEvent ?? false,
    heartbeatSec: options.withoutHeartbeat
      ? null
      : (options.heartbeatInterval ?? WORKER_OPTIONS.heartbeatInterval.default),
  };
}

/** For how long slots must have been idle before they go; Celery's variable (celery/worker/autoscale.py). */
function autoscaleKeepaliveMs(): number {
  const text = process.env.AUTOSCALE_KEEPALIVE ?? '';
  const seconds = text === '' ? AUTOSCALE_KEEPALIVE_SEC : Number(text);
  if (seconds >= MIN_KEEPALIVE_SEC && seconds <= MAX_KEEPALIVE_SEC) return seconds * 1_000;
  throw new RangeError(
    `AUTOSCALE_KEEPALIVE in the environment must be a number of seconds from ${MIN_KEEPALIVE_SEC} to ${MAX_KEEPALIVE_SEC}, ` +
      `got "${text}". Correct it, or unset it for ${AUTOSCALE_KEEPALIVE_SEC} s.`,
  );
}

function concurrencyOf(pool: PoolKind, scale: Autoscale | null, concurrency: number | null): number {
  if (pool === 'solo') return 1;
  if (scale !== null) return Math.max(1, scale.min);
  return concurrency ?? (pool === 'async' ? DEFAULT_CONCURRENCY : availableParallelism());
}

/** `NAME@HOST` with %h, %n, %d and %% filled in as Celery does (celery/utils/nodenames.py). */
export function nodeName(pattern: string, host: string): string {
  const [name = '', ...domain] = host.split('.');
  const parts: Readonly<Record<string, string>> = { h: host, n: name, d: domain.join('.'), '%': '%' };
  const filled = pattern.replace(/%([hnd%])/g, (whole, letter: string) => parts[letter] ?? whole);
  return filled.includes('@') ? filled : `${filled}@${host}`;
}

/** A file name with %n (the first part of the worker's name), %h (its host), %d (the host's domain) and %% filled in. */
function fileName(pattern: string, hostname: string): string {
  const [name = '', host = ''] = hostname.split('@');
  const domain = host.split('.').slice(1).join('.');
  const parts: Readonly<Record<string, string>> = { n: name, h: host, d: domain, '%': '%' };
  return pattern.replace(/%([nhd%])/g, (whole, letter: string) => parts[letter] ?? whole);
}
