import t from 'tap';
import { spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { account, goesOn, PATIENT, ringIs, startLoad } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const SCHEDULES = 400;

t.test(
  'each run is sent once while nodes are killed, suspended for 30 s and resumed, join, and leave',
  { timeout: 600_000 },
  async (t) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const [a, b, c] = await Promise.all(Array.from({ length: 3 }, () => spawnBeat(t, server.url, PATIENT)));
    await ringIs([a!, b!, c!]);
    await startLoad(a!, redis, SCHEDULES);

    b!.kill('SIGSTOP');
    const resumed = goesOn(redis, 30_000).then(() => b!.kill('SIGCONT'));
    await ringIs([a!, c!]);
    c!.kill('SIGKILL');
    await goesOn(redis, 2_000);
    const d = await spawnBeat(t, server.url, PATIENT);
    await ringIs([a!, d]);
    const e = await spawnBeat(t, server.url, PATIENT);
    await ringIs([a!, d, e]);
    t.same(await a!.stop(), { code: 0, signal: null });
    await ringIs([d, e]);

    await resumed;
    await ringIs([b!, d, e]);
    await goesOn(redis, 2_000);
    t.same(await account(redis), { schedules: SCHEDULES, doubled: [], missing: [] });
  },
);

t.test('the last node is killed: what falls due meanwhile is sent when another starts', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const first = await spawnBeat(t, server.url, PATIENT);
  await startLoad(first, redis, 100);
  first.kill('SIGKILL');
  await first.exited;
  const second = await spawnBeat(t, server.url, PATIENT);
  await goesOn(redis, 2_000);
  t.same(await account(redis), { schedules: 100, doubled: [], missing: [] });
  await ringIs([second]);
});
