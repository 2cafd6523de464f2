import { type Drained, drain } from '../drain.ts';
import { median } from '../median.ts';
import { bullmqRate } from '../peers/bullmq.ts';
import { celeryRate, celeryVersion } from '../peers/celery.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';
import { dispatchedMessage } from './limit.ts';

/** Acks early should keep at least this share of what acks late reach. */
const EARLY_SHARE = 0.8;
/** Rounds in which Ringbeat, BullMQ and Celery take turns, by default. */
const ROUNDS = 3;
/** The slower ones get so many times fewer messages. */
const BULLMQ_PART = 4;
const CELERY_PART = 20;

export const worker: Scenario = {
  name: 'worker',
  doc: "one bundled worker drains messages of a task that does nothing, in turns with BullMQ's and Celery's",
  defaults: { schedules: 200_000, every: 10, seconds: 0, nodes: 1 },
  targets: [
    { figure: 'noop_rate_per_s', atLeast: 60_000 },
    { figure: 'noop_results_rate_per_s', atLeast: 35_000 },
    { figure: 'bullmq_ratio', atLeast: 2.5 },
    { figure: 'celery_ratio', atLeast: 30 },
    { figure: 'late_rate_per_s', atLeast: 50_000 },
    { figure: 'late_results_rate_per_s', atLeast: 30_000 },
    { figure: 'early_share', atLeast: EARLY_SHARE },
    { figure: 'early_results_share', atLeast: EARLY_SHARE },
    { figure: 'missing_results', atMost: 0 },
  ],
  shown: ['bullmq_rate_per_s', 'celery_rate_per_s', 'early_rate_per_s', 'early_results_rate_per_s'],
  rate: 'noop_rate_per_s',
  async run({ schedules: messages, rounds = ROUNDS }, aof, say) {
    say(`Celery ${celeryVersion()}`);
    const stage = await openStage(aof);
    try {
      const sample = (await dispatchedMessage(stage)).toString();
      const rate = async (what: string, args: readonly string[], results: boolean) => {
        const drained = await drain(stage, { sample, task: 'bench.noop', results, messages, args });
        say(`${what}, ${results ? 'with' : 'without'} results: ${Math.round(drained.rate)}/s`);
        return drained;
      };
      const noop: Drained[] = [];
      const noopResults: Drained[] = [];
      const bullmq: number[] = [];
      const celery: number[] = [];
      for (let round = 1; round <= rounds; round++) {
        noop.push(await rate('c = 1,000', ['-c', '1000'], false));
        bullmq.push(await bullmqRate(stage, part(messages, BULLMQ_PART)));
        celery.push(await celeryRate(stage, sample, part(messages, CELERY_PART)));
        noopResults.push(await rate('c = 1,000', ['-c', '1000'], true));
        say(`BullMQ ${Math.round(bullmq.at(-1)!)}/s, Celery ${Math.round(celery.at(-1)!)}/s`);
      }
      const late = await rate('acks late', ['--acks-late'], false);
      const early = await rate('acks early', [], false);
      const lateResults = await rate('acks late', ['--acks-late'], true);
      const earlyResults = await rate('acks early', [], true);
      const noopRate = median(noop.map((drained) => drained.rate));
      const stored = [...noopResults, lateResults, earlyResults];
      return {
        figures: {
          noop_rate_per_s: noopRate,
          noop_results_rate_per_s: median(noopResults.map((drained) => drained.rate)),
          bullmq_rate_per_s: median(bullmq),
          celery_rate_per_s: median(celery),
          bullmq_ratio: noopRate / median(bullmq),
          celery_ratio: noopRate / median(celery),
          noop_worker_cpu_cores: median(noop.map((drained) => drained.workerCpu)),
          noop_redis_cpu_cores: median(noop.map((drained) => drained.redisCpu)),
          late_rate_per_s: late.rate,
          early_rate_per_s: early.rate,
          late_results_rate_per_s: lateResults.rate,
          early_results_rate_per_s: earlyResults.rate,
          early_share: early.rate / late.rate,
          early_results_share: earlyResults.rate / lateResults.rate,
          late_worker_cpu_cores: late.workerCpu,
          late_redis_cpu_cores: late.redisCpu,
          late_results_worker_cpu_cores: lateResults.workerCpu,
          late_results_redis_cpu_cores: lateResults.redisCpu,
          missing_results: stored.reduce((sum, drained) => sum + drained.missingResults, 0),
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};

function part(messages: number, of: number): number {
  return Math.ceil(messages / of);
}
