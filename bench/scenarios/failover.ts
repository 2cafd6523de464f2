import { setTimeout as sleep } from 'node:timers/promises';
import {
  accountFigures,
  measureWindow,
  type RunningLoad,
  readStats,
  startIntervalLoad,
  windowMeasurement,
} from '../interval-load.ts';
import type { Node } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { awaitRing, listNodes, listShards, openStage } from '../stage.ts';

/** How long a node is suspended, and how long before that a window begins, ms. */
const SUSPENDED_MS = 5_000;
const BEFORE_MS = 1_000;

export const failover: Scenario = {
  name: 'failover',
  doc: 'kill -9 of one node under load, then SIGSTOP of another for 5 s',
  defaults: { schedules: 150_000, every: 10, seconds: 12, nodes: 3 },
  aof: 'both',
  targets: [
    { figure: 'kill_dispatch_max_ms', atMost: 200 },
    { figure: 'suspend_dispatch_max_ms', atMost: 200 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
    { figure: 'misfired', atMost: 0 },
  ],
  shown: ['kill_outside_max_ms', 'suspend_outside_max_ms', 'accounted'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    const stage = await openStage(aof);
    try {
      const load = await startIntervalLoad(stage, parameters);
      await sleep(load.warmUpSec * 1_000);
      await load.consumer.open();
      const quiet = await measureWindow(stage, load, parameters.seconds);

      const killed = await busiestNode(load);
      say(`kill -9 of node ${killed.pid}`);
      const survivors = { ...load, nodes: load.nodes.filter((node) => node !== killed) };
      const afterKill = await measureWindow(stage, survivors, parameters.seconds, async () => {
        await sleep(BEFORE_MS);
        killed.child.kill('SIGKILL');
      });

      await awaitRing(survivors.nodes);
      const replaced = { ...load, nodes: [...survivors.nodes, ...(await stage.startNodes(1, survivors.nodes))] };
      const suspended = await busiestNode(replaced);
      say(`SIGSTOP of node ${suspended.pid} for ${SUSPENDED_MS / 1_000} s`);
      const afterSuspension = await measureWindow(stage, replaced, parameters.seconds, async () => {
        await sleep(BEFORE_MS);
        suspended.child.kill('SIGSTOP');
        await sleep(SUSPENDED_MS);
        suspended.child.kill('SIGCONT');
      });

      const account = await load.consumer.close();
      const { misfired } = await readStats(survivors.nodes[0]!);
      const { figures, percentiles } = windowMeasurement(quiet, {
        kill_dispatch_max_ms: afterKill.dispatch.max,
        kill_outside_max_ms: afterKill.outside.max,
        suspend_dispatch_max_ms: afterSuspension.dispatch.max,
        suspend_outside_max_ms: afterSuspension.outside.max,
        accounted: account.verdict.seen,
        ...accountFigures(account),
        misfired,
      });
      return {
        figures,
        percentiles: {
          ...percentiles,
          kill_dispatch: afterKill.dispatch,
          kill_outside: afterKill.outside,
          suspend_dispatch: afterSuspension.dispatch,
          suspend_outside: afterSuspension.outside,
        },
      };
    } finally {
      await stage.close();
    }
  },
};

/** The node that most depends on: the one that owns the most shards. */
async function busiestNode({ nodes }: Pick<RunningLoad, 'nodes'>): Promise<Node> {
  const api = nodes[0]!.api;
  const [listed, shards] = await Promise.all([listNodes(api), listShards(api)]);
  const owned = (node: Node) => {
    const id = listed.find((entry) => entry.pid === node.pid)?.id;
    return shards.filter((shard) => shard.owner === id).length;
  };
  return nodes.toSorted((a, b) => owned(b) - owned(a))[0]!;
}
