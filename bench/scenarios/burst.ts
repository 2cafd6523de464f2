import { type Burst, instantAhead, judgeBurst, leadMs, queueFull, registerForInstant } from '../one-instant.ts';
import type { Parameters, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

/** Interval of the interval variant, s: long enough that nothing comes due twice. */
const EVERY = 3_600;

export const burst: Scenario = {
  name: 'burst',
  doc: 'everything due at one instant: one-shots, then interval schedules with the same phase',
  defaults: { schedules: 150_000, every: EVERY, seconds: 0, nodes: 3 },
  targets: [
    { figure: 'once_drained_s', atMost: 1 },
    { figure: 'every_drained_s', atMost: 1 },
    { figure: 'limit_share', atLeast: 0.5 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
  ],
  shown: ['once_rate_per_s', 'every_rate_per_s'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    if (parameters.every * 1_000 < leadMs(parameters.schedules)) {
      throw new Error(
        `--every ${parameters.every} is too short: interval schedules would be due before all are registered.`,
      );
    }
    const once = await burstOf(parameters, aof, say, (dueMs) => `{"at":"${new Date(dueMs).toISOString()}"}`);
    const every = await burstOf(
      parameters,
      aof,
      say,
      (dueMs) => `{"every":${parameters.every},"phase":${(dueMs % (parameters.every * 1_000)) / 1_000}}`,
    );
    const rate = (burst: Burst) => parameters.schedules / burst.drainedSec;
    return {
      figures: {
        once_drained_s: once.drainedSec,
        once_dispatch_max_ms: once.dispatch.max,
        once_rate_per_s: rate(once),
        every_drained_s: every.drainedSec,
        every_dispatch_max_ms: every.dispatch.max,
        every_rate_per_s: rate(every),
        rate_per_s: Math.min(rate(once), rate(every)),
        lost: once.lost + every.lost,
        doubled: once.doubled + every.doubled,
        strange: once.strange + every.strange,
      },
      percentiles: { once_dispatch: once.dispatch, every_dispatch: every.dispatch },
    };
  },
};

async function burstOf(
  { schedules, nodes: nodeCount }: Parameters,
  aof: boolean,
  say: (line: string) => void,
  schedule: (dueMs: number) => string,
): Promise<Burst> {
  const stage = await openStage(aof);
  try {
    const [node] = await stage.startNodes(nodeCount);
    const dueMs = await instantAhead(stage, schedules);
    const timing = schedule(dueMs);
    const seconds = await registerForInstant(stage, node!, schedules, dueMs, () => timing);
    say(`registered ${schedules} as ${timing} in ${seconds.toFixed(1)} s`);
    return await judgeBurst(stage, schedules, dueMs, await queueFull(stage.redis, schedules, dueMs));
  } finally {
    await stage.close();
  }
}
