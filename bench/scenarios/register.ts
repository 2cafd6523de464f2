import { startConsumer } from '../consumer-process.ts';
import { loadLines, register as post } from '../load.ts';
import { watchCpu } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

export const register: Scenario = {
  name: 'register',
  doc: 'NDJSON over HTTP into a running system, which dispatches what it has so far',
  defaults: { schedules: 150_000, every: 10, seconds: 0, nodes: 3 },
  targets: [{ figure: 'register_s', atMost: 4 }],
  shown: ['rate_per_s', 'unchanged_s'],
  rate: 'rate_per_s',
  async run({ schedules, every, nodes: nodeCount }, aof) {
    const stage = await openStage(aof);
    try {
      const nodes = await stage.startNodes(nodeCount);
      await startConsumer(stage, { schedules, everyMs: every * 1_000, drain: true });
      // Made before the clock starts: a client that has its file ready.
      const lines = [...loadLines({ to: schedules, schedule: `{"every":${every}}` })];
      const cpu = watchCpu([stage.server.pid, nodes[0]!.pid]);
      const first = await post(nodes[0]!.api, lines);
      const [redisCpu, nodeCpu] = cpu.stop();
      const again = await post(nodes[0]!.api, lines);
      if (first.created !== schedules || again.unchanged !== schedules) {
        throw new Error(`Expected ${schedules} created, then unchanged; got ${JSON.stringify({ first, again })}`);
      }
      return {
        figures: {
          register_s: first.seconds,
          rate_per_s: schedules / first.seconds,
          unchanged_s: again.seconds,
          body_bytes: lines.reduce((sum, chunk) => sum + chunk.length, 0),
          redis_cpu_cores: redisCpu!,
          node_cpu_cores: nodeCpu!,
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};
