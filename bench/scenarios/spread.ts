import { setTimeout as sleep } from 'node:timers/promises';
import { accountFigures, measureWindow, readStats, startIntervalLoad, windowMeasurement } from '../interval-load.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

export const spread: Scenario = {
  name: 'spread',
  doc: 'interval schedules spread over their interval: the sustained load',
  defaults: { schedules: 150_000, every: 10, seconds: 60, nodes: 3 },
  aof: 'both',
  targets: [
    { figure: 'rate_share', atLeast: 0.99 },
    { figure: 'dispatch_p99_ms', atMost: 5 },
    { figure: 'dispatch_p999_ms', atMost: 10 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'early', atMost: 0 },
  ],
  shown: ['rate_per_s', 'outside_p99_ms', 'outside_p999_ms', 'redis_cpu_cores', 'nodes_cpu_cores'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    const stage = await openStage(aof);
    try {
      const load = await startIntervalLoad(stage, parameters);
      say(`registered ${load.registered.created} in ${load.registered.seconds.toFixed(1)} s`);
      await sleep(load.warmUpSec * 1_000);
      await load.consumer.open();
      const window = await measureWindow(stage, load, parameters.seconds);
      const account = await load.consumer.close();
      const { misfired, refused } = await readStats(load.nodes[0]!);
      return windowMeasurement(window, {
        rate_share: window.rate / (parameters.schedules / parameters.every),
        queue_max: window.report.longest,
        ...accountFigures(account),
        early: window.report.early,
        misfired,
        refused,
      });
    } finally {
      await stage.close();
    }
  },
};
