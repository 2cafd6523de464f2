import { z } from 'zod';
import { type Buckets, bucketsOf, bucketsSince, parseScrape, quantileOf, sumOf } from './prometheus-text.ts';

const milliseconds = z.number().nullable();

/** ms; null where nothing was counted. */
const percentiles = z.object({ p50: milliseconds, p99: milliseconds, p999: milliseconds, max: milliseconds });

const stats = z.object({
  schedules: z.number(),
  overdue: z.number(),
  dispatched: z.number(),
  lateness_ms: percentiles,
  refused: z.number(),
  misfired: z.number(),
  recovered: z.number(),
});

const nodes = z.object({
  nodes: z.array(
    z.object({
      id: z.string(),
      pid: z.number(),
      shards: z.array(z.number()),
      rate: z.number(),
    }),
  ),
});

const queues = z.object({ queues: z.array(z.object({ name: z.string(), length: z.number() })) });

export type Percentiles = Readonly<z.output<typeof percentiles>>;

/** What the system said at one moment. */
export interface Snapshot {
  /** Monotonic, ms: when it was asked. */
  readonly atMs: number;
  readonly schedules: number;
  readonly overdue: number;
  readonly dispatched: number;
  /** Dispatch lateness over the last 10 s, ms. */
  readonly lateness: Percentiles;
  readonly refused: number;
  readonly misfired: number;
  readonly recovered: number;
  readonly nodes: readonly NodeFigures[];
  readonly queues: readonly { readonly name: string; readonly length: number }[];
}

export interface NodeFigures {
  readonly id: string;
  readonly pid: number;
  readonly shards: number;
  readonly rate: number;
}

export interface WorkerFigures {
  /** Monotonic, ms: when it was asked. */
  readonly atMs: number;
  /** Tasks finished since it started. */
  readonly succeeded: number;
  /** Of all that cannot have succeeded: functions that threw, unknown tasks, messages that cannot be read. */
  readonly failed: number;
  /** Start lateness since it started, s. */
  readonly startLateness: Buckets;
}

/** A poll must be over before the next one: an API that answers later than this counts as not answering. */
const ANSWER_MS = 900;

/** Asks the beats' APIs, beginning with the one that answered last; null when none does. */
export class SystemWatch {
  #apis: string[];

  constructor(apis: readonly string[]) {
    this.#apis = [...apis];
  }

  async look(): Promise<Snapshot | null> {
    for (const api of [...this.#apis]) {
      const snapshot = await ask(api).catch(() => null);
      if (snapshot !== null) return snapshot;
      this.#apis = [...this.#apis.filter((other) => other !== api), api];
    }
    return null;
  }
}

async function ask(api: string): Promise<Snapshot> {
  const signal = AbortSignal.timeout(ANSWER_MS);
  const get = async (path: string): Promise<unknown> => {
    const response = await fetch(`${api}${path}`, { signal });
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  };
  const [figures, live, lengths] = await Promise.all([
    get('/v1/stats').then((body) => stats.parse(body)),
    get('/v1/nodes').then((body) => nodes.parse(body)),
    get('/v1/queues').then((body) => queues.parse(body)),
  ]);
  const { lateness_ms: lateness, ...rest } = figures;
  return {
    ...rest,
    atMs: performance.now(),
    lateness,
    nodes: live.nodes.map((node) => ({
      ...node,
      shards: Array.isArray(node.shards) ? node.shards.length : node.shards,
    })),
    queues: lengths.queues,
  };
}

/** Asks the worker's metrics; null when it does not answer. */
export async function lookAtWorker(metricsUrl: string): Promise<WorkerFigures | null> {
  try {
    const response = await fetch(metricsUrl, { signal: AbortSignal.timeout(ANSWER_MS) });
    const scrape = parseScrape(await response.text());
    const ended = (state: string) => sumOf(scrape, 'ringbeat_tasks_total', { state });
    return {
      atMs: performance.now(),
      succeeded: ended('success'),
      failed: ended('failure') + ended('unknown') + ended('dead'),
      startLateness: bucketsOf(scrape, 'ringbeat_start_lateness_seconds'),
    };
  } catch {
    return null;
  }
}

/** Dispatches a second between two looks at the system. */
export function rateBetween(before: Snapshot, now: Snapshot): number {
  return now.atMs > before.atMs ? ((now.dispatched - before.dispatched) / (now.atMs - before.atMs)) * 1_000 : 0;
}

/** What the worker did between two looks at it. */
export interface WorkerProgress {
  readonly finished: number;
  readonly failed: number;
  /** Tasks finished a second. */
  readonly rate: number;
  /** Start lateness, ms. */
  readonly startLateness: Percentiles;
}

export function progressBetween(before: WorkerFigures, now: WorkerFigures): WorkerProgress {
  const finished = now.succeeded + now.failed - before.succeeded - before.failed;
  const lateness = bucketsSince(now.startLateness, before.startLateness);
  const at = (share: number) => {
    const seconds = quantileOf(lateness, share);
    return seconds === null ? null : seconds * 1_000;
  };
  return {
    finished,
    failed: now.failed - before.failed,
    rate: now.atMs > before.atMs ? (finished / (now.atMs - before.atMs)) * 1_000 : 0,
    startLateness: { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1) },
  };
}
