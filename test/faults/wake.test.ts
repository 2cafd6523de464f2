import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import t from 'tap';
import { eventually, until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { ask, nodesOf, put, ringIs } from './ledger.ts';

const SCHEDULES = 24;

/** How late each schedule's one run was dispatched, ms, the median of all whose ids begin so. */
async function medianLateness(beat: SpawnedBeat, redis: Redis, prefix: string): Promise<number> {
  await until(async () => (await redis.llen('celery')) === SCHEDULES, 'all ran');
  const { schedules } = await ask(beat, `/v1/schedules?prefix=${prefix}`);
  const latenesses = schedules.map((schedule: { last_lateness_ms: number }) => schedule.last_lateness_ms);
  latenesses.sort((a: number, b: number) => a - b);
  return latenesses[latenesses.length / 2];
}

t.test('a schedule that is due sooner than its owner sleeps wakes the owner, whoever registers it', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const beats = await Promise.all(Array.from({ length: 3 }, () => spawnBeat(t, server.url)));
  await ringIs(beats);
  // Nobody has anything to do: all nodes sleep for a second at a time, so that without a nudge the median would be
  // around half a second, each time. A busy machine may be as slow as that for a while.
  let round = 0;
  const median = await eventually(async () => {
    const prefix = `round${round++}-`;
    await redis.del('celery');
    for (let i = 0; i < SCHEDULES; i++)
      await put(beats[i % 3]!, prefix + i, { schedule: { in: i % 2 === 0 ? 0 : 0.1 } });
    const median = await medianLateness(beats[0]!, redis, prefix);
    assert.ok(median < 100, `median lateness ${median} ms`);
    return median;
  });
  t.comment(`median lateness ${median} ms, round ${round}`);
});

t.test('a schedule whose owner is suspended is sent by another node', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const [a, b] = await Promise.all([spawnBeat(t, server.url), spawnBeat(t, server.url)]);
  // On a busy machine its lease may end before all is registered.
  let round = 0;
  await eventually(async () => {
    b.kill('SIGCONT');
    await ringIs([a, b]);
    await redis.del('celery');
    b.kill('SIGSTOP');
    const prefix = `round${round++}-`;
    for (let i = 0; i < SCHEDULES; i++) await put(a, prefix + i, { schedule: { in: 0.1 } });
    await until(async () => (await redis.llen('celery')) === SCHEDULES, 'all ran');
    assert.equal((await nodesOf(a)).length, 2, 'while the suspended node was still in the ring');
  });
  t.pass('all ran while it was still in the ring');
});
