import { cronsAt } from '../crons-at.ts';
import { type Burst, instantAhead, judgeBurst, queueFull, registerForInstant } from '../one-instant.ts';
import type { Parameters, Scenario } from '../scenario.ts';
import { countEntries, openStage, shardsOf } from '../stage.ts';

export const crons: Scenario = {
  name: 'crons',
  doc: 'crons due at one instant: of several expressions and zones that meet there, then of one expression',
  defaults: { schedules: 100_000, every: 3_600, seconds: 0, nodes: 3 },
  targets: [
    { figure: 'several_drained_s', atMost: 1 },
    { figure: 'single_drained_s', atMost: 1 },
    { figure: 'claims', atMost: 0 },
    { figure: 'without_next', atMost: 0 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
  ],
  shown: ['several_register_s', 'single_register_s'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    const several = await burstOf(parameters, aof, say, cronsAt);
    const single = await burstOf(parameters, aof, say, (dueMs) => cronsAt(dueMs).slice(0, 1));
    const rate = (burst: Burst) => parameters.schedules / burst.drainedSec;
    const sum = (name: 'claims' | 'withoutNext' | 'lost' | 'doubled' | 'strange') => several[name] + single[name];
    return {
      figures: {
        several_drained_s: several.drainedSec,
        several_dispatch_max_ms: several.dispatch.max,
        several_rate_per_s: rate(several),
        several_register_s: several.registerSec,
        single_drained_s: single.drainedSec,
        single_dispatch_max_ms: single.dispatch.max,
        single_rate_per_s: rate(single),
        single_register_s: single.registerSec,
        rate_per_s: Math.min(rate(several), rate(single)),
        claims: sum('claims'),
        without_next: sum('withoutNext'),
        lost: sum('lost'),
        doubled: sum('doubled'),
        strange: sum('strange'),
      },
      percentiles: { several_dispatch: several.dispatch, single_dispatch: single.dispatch },
    };
  },
};

interface CronBurst extends Burst {
  readonly registerSec: number;
  /** Crons whose next time was still to be computed, before the instant and once all were sent. */
  readonly claims: number;
  /** Crons that were not scheduled again once all were sent. */
  readonly withoutNext: number;
}

async function burstOf(
  { schedules, nodes: nodeCount }: Parameters,
  aof: boolean,
  say: (line: string) => void,
  cronsOf: (dueMs: number) => readonly string[],
): Promise<CronBurst> {
  const stage = await openStage(aof);
  try {
    const [node] = await stage.startNodes(nodeCount);
    const dueMs = await instantAhead(stage, schedules, 1_000);
    const kinds = cronsOf(dueMs);
    const schedule = (index: number) => kinds[index % kinds.length]!;
    const registerSec = await registerForInstant(stage, node!, schedules, dueMs, schedule);
    say(`registered ${schedules} as ${kinds.join(', ')} in ${registerSec.toFixed(1)} s`);
    const shards = await shardsOf(stage.redis);
    const claimsBefore = await countEntries(stage.redis, shards, 'zcard', 'claims');
    const fullAtMs = await queueFull(stage.redis, schedules, dueMs);
    const [claimsAfter, scheduled] = await Promise.all(
      (['claims', 'due'] as const).map((key) => countEntries(stage.redis, shards, 'zcard', key)),
    );
    const burst = await judgeBurst(stage, schedules, dueMs, fullAtMs);
    return { ...burst, registerSec, claims: claimsBefore + claimsAfter!, withoutNext: schedules - scheduled! };
  } finally {
    await stage.close();
  }
}
