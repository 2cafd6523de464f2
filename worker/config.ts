import { availableParallelism, hostname as machineName } from 'node:os';
import { InvalidArgumentError } from 'commander';
import { KOMBU } from '../lua/keys.ts';
import { flag, integer, list, number, type OptionSpec, oneOf, text } from '../runtime/options.ts';
import type { PoolKind } from './pools/pool.ts';

const POOLS: readonly PoolKind[] = ['async', 'solo', 'threads', 'processes'];

const DEFAULT_CONCURRENCY = 100;

const MAX_SIZE = 100_000;

/** For how long slots must have been idle before they go, s; Celery's variable (celery/worker/autoscale.py). */
const AUTOSCALE_KEEPALIVE_SEC = 30;

/** Least and most slots of a pool that grows and shrinks by itself. */
export interface Autoscale {
  readonly max: number;
  readonly min: number;
}

/** As Celery reads it: the order does not matter, and one number is the most. */
const autoscale: OptionSpec<Autoscale | null> = {
  placeholder: 'MAX,MIN',
  default: null,
  doc: 'let the pool grow and shrink with the work, within these sizes, in place of --concurrency',
  parse(value) {
    const sizes = value.split(',').map((part) => (/^\d{1,6}$/.test(part.trim()) ? Number(part) : Number.NaN));
    const max = Math.max(...sizes);
    if (sizes.length > 2 || !(max >= 1 && max <= MAX_SIZE)) {
      throw new InvalidArgumentError(`Expected two whole numbers, the greater from 1 to ${MAX_SIZE}, got "${value}".`);
    }
    return { max, min: sizes.length === 1 ? 0 : Math.min(...sizes) };
  },
};

const queues: OptionSpec<readonly string[]> = {
  ...list({ short: '-Q', default: ['celery'], placeholder: 'NAME,…', doc: 'queues to take messages from' }),
  parse(value, previous) {
    const names = list({ default: queues.default, doc: queues.doc }).parse(value, previous);
    if (names.length === 0) throw new InvalidArgumentError('Name at least one queue.');
    for (const name of names) {
      const reason = whyNotAQueue(name);
      if (reason !== null) throw new InvalidArgumentError(`"${name}" is no queue name: ${reason}.`);
    }
    return [...new Set(names)];
  },
};

/** Options of `ringbeat worker`, beside those of every process. */
export const WORKER_OPTIONS = {
  tasks: list({
    default: [],
    placeholder: 'FILE,…',
    doc: 'modules that define tasks: .js, .mjs, .cjs, or .ts where Node can load it',
  }),
  queues,
  concurrency: integer<number | null>({
    short: '-c',
    default: null,
    min: 1,
    max: MAX_SIZE,
    doc: 'tasks that run at once (default: 100; pools threads and processes: the number of cores; solo: 1)',
  }),
  pool: oneOf(POOLS, { default: 'async', doc: 'how tasks are run' }),
  autoscale,
  maxTasksPerChild: integer<number | null>({
    default: null,
    min: 1,
    max: 1_000_000_000,
    doc: 'tasks after which a process of --pool processes is replaced (default: never)',
  }),
  maxMemoryPerChild: integer<number | null>({
    default: null,
    min: 1,
    max: 1_000_000_000,
    doc: 'KiB of memory after which a process of --pool processes is replaced once its task has ended (default: any)',
  }),
  prefetch: integer<number | null>({
    default: null,
    min: 1,
    max: 1_000_000,
    doc: 'most unacknowledged messages (default: 4 x concurrency)',
  }),
  hostname: text({
    short: '-n',
    default: 'ringbeat@%h',
    placeholder: 'NAME@HOST',
    doc: "the worker's name; %h is the host name, %n its first part, %d the rest",
  }),
  excludeQueues: list({ short: '-X', default: [], placeholder: 'NAME,…', doc: 'queues of --queues to leave out' }),
  defaultQueue: text({
    default: 'celery',
    placeholder: 'NAME',
    doc: 'queue for tasks of workflows that name none',
  }),
  acksLate: flag({ doc: 'acknowledge messages after their tasks have ended, where a task does not say otherwise' }),
  trackStarted: flag({ doc: 'store the state STARTED when a task starts, where a task does not say otherwise' }),
  softTimeLimit: number<number | null>({
    default: null,
    min: 0.001,
    max: 315_360_000,
    doc: "seconds after which a task's signal is aborted, where neither task nor message says otherwise (default: never)",
  }),
  timeLimit: number<number | null>({
    default: null,
    min: 0.001,
    max: 315_360_000,
    doc: 'seconds after which a task is ended, where neither task nor message says otherwise (default: never)',
  }),
  maxCrashes: integer({
    default: 3,
    min: 1,
    max: 1_000,
    doc: 'times that a late-acknowledged message may have killed its process before it goes to the dead letters',
  }),
  resultExtended: flag({ doc: 'store name, arguments, worker, retries and queue of a task with its result' }),
  resultExpires: integer({
    default: 86_400,
    min: 0,
    max: 315_360_000,
    doc: 'seconds for which results are kept; 0: for ever',
  }),
  visibilityTimeout: number({
    default: 3_600,
    min: 1,
    max: 315_360_000,
    doc: 'seconds after which an unacknowledged message counts as lost',
  }),
  taskEvents: flag({ short: '-E', doc: 'send events of tasks, for flower and `celery events`' }),
  heartbeatInterval: number({
    default: 2,
    min: 0.1,
    max: 3_600,
    doc: 'seconds between two heartbeats that monitors hear',
  }),
  withoutHeartbeat: flag({ doc: 'tell monitors nothing of the worker itself' }),
  pidfile: text<string | null>({
    default: null,
    placeholder: 'FILE',
    doc: 'write the process id here; refuse to start where another process that lives has done so',
  }),
  stateDb: text<string | null>({
    default: null,
    placeholder: 'FILE',
    doc: "remember what was revoked across restarts, in this file of the worker's own; %n, %h and %d are the parts of its name",
  }),
  withoutMingle: flag({ doc: 'do not ask the other workers at the start what was revoked' }),
  withoutGossip: flag({ doc: 'do not listen to what the other workers tell of themselves' }),
  metricsPort: integer<number | null>({
    default: null,
    min: 0,
    max: 65_535,
    doc: 'serve /metrics here; 0: any free port (default: nowhere)',
  }),
  metricsHost: text({ default: '127.0.0.1', placeholder: 'HOST', doc: 'address on which /metrics is served' }),
};

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
  /** Modules that define tasks, for children of the pool to load. */
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
  /** Seconds between two heartbeats that monitors hear; null: they hear nothing of the worker itself. */
  readonly heartbeatSec: number | null;
  /** File that keeps what was revoked; null: none. */
  readonly stateDb: string | null;
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
  /** Modules that define tasks. Pools threads and processes need them: each child loads them anew. */
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
  /** Seconds. */
  readonly heartbeatInterval?: number;
  readonly withoutHeartbeat?: boolean;
  /** File that keeps what was revoked across restarts; %n, %h and %d are the parts of the worker's name. */
  readonly stateDb?: string | null;
  readonly withoutMingle?: boolean;
  readonly withoutGossip?: boolean;
}

