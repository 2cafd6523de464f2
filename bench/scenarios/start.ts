import { setTimeout as sleep } from 'node:timers/promises';
import { queueLists } from '../../lua/keys.ts';
import { startConsumer } from '../consumer-process.ts';
import { loadLines, register } from '../load.ts';
import { awaitValue, startNode } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage, QUEUE } from '../stage.ts';

/** The same rate of due occurrences from so much fewer schedules, to compare with. */
const FEWER = 1_000;

export const start: Scenario = {
  name: 'start',
  doc: 'one node started on a namespace full of schedules: time from the start of its process to its first dispatch',
  defaults: { schedules: 1_000_000, every: 60, seconds: 0, nodes: 1 },
  targets: [{ figure: 'first_dispatch_s', atMost: 1 }],
  shown: ['ready_s', 'few_first_dispatch_s'],
  rate: 'rate_per_s',
  async run({ schedules, every }, aof, say) {
    const fewSchedules = Math.max(1, Math.round(schedules / FEWER));
    const few = await firstDispatch(fewSchedules, Math.max(0.1, Math.round((every / FEWER) * 1_000) / 1_000), aof);
    say(`${few.firstDispatchSec.toFixed(3)} s with ${fewSchedules}`);
    const many = await firstDispatch(schedules, every, aof);
    return {
      figures: {
        first_dispatch_s: many.firstDispatchSec,
        ready_s: many.readySec,
        few_first_dispatch_s: few.firstDispatchSec,
        few_ready_s: few.readySec,
        few_schedules: fewSchedules,
        rate_per_s: many.registerRate,
      },
      percentiles: {},
    };
  },
};

interface Start {
  readonly firstDispatchSec: number;
  readonly readySec: number;
  readonly registerRate: number;
}

async function firstDispatch(schedules: number, every: number, aof: boolean): Promise<Start> {
  const stage = await openStage(aof);
  try {
    const [node] = await stage.startNodes(1);
    const consumer = await startConsumer(stage, { schedules, everyMs: every * 1_000, drain: true });
    const registered = await register(node!.api, loadLines({ to: schedules, schedule: `{"every":${every}}` }));
    await node!.child.stop(10_000);
    await consumer.stop();
    await stage.redis.del(...queueLists(QUEUE));
    // The machine settles, and something is due when the node comes.
    await sleep(1_000);

    const startedAtMs = performance.now();
    const starting = startNode(stage.server.url);
    stage.onClose(async () => (await starting).child.stop(10_000));
    const isDispatched = async () => ((await stage.redis.llen(QUEUE)) > 0 ? performance.now() : null);
    const [dispatchedAtMs, readyAtMs] = await Promise.all([
      awaitValue('the first dispatch', isDispatched, 60_000, 1),
      starting.then(() => performance.now()),
    ]);
    return {
      firstDispatchSec: (dispatchedAtMs - startedAtMs) / 1_000,
      readySec: (readyAtMs - startedAtMs) / 1_000,
      registerRate: schedules / registered.seconds,
    };
  } finally {
    await stage.close();
  }
}
