import { setTimeout as sleep } from 'node:timers/promises';
import { readLateness } from '../lua/lateness.ts';
import { type Consumer, type ConsumerReport, startConsumer } from './consumer-process.ts';
import { loadLines, type Registered, register } from './load.ts';
import { type Percentiles, summarise } from './percentiles.ts';
import { type Node, watchCpu } from './processes.ts';
import type { Figures, Measurement, Parameters } from './scenario.ts';
import { getJson, redisNowMs, type Stage, shardsOf } from './stage.ts';

/** Nodes that dispatch a registered interval load into a queue which a consumer keeps short. */
export interface RunningLoad {
  readonly nodes: readonly Node[];
  readonly consumer: Consumer;
  readonly registered: Registered;
  /** How long until every schedule has been dispatched at least once, s. */
  readonly warmUpSec: number;
}

/** Registers `schedules` every `every` seconds through the first node, with nodes and consumer running already. */
export async function startIntervalLoad(
  stage: Stage,
  parameters: Parameters,
  { outages = false } = {},
): Promise<RunningLoad> {
  const { schedules, every } = parameters;
  const nodes = await stage.startNodes(parameters.nodes);
  const consumer = await startConsumer(stage, { schedules, everyMs: every * 1_000, outages });
  const registered = await register(nodes[0]!.api, loadLines({ to: schedules, schedule: `{"every":${every}}` }));
  return { nodes, consumer, registered, warmUpSec: every + 2 };
}

/** What is to be seen of a stretch of time in which dispatch went on. */
export interface Window {
  readonly rate: number;
  /** Lateness by the dispatch script: Redis TIME of the call minus due, whole ms rounded down. */
  readonly dispatch: Percentiles;
  /** Lateness by the independent consumer. */
  readonly outside: Percentiles;
  readonly report: ConsumerReport;
  /** Shares of one core. */
  readonly cpu: { readonly redis: number; readonly nodes: number; readonly consumer: number };
}

/** Watches for `seconds`, or until `during` has settled if that is longer. The consumer's lap ends with it. */
export async function measureWindow(
  stage: Stage,
  load: Pick<RunningLoad, 'nodes' | 'consumer'>,
  seconds: number,
  during: () => Promise<unknown> = async () => {},
): Promise<Window> {
  const fromMs = await redisNowMs(stage.redis);
  await load.consumer.lap();
  const startedAtMs = performance.now();
  const cpu = watchCpu([stage.server.pid, load.consumer.pid, ...load.nodes.map((node) => node.pid)]);
  await Promise.all([sleep(seconds * 1_000), during()]);
  const [redis, consumer, ...nodes] = cpu.stop();
  const elapsedSec = (performance.now() - startedAtMs) / 1_000;
  const report = await load.consumer.lap();
  return {
    rate: report.taken / elapsedSec,
    dispatch: await dispatchLateness(stage, fromMs),
    outside: report.lateness,
    report,
    cpu: { redis: redis!, consumer: consumer!, nodes: nodes.reduce((sum, share) => sum + share, 0) },
  };
}

/** Lateness that the dispatch script counted since `sinceMs` of Redis's clock, over all shards. */
export async function dispatchLateness(stage: Stage, sinceMs: number): Promise<Percentiles> {
  const lateness = await readLateness(stage.redis, await shardsOf(stage.redis), sinceMs);
  return summarise(lateness.count, (percentile) => lateness.percentile(percentile / 100), lateness.maxMs);
}

/** The figures that every scenario with a dispatching load shares. */
export function windowMeasurement(window: Window, more: Figures = {}): Measurement {
  return {
    figures: {
      rate_per_s: window.rate,
      dispatch_p50_ms: window.dispatch.p50,
      dispatch_p99_ms: window.dispatch.p99,
      dispatch_p999_ms: window.dispatch.p999,
      dispatch_max_ms: window.dispatch.max,
      outside_p50_ms: window.outside.p50,
      outside_p99_ms: window.outside.p99,
      outside_p999_ms: window.outside.p999,
      outside_max_ms: window.outside.max,
      redis_cpu_cores: window.cpu.redis,
      nodes_cpu_cores: window.cpu.nodes,
      consumer_cpu_cores: window.cpu.consumer,
      ...more,
    },
    percentiles: { dispatch: window.dispatch, outside: window.outside },
  };
}

/** The consumer's account as figures: all of them should be zero. */
export function accountFigures(report: ConsumerReport): Figures {
  const { lost, doubled, strange } = report.verdict;
  return { lost, doubled, strange, early: report.early };
}

export interface Stats {
  readonly misfired: number;
  readonly refused: number;
  readonly recovered: number;
}

export function readStats(node: Node): Promise<Stats> {
  return getJson<Stats>(`${node.api}/v1/stats`);
}
