import { COMMON_OPTIONS } from '../runtime/common-options.ts';
import type { OptionSpec } from '../runtime/options.ts';
import type { WorkerOptions } from './config.ts';
import { MAX_SIZE, POOLS, WORKER_OPTIONS, whyNotAQueue } from './options.ts';

/** What an option, or a value of it, is called where it is given: `maxCrashes`, or `--max-crashes` on the command line. */
export type Spelling = (option: keyof WorkerOptions, value?: string) => string;

/** As in `new Worker({ … })`. */
export const inProgram: Spelling = (option, value) => (value === undefined ? option : `${option} "${value}"`);

/**
 * Throws TypeError for options that there are not, that are of another type, or that contradict each other, RangeError for
 * numbers out of their range, BAD_NAMESPACE for a namespace that cannot be.
 */
export function checkWorkerOptions(options: WorkerOptions, spell: Spelling): void {
  if (typeof options !== 'object' || options === null) {
    throw new TypeError(
      `A worker needs its options as an object, such as { redis: "redis://…" }, got ${shown(options)}.`,
    );
  }
  if (options.redis === undefined) throw new TypeError(`A worker needs the URL of its Redis: give ${spell('redis')}.`);
  for (const [name, value] of Object.entries(options)) {
    if (!isOption(name)) {
      throw new TypeError(`A worker has no option ${name}. Its options are ${Object.keys(CHECKS).join(', ')}.`);
    }
    if (value !== undefined) CHECKS[name](value, spell(name));
  }
  checkTogether(options, spell);
}

/** Refuses what would otherwise have no effect. */
function checkTogether(options: WorkerOptions, spell: Spelling): void {
  const { autoscale = null, concurrency = null, softTimeLimit = null, timeLimit = null } = options;
  const pool = options.pool ?? WORKER_OPTIONS.pool.default;
  const isSolo = pool === 'solo';
  if ((pool === 'threads' || pool === 'processes') && (options.tasks ?? []).length === 0) {
    throw new TypeError(
      `${spell('pool', pool)} needs the modules that define the tasks, for its children to load: give ${spell('tasks')}.`,
    );
  }
  for (const name of ['maxTasksPerChild', 'maxMemoryPerChild'] as const) {
    if (pool === 'processes' || options[name] == null) continue;
    throw new TypeError(
      `${spell(name)} says when child processes are replaced, and ${spell('pool', pool)} has none. ` +
        `Use ${spell('pool', 'processes')}, or leave ${spell(name)} out.`,
    );
  }
  for (const name of ['autoscale', 'concurrency'] as const) {
    const isGiven = name === 'autoscale' ? autoscale !== null : concurrency !== null && concurrency !== 1;
    if (!isSolo || !isGiven) continue;
    throw new TypeError(
      `${spell('pool', pool)} runs one task at a time, whatever ${spell(name)} says. ` +
        `Use ${spell('pool', 'async')}, or leave ${spell(name)} out.`,
    );
  }
  if (autoscale !== null && concurrency !== null) {
    throw new TypeError(
      `${spell('autoscale')} and ${spell('concurrency')} both say how many tasks run at once. ` +
        `Leave ${spell('concurrency')} out, or ${spell('autoscale')} where their number is not to change.`,
    );
  }
  if (softTimeLimit !== null && timeLimit !== null && softTimeLimit > timeLimit) {
    throw new TypeError(
      `${spell('softTimeLimit')} must not be above ${spell('timeLimit')}, got ${softTimeLimit} and ${timeLimit}: ` +
        'lower the one or raise the other.',
    );
  }
  const { heartbeatInterval = WORKER_OPTIONS.heartbeatInterval.default } = options;
  if (options.withoutHeartbeat === true && heartbeatInterval !== WORKER_OPTIONS.heartbeatInterval.default) {
    throw new TypeError(
      `${spell('withoutHeartbeat')} leaves no heartbeat that ${spell('heartbeatInterval')} could be of. Leave out one of them.`,
    );
  }
}

/** Throws for a value that the option, which is called `name`, cannot have. */
type Check = (value: unknown, name: string) => void;

const flag: Check = (value, name) => {
  if (typeof value !== 'boolean') throw new TypeError(`${name} must be true or false, got ${shown(value)}.`);
};

