import { setTimeout as sleep } from 'node:timers/promises';
import { loadLines, register } from '../load.ts';
import { type Node, watchCpu } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage, type Stage } from '../stage.ts';

/** What a start or a registration set going is over by then, ms. */
const CALM_MS = 5_000;

export const idle: Scenario = {
  name: 'idle',
  doc: 'nothing due: CPU of Redis and nodes, with nothing registered and with schedules that are due tomorrow',
  defaults: { schedules: 150_000, every: 10, seconds: 30, nodes: 3 },
  targets: [
    { figure: 'empty_cpu_cores', atMost: 0.02 },
    { figure: 'registered_cpu_cores', atMost: 0.02 },
  ],
  rate: 'rate_per_s',
  async run({ schedules, seconds, nodes: nodeCount }, aof) {
    const stage = await openStage(aof);
    try {
      const nodes = await stage.startNodes(nodeCount);
      const empty = await idleCpu(stage, nodes, seconds);
      await register(nodes[0]!.api, loadLines({ to: schedules, schedule: '{"in":86400}' }));
      const registered = await idleCpu(stage, nodes, seconds);
      return {
        figures: {
          empty_cpu_cores: empty.redis + empty.nodes,
          empty_redis_cpu_cores: empty.redis,
          empty_nodes_cpu_cores: empty.nodes,
          registered_cpu_cores: registered.redis + registered.nodes,
          registered_redis_cpu_cores: registered.redis,
          registered_nodes_cpu_cores: registered.nodes,
          rate_per_s: 0,
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};

async function idleCpu(
  stage: Stage,
  nodes: readonly Node[],
  seconds: number,
): Promise<{ redis: number; nodes: number }> {
  await sleep(CALM_MS);
  const cpu = watchCpu([stage.server.pid, ...nodes.map((node) => node.pid)]);
  await sleep(seconds * 1_000);
  const [redis, ...shares] = cpu.stop();
  return { redis: redis!, nodes: shares.reduce((sum, share) => sum + share, 0) };
}
