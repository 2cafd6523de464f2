import { setTimeout as sleep } from 'node:timers/promises';
import { namespaceKeys } from '../../lua/keys.ts';
import { accountFigures, readStats, startIntervalLoad } from '../interval-load.ts';
import { awaitJournals, JOURNALING } from '../journals.ts';
import { awaitValue } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { countEntries, NAMESPACE, openStage, shardsOf } from '../stage.ts';

/** How long the schedules are waited for, ms. */
const BACK_MS = 60_000;
/** Pause between two looks, ms. */
const LOOK_MS = 10;

export const journalRestore: Scenario = {
  name: 'journal-restore',
  doc: 'kill -9 of a Redis without persistence: until all schedules are back in the empty one that follows, from --journal-dir',
  defaults: { schedules: 150_000, every: 10, seconds: 10, nodes: 3 },
  aof: 'off',
  targets: [
    { figure: 'back_s', atMost: 5 },
    { figure: 'missing', atMost: 0 },
    { figure: 'lost', atMost: 0 },
    { figure: 'doubled', atMost: 0 },
    { figure: 'strange', atMost: 0 },
  ],
  shown: ['rate_per_s', 'dispatching_s', 'sent_again'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    if (aof) throw new Error('With --aof Redis keeps what this scenario wants it to lose.');
    const { schedules, seconds } = parameters;
    const stage = await openStage(aof, JOURNALING);
    try {
      const load = await startIntervalLoad(stage, parameters, { outages: true });
      const { redis } = stage;
      await sleep(load.warmUpSec * 1_000);
      await awaitJournals(load.nodes);
      const shards = await shardsOf(redis);
      await load.consumer.open();

      say('kill -9 of Redis');
      await stage.loseRedis();
      const answersAtMs = performance.now();
      const backAtMs = await awaitValue(
        'all schedules back',
        async () => {
          const [isThere, due] = await Promise.all([
            redis.exists(namespaceKeys(NAMESPACE).meta),
            countEntries(redis, shards, 'zcard', 'due'),
          ]);
          return isThere === 1 && due >= schedules ? performance.now() : null;
        },
        BACK_MS,
        LOOK_MS,
      );
      const { verdict: across } = await load.consumer.lap();
      // A node that did not restore the namespace itself learns a little later that it is there.
      const { misfired } = await awaitValue('the API serving the namespace again', () =>
        readStats(load.nodes[0]!).catch(() => null),
      );
      await load.consumer.open();
      const dispatchingAtMs = await awaitValue('dispatch', async () =>
        (await load.consumer.read()).taken > 0 ? performance.now() : null,
      );
      say(`${schedules} back in ${((backAtMs - answersAtMs) / 1_000).toFixed(2)} s`);
      await sleep(seconds * 1_000);
      const account = await load.consumer.close();
      return {
        figures: {
          back_s: (backAtMs - answersAtMs) / 1_000,
          rate_per_s: schedules / ((backAtMs - answersAtMs) / 1_000),
          dispatching_s: (dispatchingAtMs - answersAtMs) / 1_000,
          missing: schedules - (await countEntries(redis, shards, 'hlen', 'definitions')),
          sent_again: across.doubled,
          ...accountFigures(account),
          misfired: (await readStats(load.nodes[0]!)).misfired - misfired,
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};
