import { InvalidArgumentError } from 'commander';
import { KOMBU } from '../lua/keys.ts';
import { flag, integer, list, number, type OptionSpec, oneOf, text } from '../runtime/options.ts';
import type { PoolKind } from './pools/pool.ts';

export const POOLS: readonly PoolKind[] = ['async', 'solo', 'threads', 'processes'];

/** Most slots of a pool. */
export const MAX_SIZE = 100_000;

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
  pool: oneOf(POOLS, { short: '-P', default: 'async', doc: 'how tasks are run' }),
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
  taskSendSentEvent: flag({
    doc: 'send the event task-sent of each task that is sent here: by a task, as a retry, in a workflow',
  }),
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
  statedb: text<string | null>({
    short: '-S',
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

/** Why a name cannot be that of a queue; null when it can. */
export function whyNotAQueue(name: string): string | null {
  if (name === '' || Buffer.byteLength(name) > 200) return 'it must have 1 to 200 bytes';
  if (name.includes(KOMBU.separator)) return 'it contains the separator of priorities';
  if (/["\\\x00-\x1f]/.test(name)) return 'it contains a quote, a backslash or a control character';
  return null;
}
