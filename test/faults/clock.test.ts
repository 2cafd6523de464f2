import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { until } from '../support/eventually.ts';
import { FAKETIME, faketime } from '../support/faketime.ts';
import { spawnBeat, spawnProcess } from '../support/processes.ts';
import { onPortOfOwn, withRedis } from '../support/redis-server.ts';
import { account, ask, caughtUp, goesOn, PATIENT, put, readiness, redisNow, ringIs, startLoad } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const skip = FAKETIME === null ? 'libfaketime is not installed' : false;

/** A Redis whose clock can be set while it runs. */
async function redisWithClock(t: Test) {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-clock-'));
  const file = join(folder, 'offset');
  const setClock = (offsetSec: number) => {
    // In one step, for Redis reads it all the time.
    writeFileSync(`${file}.new`, `${offsetSec >= 0 ? '+' : ''}${offsetSec}\n`);
    renameSync(`${file}.new`, file);
  };
  setClock(0);
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const port = await onPortOfOwn(async (port) => {
    const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', folder];
    const server = await spawnProcess(t, 'redis-server', args, {
      env: faketime({ FAKETIME_TIMESTAMP_FILE: file, FAKETIME_NO_CACHE: '1' }),
    });
    await until(() => server.stdout.includes('Ready to accept connections') || server.hasExited(), 'Redis is ready');
    if (server.hasExited()) throw new Error(server.stdout);
    return port;
  });
  const redis = new Redis(port, '127.0.0.1', { retryStrategy: () => 20, maxRetriesPerRequest: null });
  redis.on('error', () => {});
  t.teardown(() => redis.disconnect());
  await redis.ping();
  return { redis, url: `redis://127.0.0.1:${port}/0`, setClock };
}

const HOUR_SEC = 3_600;

t.test(
  "when Redis's clock steps forward, what was jumped over is missed, and nothing is sent twice",
  {
    skip,
    timeout: 600_000,
  },
  async (t) => {
    const { redis, url, setClock } = await redisWithClock(t);
    const beats = await Promise.all([spawnBeat(t, url), spawnBeat(t, url)]);
    await ringIs(beats);
    await startLoad(beats[0], redis, 100);
    const before = await redisNow(redis);
    setClock(HOUR_SEC);
    t.ok((await redisNow(redis)) > before + 3_500_000, 'the clock can be set');
    for (const beat of beats) t.match(await beat.logged('redis_clock_jumped'), { level: 40 });
    await caughtUp(redis, before + HOUR_SEC * 1_000);
    await goesOn(redis, 2_000);
    await until(async () => (await ask(beats[0], '/v1/stats')).missed === 0, 'what was missed is sent or dropped');
    await ringIs(beats);
    const { doubled, missing } = await account(redis);
    t.same(doubled, []);
    t.ok(missing.length > 100 * 3_000, 'the latest of all that was jumped over is sent');
    const stats = await ask(beats[0], '/v1/stats');
    t.equal(stats.misfired, missing.length);
    t.same(await Promise.all(beats.map(readiness)), [200, 200]);
  },
);

t.test(
  "when Redis's clock steps back, nothing is sent twice, and what has not run an hour ahead goes on at once",
  {
    skip,
    timeout: 600_000,
  },
  async (t) => {
    const { redis, url, setClock } = await redisWithClock(t);
    setClock(HOUR_SEC);
    const beats = await Promise.all([spawnBeat(t, url), spawnBeat(t, url)]);
    await ringIs(beats);
    // Registered by the wrong clock, and not run yet.
    for (let i = 0; i < 40; i++) await put(beats[0], `slow${i}`, { schedule: { every: 600 } });
    const slow = async () => (await ask(beats[0], '/v1/schedules?prefix=slow')).schedules;
    const waiting = (await slow()).filter(({ last_run_at }: { last_run_at: string | null }) => last_run_at === null);
    t.ok(waiting.length > 20);
    setClock(0);
    for (const beat of beats) await beat.logged('redis_clock_jumped');
    const now = await redisNow(redis);
    await until(
      async () =>
        (await slow())
          .filter(({ id }: { id: string }) => waiting.some((schedule: { id: string }) => schedule.id === id))
          .every(({ next_run_at }: { next_run_at: string }) => Date.parse(next_run_at) <= now + 601_000),
      'none waits longer than its interval',
    );
    await ringIs(beats);
    // The nodes go on: what is registered from now on runs.
    await startLoad(beats[0], redis, 50);
    await goesOn(redis, 1_500);
    t.same((await account(redis)).doubled, []);
    t.same(await Promise.all(beats.map(readiness)), [200, 200]);
  },
);

t.test('a node whose clock is an hour off does no harm', { skip, timeout: 600_000 }, async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const beats = [
    await spawnBeat(t, server.url, PATIENT),
    await spawnBeat(t, server.url, PATIENT, { env: faketime({ FAKETIME: '+1h' }) }),
    await spawnBeat(t, server.url, PATIENT, { env: faketime({ FAKETIME: '-1h' }) }),
  ];
  await ringIs(beats);
  await startLoad(beats[1]!, redis, 200);
  const now = await redisNow(redis);
  const schedule = await ask(beats[2]!, '/v1/schedules/s0');
  t.ok(Math.abs(Date.parse(schedule.next_run_at) - now) < 60_000);
  await goesOn(redis, 2_000);
  beats[0]!.kill('SIGKILL');
  await goesOn(redis, 2_000);
  t.same(await account(redis), { schedules: 200, doubled: [], missing: [] });
  await ringIs(beats.slice(1));
});
