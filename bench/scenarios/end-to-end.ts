import { setTimeout as sleep } from 'node:timers/promises';
import { KOMBU } from '../../lua/keys.ts';
import { dispatchLateness } from '../interval-load.ts';
import { loadLines, register } from '../load.ts';
import { awaitValue, watchCpu } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage, QUEUE, redisNowMs } from '../stage.ts';
import { startWorker } from '../worker-process.ts';

/** The account begins so much after the worker was told when, ms: it must not have run anything that counts. */
const LEAD_MS = 500;
/** Pause between two looks at the queue's length, ms. */
const LOOK_MS = 5;

export const endToEnd: Scenario = {
  name: 'end-to-end',
  doc: 'spread, with the bundled worker running the tasks',
  defaults: { schedules: 150_000, every: 10, seconds: 60, nodes: 3 },
  targets: [
    { figure: 'start_p99_ms', atMost: 15 },
    { figure: 'queue_max', atMost: 2_000 },
    { figure: 'rate_share', atLeast: 0.99 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
  ],
  shown: ['rate_per_s', 'dispatch_p99_ms'],
  rate: 'rate_per_s',
  async run({ schedules, every, seconds, nodes: nodeCount }, aof) {
    const stage = await openStage(aof);
    try {
      const nodes = await stage.startNodes(nodeCount);
      const worker = await startWorker(stage, [], { schedules, everyMs: every * 1_000 });
      await register(nodes[0]!.api, loadLines({ to: schedules, schedule: `{"every":${every}}` }));
      await sleep((every + 2) * 1_000);

      const fromMs = (await redisNowMs(stage.redis)) + LEAD_MS;
      await worker.ask({ what: 'open', atMs: fromMs });
      await sleep(fromMs - (await redisNowMs(stage.redis)));
      const before = await worker.ask({ what: 'lap', atMs: fromMs });
      const cpu = watchCpu([stage.server.pid, worker.pid, ...nodes.map((node) => node.pid)]);
      let queueMax = 0;
      while ((await redisNowMs(stage.redis)) < fromMs + seconds * 1_000) {
        queueMax = Math.max(queueMax, await stage.redis.llen(QUEUE));
        await sleep(LOOK_MS);
      }
      const toMs = await redisNowMs(stage.redis);
      const [redisCpu, workerCpu, ...nodeCpus] = cpu.stop();
      const after = await worker.ask({ what: 'lap', atMs: toMs });
      const dispatch = await dispatchLateness(stage, fromMs);
      // Everything due before the end is dispatched by then; after that only the worker has something left to do.
      await sleep(1_000);
      await Promise.all(nodes.map((node) => node.child.stop(10_000)));
      await awaitValue(
        'the worker emptying the queue',
        async () => ((await stage.redis.llen(QUEUE)) + (await stage.redis.hlen(KOMBU.unacked)) === 0 ? true : null),
        120_000,
      );
      // Acks early: the last ones are acked and not yet entered.
      await sleep(200);
      const { verdict } = await worker.ask({ what: 'read', atMs: toMs });

      const rate = (after.ran - before.ran) / ((toMs - fromMs) / 1_000);
      return {
        figures: {
          rate_per_s: rate,
          rate_share: rate / (schedules / every),
          start_p50_ms: after.startLateness.p50,
          start_p99_ms: after.startLateness.p99,
          start_p999_ms: after.startLateness.p999,
          start_max_ms: after.startLateness.max,
          dispatch_p99_ms: dispatch.p99,
          dispatch_p999_ms: dispatch.p999,
          dispatch_max_ms: dispatch.max,
          queue_max: queueMax,
          redis_cpu_cores: redisCpu!,
          nodes_cpu_cores: nodeCpus.reduce((sum, share) => sum + share, 0),
          worker_cpu_cores: workerCpu!,
          lost: verdict.lost,
          doubled: verdict.doubled,
          strange: verdict.strange,
        },
        percentiles: { start: after.startLateness, dispatch },
      };
    } finally {
      await stage.close();
    }
  },
};
