import { drain } from '../drain.ts';
import { listenToEvents } from '../events-listener.ts';
import { median } from '../median.ts';
import type { Scenario } from '../scenario.ts';
import { openStage } from '../stage.ts';
import { dispatchedMessage } from './limit.ts';

/** Rounds in which drains without and with events take turns, by default. */
const ROUNDS = 3;

export const events: Scenario = {
  name: 'events',
  doc: 'one bundled worker drains messages of a task that does nothing, with task events and without, in turns',
  defaults: { schedules: 200_000, every: 10, seconds: 0, nodes: 1 },
  targets: [{ figure: 'kept_share', atLeast: 0.8 }],
  shown: ['plain_rate_per_s', 'events_rate_per_s', 'heard_rate_per_s', 'event_bytes'],
  rate: 'events_rate_per_s',
  async run({ schedules: messages, rounds = ROUNDS }, aof, say) {
    const stage = await openStage(aof);
    try {
      const sample = (await dispatchedMessage(stage)).toString();
      const rate = async (what: string, args: readonly string[]) => {
        const options = { sample, task: 'bench.noop', results: false, messages, args: ['-c', '1000', ...args] };
        const drained = await drain(stage, options);
        say(`${what}: ${Math.round(drained.rate)}/s`);
        return drained.rate;
      };
      const plain: number[] = [];
      const unheard: number[] = [];
      const heard: number[] = [];
      let eventBytes = 0;
      for (let round = 1; round <= rounds; round++) {
        plain.push(await rate('without events', []));
        unheard.push(await rate('with events', ['-E']));
        const listener = await listenToEvents(stage.server);
        heard.push(await rate('with events that are heard', ['-E']));
        eventBytes = listener.stop() / messages;
      }
      return {
        figures: {
          kept_share: median(unheard) / median(plain),
          heard_kept_share: median(heard) / median(plain),
          plain_rate_per_s: median(plain),
          events_rate_per_s: median(unheard),
          heard_rate_per_s: median(heard),
          event_bytes: eventBytes,
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};
