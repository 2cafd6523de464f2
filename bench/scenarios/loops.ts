import { setTimeout as sleep } from 'node:timers/promises';
import { dispatchLateness, readStats } from '../interval-load.ts';
import { loadLines, register } from '../load.ts';
import { LoopLedger } from '../loop-ledger.ts';
import { awaitValue, watchCpu } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage, redisNowMs, type Stage } from '../stage.ts';
import { type BundledWorker, startWorker } from '../worker-process.ts';

/** Time that is left for registering before the first loop starts: a fixed part and one for each, ms. */
const LEAD_MS = { fixed: 2_000, perLoop: 0.08 };
/** Runs at once in a worker. */
const CONCURRENCY = 500;
/** A loop that was not entered for its delay and so much more is lost, s. */
const LOST_SEC = 5;
/** How long the last loop is waited for after the kill, ms. */
const BACK_MS = 30_000;
/** By then a worker has reported everything that it has seen, ms. */
const REPORTED_MS = 500;

export const loops: Scenario = {
  name: 'loops',
  doc: 'self-rescheduling loops with a bundled worker: drift of each cycle; then kill -9 of the worker, with a new one in its place',
  defaults: { schedules: 150_000, every: 10, seconds: 40, nodes: 3 },
  targets: [
    { figure: 'rate_share', atLeast: 0.99 },
    { figure: 'drift_p99_ms', atMost: 25 },
    { figure: 'kill_back_s', atMost: 11 },
    { figure: 'overlapped', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
    { figure: 'lost', atMost: 0 },
  ],
  shown: ['rate_per_s', 'drift_p50_ms', 'start_p99_ms', 'dispatch_p99_ms', 'kill_recovered'],
  rate: 'rate_per_s',
  async run({ schedules, every, seconds, nodes: nodeCount }, aof, say) {
    const stage = await openStage(aof);
    const ledger = new LoopLedger(schedules, every * 1_000);
    try {
      const nodes = await stage.startNodes(nodeCount);
      const worker = await startLoopWorker(stage, ledger);
      const fromMs = Math.ceil((await redisNowMs(stage.redis)) + LEAD_MS.fixed + LEAD_MS.perLoop * schedules);
      const startMs = (index: number) => fromMs + Math.floor((index / schedules) * every * 1_000);
      const registered = await register(
        nodes[0]!.api,
        loadLines({
          to: schedules,
          task: 'bench.loop',
          schedule: `{"after":${every}}`,
          more: (index) =>
            `,"start":"${new Date(startMs(index)).toISOString()}","options":{"worker":"ringbeat","ignore_result":true}`,
        }),
      );
      say(`registered ${registered.created} in ${registered.seconds.toFixed(1)} s`);
      // Every loop has run once by then.
      await sleep(fromMs - (await redisNowMs(stage.redis)) + (every + 1) * 1_000);

      const openedAtMs = wallMs();
      ledger.open(openedAtMs);
      const cpu = watchCpu([stage.server.pid, worker.pid, ...nodes.map((node) => node.pid)]);
      await sleep(seconds * 1_000);
      const elapsedSec = (wallMs() - openedAtMs) / 1_000;
      const [redisCpu, workerCpu, ...nodeCpus] = cpu.stop();
      const steady = ledger.read();
      const rate = steady.runs / elapsedSec;
      const lost = ledger.countIdle(wallMs() - (every + LOST_SEC) * 1_000);
      const dispatch = await dispatchLateness(stage, openedAtMs);
      say(`${Math.round(rate)}/s, drift p99 ${steady.drift.p99} ms; kill -9 of worker ${worker.pid}`);

      const { recovered } = await readStats(nodes[0]!);
      const killedAtMs = wallMs();
      ledger.open(killedAtMs);
      worker.kill();
      await startLoopWorker(stage, ledger);
      await awaitValue(
        'every loop running again',
        () => (ledger.read().loops === schedules || wallMs() > killedAtMs + BACK_MS ? true : null),
        BACK_MS + 1_000,
        100,
      );
      await sleep(REPORTED_MS);
      const after = ledger.read();
      return {
        figures: {
          rate_per_s: rate,
          rate_share: rate / (schedules / every),
          drift_p50_ms: steady.drift.p50,
          drift_p99_ms: steady.drift.p99,
          drift_p999_ms: steady.drift.p999,
          drift_max_ms: steady.drift.max,
          start_p99_ms: steady.startLateness.p99,
          dispatch_p99_ms: dispatch.p99,
          redis_cpu_cores: redisCpu!,
          nodes_cpu_cores: nodeCpus.reduce((sum, share) => sum + share, 0),
          worker_cpu_cores: workerCpu!,
          kill_back_s: (after.lastCameMs - killedAtMs) / 1_000,
          kill_recovered: (await readStats(nodes[0]!)).recovered - recovered,
          // A run that had ended and was not yet settled when its worker was killed runs again.
          kill_run_again: after.doubled,
          overlapped: steady.overlapped + after.overlapped,
          doubled: steady.doubled,
          strange: steady.strange + after.strange,
          lost: lost + (schedules - after.loops),
        },
        percentiles: { drift: steady.drift, start: steady.startLateness, dispatch },
      };
    } finally {
      await stage.close();
    }
  },
};

async function startLoopWorker(stage: Stage, ledger: LoopLedger): Promise<BundledWorker> {
  const worker = await startWorker(stage, ['-c', String(CONCURRENCY)]);
  worker.onLoopRun((run) => ledger.record(run));
  return worker;
}

/** The clock that the worker's tasks read. */
function wallMs(): number {
  return performance.timeOrigin + performance.now();
}
