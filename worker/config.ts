import { hostname as machineName } from 'node:os';
import { InvalidArgumentError } from 'commander';
import { KOMBU } from '../lua/keys.ts';
import { RingbeatError } from '../protocol/errors.ts';
import { flag, integer, list, number, type OptionSpec, oneOf, text } from '../runtime/options.ts';

/** How tasks are run: `async` many at once in one event loop, `solo` one at a time. */
export type Pool = 'async' | 'solo';

const POOLS = ['async', 'solo', 'threads', 'processes'] as const;

const DEFAULT_CONCURRENCY = 100;

/** As Celery's worker_prefetch_multiplier. */
const PREFETCH_MULTIPLIER = 4;

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
    max: 100_000,
    doc: 'tasks that run at once (default: 100; pool solo: 1)',
  }),
  pool: oneOf(POOLS, { default: 'async', doc: 'how tasks are run' }),
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
  acksLate: flag({ doc: 'acknowledge messages after their tasks have ended, where a task does not say otherwise' }),
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
  readonly pool: Pool;
  readonly concurrency: number;
  readonly prefetch: number;
  readonly hostname: string;
  readonly acksLate: boolean;
  readonly resultExpiresSec: number;
  readonly visibilityMs: number;
}

/** What `new Worker()` takes. Only `redis` is needed; the rest defaults as on the command line. */
export interface WorkerOptions {
  readonly redis: string;
  readonly namespace?: string;
  readonly queues?: readonly string[];
  readonly pool?: Pool;
  readonly concurrency?: number | null;
  readonly prefetch?: number | null;
  readonly hostname?: string;
  readonly acksLate?: boolean;
  /** Seconds; 0: for ever. */
  readonly resultExpires?: number;
  /** Seconds. */
  readonly visibilityTimeout?: number;
}

/** Throws NOT_YET_SUPPORTED for a pool of later versions, RangeError or TypeError for what makes no sense. */
export function workerConfig(
  options: Omit<WorkerOptions, 'pool'> & { readonly pool?: (typeof POOLS)[number] },
): WorkerConfig {
  const pool = options.pool ?? WORKER_OPTIONS.pool.default;
  if (pool !== 'async' && pool !== 'solo') {
    throw new RingbeatError('NOT_YET_SUPPORTED', {
      what: `--pool ${pool}`,
      remedy: 'Use --pool async or --pool solo.',
    });
  }
  const names = [...new Set(options.queues ?? queues.default)];
  if (names.length === 0) throw new TypeError('A worker needs at least one queue.');
  for (const name of names) {
    const reason = whyNotAQueue(name);
    if (reason !== null) throw new TypeError(`"${name}" is no queue name: ${reason}.`);
  }
  const concurrency = pool === 'solo' ? 1 : (options.concurrency ?? DEFAULT_CONCURRENCY);
  const prefetch = options.prefetch ?? concurrency * PREFETCH_MULTIPLIER;
  const visibilityTimeout = options.visibilityTimeout ?? WORKER_OPTIONS.visibilityTimeout.default;
  for (const [name, value] of Object.entries({ concurrency, prefetch, visibilityTimeout })) {
    if (!(value >= 1)) throw new RangeError(`${name} must be at least 1, got ${value}.`);
  }
  return {
    redis: options.redis,
    namespace: options.namespace ?? 'rb',
    queues: names,
    pool,
    concurrency: Math.trunc(concurrency),
    prefetch: Math.trunc(prefetch),
    hostname: nodeName(options.hostname ?? WORKER_OPTIONS.hostname.default, machineName()),
    acksLate: options.acksLate ?? false,
    resultExpiresSec: Math.trunc(options.resultExpires ?? WORKER_OPTIONS.resultExpires.default),
    visibilityMs: Math.round(visibilityTimeout * 1_000),
  };
}

/** `NAME@HOST` with %h, %n, %d and %% filled in as Celery does (celery/utils/nodenames.py). */
export function nodeName(pattern: string, host: string): string {
  const [name = '', ...domain] = host.split('.');
  const parts: Readonly<Record<string, string>> = { h: host, n: name, d: domain.join('.'), '%': '%' };
  const filled = pattern.replace(/%([hnd%])/g, (whole, letter: string) => parts[letter] ?? whole);
  return filled.includes('@') ? filled : `${filled}@${host}`;
}

function whyNotAQueue(name: string): string | null {
  if (name === '' || Buffer.byteLength(name) > 200) return 'it must have 1 to 200 bytes';
  if (name.includes(KOMBU.separator)) return 'it contains the separator of priorities';
  if (/["\\\x00-\x1f]/.test(name)) return 'it contains a quote, a backslash or a control character';
  return null;
}
