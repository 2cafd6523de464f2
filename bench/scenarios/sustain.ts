import { setTimeout as sleep } from 'node:timers/promises';
import { startConsumer } from '../consumer-process.ts';
import { measureWindow, type Window, windowMeasurement } from '../interval-load.ts';
import { loadLines, register } from '../load.ts';
import type { Parameters, Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';

const BEARABLE_P99_MS = 10;
/** What must be dispatched of what falls due. */
const LEAST_SHARE = 0.99;
/** The rate goes up and down by this factor; once it is bracketed, the middle is tried as well. */
const STEP = 1.25;
/** One hiccup of the machine does not end the search: a rate is too much when it was so twice. */
const TRIES = 2;
/** The search ends after so many rates by default, with the best so far. */
const MAX_ATTEMPTS = 9;

export const sustain: Scenario = {
  name: 'sustain',
  doc: `the most dispatches a second at p99 <= ${BEARABLE_P99_MS} ms, with a consumer that empties the queue; begins at schedules / every`,
  defaults: { schedules: 160_000, every: 2, seconds: 8, nodes: 3 },
  targets: [{ figure: 'rate_per_s', atLeast: 80_000 }],
  shown: ['dispatch_p99_ms', 'outside_p99_ms'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    const attempt = async (rate: number): Promise<Window | null> => {
      for (let left = TRIES; left > 0; left--) {
        const window = await dispatchAt(rate, parameters, aof);
        const isBorne = window.dispatch.p99 <= BEARABLE_P99_MS && window.rate >= rate * LEAST_SHARE;
        const verdict = isBorne ? 'borne' : 'too much';
        say(`${Math.round(rate)}/s wanted: ${Math.round(window.rate)}/s at p99 ${window.dispatch.p99} ms, ${verdict}`);
        if (isBorne) return window;
      }
      return null;
    };
    const { schedules, every, rounds = MAX_ATTEMPTS } = parameters;
    const best = await search(schedules / every, rounds, attempt);
    return best === null ? { figures: { rate_per_s: 0 }, percentiles: {} } : windowMeasurement(best);
  },
};

/** The window of the highest rate that was borne; null when none was. */
async function search(
  first: number,
  maxAttempts: number,
  attempt: (rate: number) => Promise<Window | null>,
): Promise<Window | null> {
  let rate = first;
  let best = await attempt(rate);
  const isClimbing = best !== null;
  for (let attempts = 1; attempts < maxAttempts - 1; attempts++) {
    const next = isClimbing ? rate * STEP : rate / STEP;
    const window = await attempt(next);
    if (isClimbing && window === null) break;
    rate = next;
    best = window;
    if (!isClimbing && window !== null) break;
  }
  if (best === null || maxAttempts === 1) return best;
  return (await attempt((rate * (1 + STEP)) / 2)) ?? best;
}

/** Every attempt has a Redis and nodes of its own, so that none inherits what an overload left behind. */
async function dispatchAt(
  rate: number,
  { every, nodes: nodeCount, seconds }: Parameters,
  aof: boolean,
): Promise<Window> {
  const schedules = Math.round(rate * every);
  const stage = await openStage(aof);
  try {
    const nodes = await stage.startNodes(nodeCount);
    const consumer = await startConsumer(stage, { schedules, everyMs: every * 1_000, drain: true });
    await register(nodes[0]!.api, loadLines({ to: schedules, schedule: `{"every":${every}}` }));
    await sleep((every + 1) * 1_000);
    return await measureWindow(stage, { nodes, consumer }, seconds);
  } finally {
    await stage.close();
  }
}
