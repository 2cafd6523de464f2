import { Agent, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { accountFigures, measureWindow, startIntervalLoad, windowMeasurement } from '../interval-load.ts';
import { loadLines, loadSpec, register } from '../load.ts';
import { scheduleId } from '../occurrence.ts';
import type { Node } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

const UPSERTS_PER_SEC = 1_000;
/** How often a batch of them is sent, ms. */
const EVERY_MS = 50;
const BATCH = (UPSERTS_PER_SEC * EVERY_MS) / 1_000;

export const churn: Scenario = {
  name: 'churn',
  doc: `${UPSERTS_PER_SEC} upserts a second of running schedules, as NDJSON and as single PUTs, against the same load without`,
  defaults: { schedules: 150_000, every: 10, seconds: 20, nodes: 3 },
  // Less than 2 ms, in whole ms.
  targets: [
    { figure: 'ndjson_p99_moved_ms', atMost: 1 },
    { figure: 'put_p99_moved_ms', atMost: 1 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
  ],
  shown: ['quiet_dispatch_p99_ms'],
  rate: 'rate_per_s',
  async run(parameters, aof) {
    const stage = await openStage(aof);
    const agent = new Agent({ keepAlive: true, maxSockets: 8 });
    try {
      const load = await startIntervalLoad(stage, parameters);
      await sleep(load.warmUpSec * 1_000);
      await load.consumer.open();
      const { schedules, every, seconds } = parameters;
      const pick = () => Math.floor(Math.random() * schedules);
      const schedule = `{"every":${every}}`;
      let revision = 0;
      const args = (index: number) => `[${index},${revision++}]`;

      const quiet = await measureWindow(stage, load, seconds);
      const ndjson = { upserts: 0 };
      const asLines = await measureWindow(stage, load, seconds, async () => {
        ndjson.upserts = await steadily(seconds, load.nodes, async (node) => {
          const { updated } = await register(node.api, loadLines({ to: BATCH, schedule, args, pick }));
          return updated;
        });
      });
      const put = { upserts: 0 };
      const asPuts = await measureWindow(stage, load, seconds, async () => {
        put.upserts = await steadily(seconds, load.nodes, async (node) => {
          const outcomes = Array.from({ length: BATCH }, () => {
            const index = pick();
            return putSpec(agent, node.api, scheduleId(index), loadSpec(index, schedule, args(index)));
          });
          return (await Promise.all(outcomes)).length;
        });
      });

      const account = await load.consumer.close();
      const { figures, percentiles } = windowMeasurement(asPuts, {
        quiet_dispatch_p99_ms: quiet.dispatch.p99,
        quiet_outside_p99_ms: quiet.outside.p99,
        ndjson_upserts_per_s: ndjson.upserts / seconds,
        ndjson_p99_moved_ms: asLines.dispatch.p99 - quiet.dispatch.p99,
        ndjson_outside_p99_moved_ms: asLines.outside.p99 - quiet.outside.p99,
        put_upserts_per_s: put.upserts / seconds,
        put_p99_moved_ms: asPuts.dispatch.p99 - quiet.dispatch.p99,
        put_outside_p99_moved_ms: asPuts.outside.p99 - quiet.outside.p99,
        ...accountFigures(account),
      });
      return {
        figures,
        percentiles: {
          ...percentiles,
          quiet_dispatch: quiet.dispatch,
          quiet_outside: quiet.outside,
          ndjson_dispatch: asLines.dispatch,
          ndjson_outside: asLines.outside,
        },
      };
    } finally {
      agent.destroy();
      await stage.close();
    }
  },
};

/** Sends a batch every `EVERY_MS` for `seconds`, to the nodes in turn, whether or not the last one was answered; sums what `send` gives. */
async function steadily(
  seconds: number,
  nodes: readonly Node[],
  send: (node: Node) => Promise<number>,
): Promise<number> {
  const startedAtMs = performance.now();
  const sent: Promise<number>[] = [];
  for (let batch = 0; batch * EVERY_MS < seconds * 1_000; batch++) {
    await sleep(startedAtMs + batch * EVERY_MS - performance.now());
    sent.push(send(nodes[batch % nodes.length]!));
  }
  return (await Promise.all(sent)).reduce((sum, count) => sum + count, 0);
}

function putSpec(agent: Agent, api: string, id: string, spec: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const put = request(`${api}/v1/schedules/${encodeURIComponent(id)}`, {
      agent,
      method: 'PUT',
      headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(spec) },
    });
    put.on('error', reject);
    put.on('response', (response) => {
      response.resume();
      if (response.statusCode === 200) response.on('end', resolve);
      else reject(new Error(`PUT ${id}: ${response.statusCode}`));
    });
    put.end(spec);
  });
}
