import { drain } from '../drain.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';
import { SPIN_MS } from '../task-times.ts';
import { dispatchedMessage } from './limit.ts';

const THREADS = 2;

export const threads: Scenario = {
  name: 'threads',
  doc: 'one bundled worker with two threads runs tasks that compute for 1 ms each',
  defaults: { schedules: 40_000, every: 10, seconds: 0, nodes: 1 },
  targets: [{ figure: 'busy_share', atLeast: 0.9 }],
  shown: ['rate_per_s', 'worker_cpu_cores'],
  rate: 'rate_per_s',
  async run({ schedules: messages }, aof) {
    const stage = await openStage(aof);
    try {
      const sample = (await dispatchedMessage(stage)).toString();
      // With acks late nothing is left in `unacked` only when the last task has ended.
      const args = ['--pool', 'threads', '-c', String(THREADS), '--acks-late'];
      const drained = await drain(stage, { sample, task: 'bench.spin', results: false, messages, args });
      return {
        figures: {
          // What a task took beyond its time, because something else had the core, does not count as busy.
          busy_share: (messages * SPIN_MS) / 1_000 / drained.seconds / THREADS,
          rate_per_s: drained.rate,
          worker_cpu_cores: drained.workerCpu,
          redis_cpu_cores: drained.redisCpu,
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};
