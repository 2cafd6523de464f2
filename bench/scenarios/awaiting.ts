import { drain } from '../drain.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';
import { dispatchedMessage } from './limit.ts';

/** As many tasks await at once as there are slots; each awaits 100 ms (bench/tasks.ts), so 10,000/s is the most there can be. */
const CONCURRENCY = 1_000;

export const awaiting: Scenario = {
  name: 'awaiting',
  doc: 'one bundled worker with 1,000 slots runs tasks that await 100 ms each',
  defaults: { schedules: 100_000, every: 10, seconds: 0, nodes: 1 },
  targets: [{ figure: 'rate_per_s', atLeast: 9_000 }],
  shown: ['worker_cpu_cores'],
  rate: 'rate_per_s',
  async run({ schedules: messages }, aof) {
    const stage = await openStage(aof);
    try {
      const sample = (await dispatchedMessage(stage)).toString();
      // With acks late nothing is left in `unacked` only when the last task has ended.
      const args = ['-c', String(CONCURRENCY), '--acks-late'];
      const drained = await drain(stage, { sample, task: 'bench.await', results: false, messages, args });
      return {
        figures: {
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
