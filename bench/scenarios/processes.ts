import { drain } from '../drain.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';
import { dispatchedMessage } from './limit.ts';

export const processes: Scenario = {
  name: 'processes',
  doc: 'one bundled worker with two child processes drains messages of a task that does nothing',
  defaults: { schedules: 100_000, every: 10, seconds: 0, nodes: 1 },
  targets: [{ figure: 'rate_per_s', atLeast: 10_000 }],
  shown: ['worker_cpu_cores'],
  rate: 'rate_per_s',
  async run({ schedules: messages }, aof) {
    const stage = await openStage(aof);
    try {
      const sample = (await dispatchedMessage(stage)).toString();
      const args = ['--pool', 'processes', '-c', '2'];
      const drained = await drain(stage, { sample, task: 'bench.noop', results: false, messages, args });
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
