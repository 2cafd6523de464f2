import { setTimeout as sleep } from 'node:timers/promises';
import { startConsumer } from '../consumer-process.ts';
import { accountFigures, measureWindow, readStats, windowMeasurement } from '../interval-load.ts';
import { loadLines, register } from '../load.ts';
import { residentBytes } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage, redisNowMs, usedMemory } from '../stage.ts';

/** This share is registered beforehand, to see how long all will take; so much more is left for them before the first is due. */
const PROBE_SHARE = 0.05;
const LEAD = { factor: 1.2, fixedMs: 3_000 };
/** No schedule of the ledger has a second occurrence. */
const NEVER_MS = Number.MAX_SAFE_INTEGER;
const MIB = 2 ** 20;

export const oneShots: Scenario = {
  name: 'one-shots',
  doc: 'delayed one-shots: memory of each while they wait, then lateness while they come due, spread over --seconds',
  defaults: { schedules: 1_000_000, every: 3_600, seconds: 100, nodes: 3 },
  targets: [
    { figure: 'one_shot_bytes', atMost: 450 },
    { figure: 'dispatch_p99_ms', atMost: 5 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
    { figure: 'early', atMost: 0 },
  ],
  shown: ['rate_per_s', 'register_s', 'node_mib', 'outside_p99_ms'],
  rate: 'rate_per_s',
  async run({ schedules, seconds, nodes: nodeCount }, aof, say) {
    const stage = await openStage(aof);
    try {
      const nodes = await stage.startNodes(nodeCount);
      const consumer = await startConsumer(stage, { schedules, everyMs: NEVER_MS });
      const bytesBefore = await usedMemory(stage.redis);
      const probe = { to: Math.ceil(schedules * PROBE_SHARE), schedule: '{"in":86400}' };
      const { seconds: probeSec } = await register(nodes[0]!.api, loadLines(probe));
      const leadMs = (probeSec / PROBE_SHARE) * 1_000 * LEAD.factor + LEAD.fixedMs;
      const fromMs = Math.ceil((await redisNowMs(stage.redis)) + leadMs);
      const dueMs = (index: number) => fromMs + Math.floor((index / schedules) * seconds * 1_000);
      const at = (index: number) => `{"at":"${new Date(dueMs(index)).toISOString()}"}`;
      const registered = await register(nodes[0]!.api, loadLines({ to: schedules, schedule: at }));
      const bytes = ((await usedMemory(stage.redis)) - bytesBefore) / schedules;
      say(`registered ${schedules} in ${registered.seconds.toFixed(1)} s, ${bytes.toFixed(1)} B each`);

      await consumer.open();
      const leftMs = fromMs - (await redisNowMs(stage.redis));
      if (leftMs < 0) throw new Error('Registering took longer than the time left for it.');
      await sleep(leftMs);
      const window = await measureWindow(stage, { nodes, consumer }, seconds);
      const nodeMib = Math.max(...nodes.map((node) => residentBytes(node.pid))) / MIB;
      const account = await consumer.close();
      const { misfired } = await readStats(nodes[0]!);
      const { seen, doubled, strange } = account.verdict;
      return windowMeasurement(window, {
        one_shot_bytes: bytes,
        register_s: registered.seconds,
        node_mib: nodeMib,
        ...accountFigures(account),
        lost: schedules - (seen - doubled - strange),
        early: window.report.early,
        misfired,
      });
    } finally {
      await stage.close();
    }
  },
};
