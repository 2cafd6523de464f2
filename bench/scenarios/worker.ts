import { randomUUID } from 'node:crypto';
import { KOMBU } from '../../lua/keys.ts';
import { awaitValue, watchCpu } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage, QUEUE, type Stage } from '../stage.ts';
import { startWorker } from '../worker-process.ts';
import { dispatchedMessage } from './limit.ts';

/** Acks early should keep at least this share of what acks late reach. */
const EARLY_SHARE = 0.8;
/** Pause between two looks, ms. */
const LOOK_MS = 2;

export const worker: Scenario = {
  name: 'worker',
  doc: 'one bundled worker drains messages of a task that does nothing, with and without results, acks late and early',
  defaults: { schedules: 200_000, every: 10, seconds: 0, nodes: 1 },
  targets: [
    { figure: 'late_rate_per_s', atLeast: 50_000 },
    { figure: 'late_results_rate_per_s', atLeast: 30_000 },
    { figure: 'early_share', atLeast: EARLY_SHARE },
    { figure: 'early_results_share', atLeast: EARLY_SHARE },
  ],
  shown: ['early_rate_per_s', 'early_results_rate_per_s'],
  rate: 'late_rate_per_s',
  async run({ schedules: messages }, aof, say) {
    const stage = await openStage(aof);
    try {
      const sample = (await dispatchedMessage(stage)).toString();
      const rate = async (acks: 'late' | 'early', results: boolean) => {
        const drained = await drain(stage, sample, messages, acks, results);
        say(`acks ${acks}, ${results ? 'with' : 'without'} results: ${Math.round(drained.rate)}/s`);
        return drained;
      };
      const late = await rate('late', false);
      const early = await rate('early', false);
      const lateResults = await rate('late', true);
      const earlyResults = await rate('early', true);
      return {
        figures: {
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
          missing_results: lateResults.missingResults + earlyResults.missingResults,
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};

interface Drained {
  readonly rate: number;
  readonly workerCpu: number;
  readonly redisCpu: number;
  readonly missingResults: number;
}

/**
 * From the first message that leaves the queue to the moment when queue and `unacked` are empty and every result is
 * stored. The worker runs before the queue is filled by one RENAME, so that its start is not counted.
 */
async function drain(
  stage: Stage,
  sample: string,
  messages: number,
  acks: 'late' | 'early',
  results: boolean,
): Promise<Drained> {
  const { redis } = stage;
  const ids = await fill(stage, `${QUEUE}-ahead`, sample, messages, results);
  const worker = await startWorker(stage, acks === 'late' ? ['--acks-late'] : []);
  const keysBefore = await redis.dbsize();
  const cpu = watchCpu([worker.pid, stage.server.pid]);
  const startedAtMs = performance.now();
  await redis.rename(`${QUEUE}-ahead`, QUEUE);
  const endedAtMs = await awaitValue(
    'the queue drained',
    async () => {
      const replies = await redis.pipeline().llen(QUEUE).hlen(KOMBU.unacked).dbsize().exec();
      const [queued, unacked, keys] = (replies ?? []).map(([, reply]) => Number(reply));
      const isStored = !results || keys! >= keysBefore - 1 + messages;
      return queued === 0 && unacked === 0 && isStored ? performance.now() : null;
    },
    120_000,
    LOOK_MS,
  );
  const [workerCpu, redisCpu] = cpu.stop();
  await worker.stop();
  const missingResults = results ? ids.length - (await countResults(stage, ids)) : 0;
  await redis.flushall();
  return {
    rate: messages / ((endedAtMs - startedAtMs) / 1_000),
    workerCpu: workerCpu!,
    redisCpu: redisCpu!,
    missingResults,
  };
}

/** Messages as beat nodes send them, each with an id and a delivery tag of its own, for a task that does nothing; gives the ids. */
async function fill(stage: Stage, key: string, sample: string, messages: number, results: boolean): Promise<string[]> {
  const id = /"id": "([^"]+)"/.exec(sample)?.[1];
  const tag = /"delivery_tag": "([^"]+)"/.exec(sample)?.[1];
  if (id === undefined || tag === undefined) throw new Error(`No message: ${sample}`);
  const pattern = sample
    .replace('"bench.check"', '"bench.noop"')
    .replace('"ignore_result": true', `"ignore_result": ${!results}`);
  const ids: string[] = [];
  while (ids.length < messages) {
    const batch = Array.from({ length: Math.min(1_000, messages - ids.length) }, () => {
      const own = randomUUID();
      ids.push(own);
      return pattern.replaceAll(id, own).replace(tag, randomUUID());
    });
    await stage.redis.lpush(key, ...batch);
  }
  return ids;
}

async function countResults(stage: Stage, ids: readonly string[]): Promise<number> {
  let found = 0;
  for (let at = 0; at < ids.length; at += 1_000) {
    const keys = ids.slice(at, at + 1_000).map((id) => `celery-task-meta-${id}`);
    found += await stage.redis.exists(...keys);
  }
  return found;
}