const text: Check = (value, name) => {
  if (typeof value !== 'string' || value === '') throw new TypeError(`${name} must be a text, got ${shown(value)}.`);
};

const texts: Check = (value, name) => {
  if (!isTexts(value)) throw new TypeError(`${name} must be a list of texts, got ${shown(value)}.`);
};

/** Within the range that the command line knows; null where it knows no default. */
function within({
  default: standard,
  min = -Infinity,
  max = Infinity,
  whole = false,
}: OptionSpec<number | null>): Check {
  const wanted = `must be ${whole ? 'a whole number' : 'a number'} from ${min} to ${max}${standard === null ? ', or null' : ''}`;
  return (value, name) => {
    if (value === null && standard === null) return;
    if (typeof value !== 'number') throw new TypeError(`${name} ${wanted}, got ${shown(value)}.`);
    const fits = value >= min && value <= max && (!whole || Number.isInteger(value));
    if (!fits) throw new RangeError(`${name} ${wanted}, got ${value}.`);
  };
}

const queue: Check = (value, name) => {
  text(value, name);
  const reason = whyNotAQueue(String(value));
  if (reason !== null) throw new TypeError(`${name}: ${shown(value)} is no queue name: ${reason}.`);
};

const queues: Check = (value, name) => {
  if (!isTexts(value)) throw new TypeError(`${name} must be a list of queue names, got ${shown(value)}.`);
  for (const one of value) queue(one, name);
};

const autoscale: Check = (value, name) => {
  if (value === null) return;
  const wanted = `${name} must be { max, min }, whole numbers, max from 1 to ${MAX_SIZE} and min from 0 to max, or null`;
  if (typeof value !== 'object' || !('max' in value && 'min' in value)) {
    throw new TypeError(`${wanted}, got ${shown(value)}.`);
  }
  const { max, min } = value;
  const fits = isWhole(max) && isWhole(min) && max >= 1 && max <= MAX_SIZE && min >= 0 && min <= max;
  if (!fits) throw new RangeError(`${wanted}, got ${shown(value)}.`);
};

const CHECKS: { readonly [Name in keyof Required<WorkerOptions>]: Check } = {
  redis: text,
  namespace: (value, name) => {
    text(value, name);
    COMMON_OPTIONS.namespace.parse(String(value), '');
  },
  queues,
  excludeQueues: queues,
  pool: (value, name) => {
    if (POOLS.some((pool) => pool === value)) return;
    throw new TypeError(`${name} must be one of ${POOLS.join(', ')}, got ${shown(value)}.`);
  },
  concurrency: within(WORKER_OPTIONS.concurrency),
  autoscale,
  tasks: texts,
  maxTasksPerChild: within(WORKER_OPTIONS.maxTasksPerChild),
  maxMemoryPerChild: within(WORKER_OPTIONS.maxMemoryPerChild),
  prefetch: within(WORKER_OPTIONS.prefetch),
  hostname: text,
  acksLate: flag,
  trackStarted: flag,
  softTimeLimit: within(WORKER_OPTIONS.softTimeLimit),
  timeLimit: within(WORKER_OPTIONS.timeLimit),
  maxCrashes: within(WORKER_OPTIONS.maxCrashes),
  defaultQueue: queue,
  resultExtended: flag,
  resultExpires: within(WORKER_OPTIONS.resultExpires),
  visibilityTimeout: within(WORKER_OPTIONS.visibilityTimeout),
  taskEvents: flag,
  taskSendSentEvent: flag,
  heartbeatInterval: within(WORKER_OPTIONS.heartbeatInterval),
  withoutHeartbeat: flag,
  statedb: (value, name) => {
    if (value !== null) text(value, name);
  },
  withoutMingle: flag,
  withoutGossip: flag,
};

function isOption(name: string): name is keyof WorkerOptions {
  return Object.hasOwn(CHECKS, name);
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string');
}

function isWhole(value: unknown): value is number {
  return Number.isInteger(value);
}

function shown(value: unknown): string {
  return typeof value === 'bigint' || typeof value === 'function' || typeof value === 'number'
    ? String(value)
    : (JSON.stringify(value) ?? 'nothing');
}
