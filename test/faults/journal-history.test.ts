import t from 'tap';
import { namespaceKeys } from '../../lua/keys.ts';
import { until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { areReady, isCopied, journalIn, linesOf, schedulesOf } from './journal-nodes.ts';
import { ask, put } from './ledger.ts';

/** Another one by RINGBEAT_TEST_SEED. */
const SEED = Number(process.env.RINGBEAT_TEST_SEED ?? 20_261_121);
const ROUNDS = 4;
const STEPS = 60;

/** Numbers from 0 to below `limit` that are always the same for one seed (mulberry32). */
function randomFrom(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}

type Random = (limit: number) => number;

/** None of these falls due while the test runs, so that it changes by what is done to it alone. */
const SCHEDULES: readonly ((random: Random) => object)[] = [
  (random) => ({ schedule: { every: 36_000 + random(5), phase: random(3) === 0 ? 'spread' : 1 } }),
  () => ({ schedule: { in: 36_000 } }),
  () => ({ schedule: { at: '2099-01-01T00:00:00Z' } }),
  (random) => ({ schedule: { cron: `${random(60)} 3 29 2 *`, tz: 'Europe/Berlin' } }),
  () => ({ schedule: { after: 60 }, start: '2098-01-01T00:00:00Z' }),
  (random) => ({ schedule: { every: 36_000, phase: 1 }, exclude: [`2097-01-0${1 + random(9)}`] }),
];

async function act(beat: SpawnedBeat, random: Random): Promise<void> {
  const id = `s${random(40)}`;
  const url = `${beat.api}/v1/schedules/${id}`;
  switch (random(6)) {
    case 0:
      await fetch(url, { method: 'DELETE' });
      return;
    case 1:
      await fetch(`${url}/pause`, { method: 'POST' });
      return;
    case 2:
      await fetch(`${url}/resume`, { method: 'POST' });
      return;
    default:
      await put(beat, id, {
        ...SCHEDULES[random(SCHEDULES.length)]!(random),
        queue: `q${random(4)}`,
        args: [random(3)],
        enabled: random(5) > 0,
        tags: random(2) === 0 ? [] : ['t'],
      });
  }
}

t.test(
  'whatever was done to schedules before Redis was emptied is found done afterwards',
  { timeout: 600_000 },
  async (t) => {
    t.comment(`seed ${SEED}`);
    const random = randomFrom(SEED);
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const dirs = [t.testdir({ one: {}, two: {} })].flatMap((dir) => [`${dir}/one`, `${dir}/two`]);
    const beats = await Promise.all(dirs.map((dir) => spawnBeat(t, server.url, journalIn(dir))));
    const options = await redis.hgetall(namespaceKeys('rb').meta);
    for (let round = 1; round <= ROUNDS; round++) {
      for (let step = 0; step < STEPS; step++) await act(beats[random(2)]!, random);
      await isCopied(beats[0]!, dirs, `end-of-${round}`);
      const before = await schedulesOf(beats[0]!);
      const stats = await ask(beats[0]!, '/v1/stats');
      await redis.flushall();
      await until(() => linesOf(beats, 'journal_restored').length === round, 'it is restored');
      await areReady(beats);
      const after = await schedulesOf(beats[1]!);
      const message = `round ${round}, seed ${SEED}`;
      if (!t.same([...after.keys()].sort(), [...before.keys()].sort(), message)) return;
      for (const [id, schedule] of before) if (!t.same(after.get(id), schedule, `${id}, ${message}`)) return;
      const { schedules, enabled } = await ask(beats[0]!, '/v1/stats');
      t.same({ schedules, enabled }, { schedules: stats.schedules, enabled: stats.enabled });
    }
    const { epoch, shards } = await redis.hgetall(namespaceKeys('rb').meta);
    t.same({ epoch, shards }, { epoch: options.epoch, shards: options.shards }, 'it is still the same namespace');

    for (const id of (await schedulesOf(beats[0]!)).keys())
      await fetch(`${beats[0]!.api}/v1/schedules/${id}`, { method: 'DELETE' });
    const left = (await redis.keys('rb:{*')).map((key) => key.replace(/^rb:\{\d+\}:/, ''));
    t.same(
      [...new Set(left)].filter((name) => !['counts', 'changes', 'history', 'occurrences', 'lateness'].includes(name)),
      [],
      'of deleted schedules nothing is left, shared texts included',
    );
  },
);
