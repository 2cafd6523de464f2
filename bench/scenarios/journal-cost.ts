import { setTimeout as sleep } from 'node:timers/promises';
import { type Consumer, startConsumer } from '../consumer-process.ts';
import { measureWindow } from '../interval-load.ts';
import { awaitJournals, JOURNALING } from '../journals.ts';
import { loadLines, register } from '../load.ts';
import { median } from '../median.ts';
import { queueFull } from '../one-instant.ts';
import type { Node } from '../processes.ts';
import type { Measurement, Parameters, Scenario } from '../scenario.ts';
import { openStage, QUEUE, redisNowMs, type Stage, type StageOptions } from '../stage.ts';

/** What is dispatched with a journal should be at least this of what is without. */
const LEAST_SHARE = 0.95;
/** How often each side is measured flat out by default, and how far the instants of the one lie from those of the other, ms. */
const BURSTS = 5;
const APART_MS = 3_000;
const PERIOD_MS = 2 * APART_MS;
/** So long before its instant a queue is emptied, ms. */
const EMPTIED_MS = 300;
/** Flat out takes longer than runs may be overdue by default, and missed runs go another way. */
const MISFIRE_THRESHOLD = ['--misfire-threshold', '60'];
/** The last of what was registered has come into its grid, ms. */
const WARM_UP_MS = 2_000;

export const journalCost: Scenario = {
  name: 'journal-cost',
  doc: 'interval schedules with --journal-dir and without, side by side: at a steady rate, then all due at one instant, in turn',
  defaults: { schedules: 150_000, every: 10, seconds: 15, nodes: 3 },
  targets: [
    { figure: 'steady_kept_share', atLeast: LEAST_SHARE },
    { figure: 'burst_kept_share', atLeast: LEAST_SHARE },
  ],
  shown: ['plain_burst_rate_per_s', 'rate_per_s', 'plain_cpu_cores', 'journal_cpu_cores'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    const plain = await openSide(parameters, aof);
    try {
      const journal = await openSide(parameters, aof, JOURNALING);
      try {
        return await compare(plain, journal, parameters, say);
      } finally {
        await journal.stage.close();
      }
    } finally {
      await plain.stage.close();
    }
  },
};

/** A Redis with nodes and a consumer of its own. */
interface Side {
  readonly stage: Stage;
  readonly nodes: readonly Node[];
  readonly consumer: Consumer;
}

async function openSide(
  { schedules, every, nodes: count }: Parameters,
  aof: boolean,
  options: StageOptions = {},
): Promise<Side> {
  const nodeArgs = (stage: Stage) => [...MISFIRE_THRESHOLD, ...(options.nodeArgs?.(stage) ?? [])];
  const stage = await openStage(aof, { nodeArgs });
  try {
    const nodes = await stage.startNodes(count);
    const consumer = await startConsumer(stage, { schedules, everyMs: every * 1_000, drain: true });
    return { stage, nodes, consumer };
  } catch (error) {
    await stage.close();
    throw error;
  }
}

async function compare(
  plain: Side,
  journal: Side,
  parameters: Parameters,
  say: (line: string) => void,
): Promise<Measurement> {
  const { schedules, every, seconds, rounds = BURSTS } = parameters;
  const sides = [plain, journal];
  for (const side of sides) await put(side, schedules, `{"every":${every}}`);
  await awaitJournals(journal.nodes);
  await sleep(WARM_UP_MS);
  // At the same time, so that both have the same machine.
  const [plainSteady, journalSteady] = await Promise.all(sides.map((side) => measureWindow(side.stage, side, seconds)));
  say(`steady: ${Math.round(plainSteady!.rate)}/s without, ${Math.round(journalSteady!.rate)}/s with`);

  await Promise.all(sides.map((side) => side.consumer.stop()));
  const phaseMs = Math.floor(await redisNowMs(plain.stage.redis)) % PERIOD_MS;
  const timing = (at: number) =>
    `{"every":${PERIOD_MS / 1_000},"phase":${((phaseMs + at * APART_MS) % PERIOD_MS) / 1_000}}`;
  for (const [at, side] of sides.entries()) await put(side, schedules, timing(at));
  await awaitJournals(journal.nodes);
  const firstMs = nextOf(phaseMs, (await redisNowMs(plain.stage.redis)) + APART_MS);
  const drained = await drainInTurn(sides, schedules, firstMs, rounds);
  const [plainRate, journalRate] = drained.map((times) => schedules / (median(times) / 1_000));
  return {
    figures: {
      steady_kept_share: journalSteady!.rate / plainSteady!.rate,
      burst_kept_share: journalRate! / plainRate!,
      plain_steady_rate_per_s: plainSteady!.rate,
      journal_steady_rate_per_s: journalSteady!.rate,
      plain_dispatch_p99_ms: plainSteady!.dispatch.p99,
      journal_dispatch_p99_ms: journalSteady!.dispatch.p99,
      plain_cpu_cores: plainSteady!.cpu.redis + plainSteady!.cpu.nodes,
      journal_cpu_cores: journalSteady!.cpu.redis + journalSteady!.cpu.nodes,
      plain_burst_rate_per_s: plainRate!,
      rate_per_s: journalRate!,
    },
    percentiles: { plain_dispatch: plainSteady!.dispatch, journal_dispatch: journalSteady!.dispatch },
  };
}

async function put(side: Side, schedules: number, schedule: string): Promise<void> {
  await register(side.nodes[0]!.api, loadLines({ to: schedules, schedule }));
}

/** The first instant of this grid at or after `atMs`. */
function nextOf(phaseMs: number, atMs: number): number {
  return phaseMs + Math.ceil((atMs - phaseMs) / PERIOD_MS) * PERIOD_MS;
}

/** How long each side took for each of its bursts, ms. */
async function drainInTurn(
  sides: readonly Side[],
  schedules: number,
  firstMs: number,
  bursts: number,
): Promise<number[][]> {
  const drained: number[][] = sides.map(() => []);
  for (let burst = 0; burst < bursts; burst++) {
    for (const [at, { stage }] of sides.entries()) {
      const dueMs = firstMs + burst * PERIOD_MS + at * APART_MS;
      await sleep(dueMs - EMPTIED_MS - (await redisNowMs(stage.redis)));
      await stage.redis.unlink(QUEUE);
      drained[at]!.push((await queueFull(stage.redis, schedules, dueMs)) - dueMs);
    }
  }
  return drained;
}