/** Throws RangeError or TypeError for what makes no sense. */
export function workerConfig(options: WorkerOptions): WorkerConfig {
  const pool = options.pool ?? WORKER_OPTIONS.pool.default;
  const files = options.tasks ?? [];
  const hasChildren = pool === 'threads' || pool === 'processes';
  if (hasChildren && files.length === 0) {
    throw new TypeError(`Pool ${pool} needs the modules that define the tasks, for its children to load: give tasks.`);
  }
  const excluded = new Set(options.excludeQueues);
  const names = [...new Set(options.queues ?? queues.default)].filter((name) => !excluded.has(name));
  if (names.length === 0) throw new TypeError('A worker needs at least one queue.');
  for (const name of names) {
    const reason = whyNotAQueue(name);
    if (reason !== null) throw new TypeError(`"${name}" is no queue name: ${reason}.`);
  }
  const scale = pool === 'solo' ? null : (options.autoscale ?? null);
  const concurrency = concurrencyOf(pool, scale, options.concurrency ?? null);
  const prefetch = options.prefetch ?? null;
  const visibilityTimeout = options.visibilityTimeout ?? WORKER_OPTIONS.visibilityTimeout.default;
  for (const [name, value] of Object.entries({ concurrency, prefetch, visibilityTimeout })) {
    if (value !== null && !(value >= 1)) throw new RangeError(`${name} must be at least 1, got ${value}.`);
  }
  const defaultQueue = options.defaultQueue ?? WORKER_OPTIONS.defaultQueue.default;
  const whyNot = whyNotAQueue(defaultQueue);
  if (whyNot !== null) throw new TypeError(`"${defaultQueue}" is no queue name: ${whyNot}.`);
  const hostname = nodeName(options.hostname ?? WORKER_OPTIONS.hostname.default, machineName());
  return {
    redis: options.redis,
    namespace: options.namespace ?? 'rb',
    queues: names,
    pool,
    concurrency: Math.trunc(concurrency),
    autoscale: scale,
    autoscaleKeepaliveMs: Number(process.env.AUTOSCALE_KEEPALIVE ?? AUTOSCALE_KEEPALIVE_SEC) * 1_000,
    tasks: files,
    maxTasksPerChild: options.maxTasksPerChild ?? null,
    maxMemoryKib: options.maxMemoryPerChild ?? null,
    prefetch: prefetch === null ? null : Math.trunc(prefetch),
    hostname,
    acksLate: options.acksLate ?? false,
    trackStarted: options.trackStarted ?? false,
    softTimeLimitSec: options.softTimeLimit ?? null,
    timeLimitSec: options.timeLimit ?? null,
    maxCrashes: options.maxCrashes ?? WORKER_OPTIONS.maxCrashes.default,
    defaultQueue,
    resultExtended: options.resultExtended ?? false,
    resultExpiresSec: Math.trunc(options.resultExpires ?? WORKER_OPTIONS.resultExpires.default),
    visibilityMs: Math.round(visibilityTimeout * 1_000),
    stateDb: options.stateDb == null ? null : fileName(options.stateDb, hostname),
    mingle: options.withoutMingle !== true,
    gossip: options.withoutGossip !== true,
    taskEvents: options.taskEvents ?? false,
    heartbeatSec: options.withoutHeartbeat
      ? null
      : (options.heartbeatInterval ?? WORKER_OPTIONS.heartbeatInterval.default),
  };
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

/** Why a name cannot be that of a queue; null when it can. */
export function whyNotAQueue(name: string): string | null {
  if (name === '' || Buffer.byteLength(name) > 200) return 'it must have 1 to 200 bytes';
  if (name.includes(KOMBU.separator)) return 'it contains the separator of priorities';
  if (/["\\\x00-\x1f]/.test(name)) return 'it contains a quote, a backslash or a control character';
  return null;
}
