import assert from 'node:assert/strict';
import t from 'tap';
import { eventually, until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { account, goesOn, PATIENT, readiness, ringIs, startLoad } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const SCHEDULES = 300;

async function allSay(beats: readonly SpawnedBeat[], status: number): Promise<void> {
  await eventually(
    async () => assert.deepEqual(await Promise.all(beats.map(readiness)), Array(beats.length).fill(status)),
    { everyMs: 50 },
  );
}

t.test(
  'each run is sent once while Redis is killed, ended, and suspended; the nodes say so and carry on by themselves',
  { timeout: 600_000 },
  async (t) => {
    const server = await withRedis(t, { appendonly: true });
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const beats = await Promise.all([spawnBeat(t, server.url, PATIENT), spawnBeat(t, server.url, PATIENT)]);
    await startLoad(beats[0], redis, SCHEDULES);
    await ringIs(beats);

    await server.kill();
    await allSay(beats, 503);
    t.equal((await fetch(`${beats[0].api}/healthz`)).status, 200, 'alive, though not ready');
    await server.restart();
    await allSay(beats, 200);
    await goesOn(redis, 2_000);

    await server.stop();
    await allSay(beats, 503);
    await server.restart();
    await allSay(beats, 200);
    await goesOn(redis, 2_000);

    // Longer than commands wait for their replies, connections for a sign of life, and nodes for each other.
    server.pause();
    const pausedAt = performance.now();
    await allSay(beats, 503);
    const refused = await putDuringOutage(beats[0]);
    t.equal(refused.status, 503, 'a request is answered all the same');
    t.match(refused.headers.get('content-type'), 'application/problem+json');
    await until(() => performance.now() - pausedAt > 12_000, '12 s pass', { everyMs: 100 });
    server.resume();
    await allSay(beats, 200);
    await goesOn(redis, 2_000);

    await ringIs(beats);
    t.same(await account(redis), { schedules: SCHEDULES, doubled: [], missing: [] });
    for (const beat of beats) t.notOk(beat.hasExited());
  },
);

function putDuringOutage(beat: SpawnedBeat): Promise<Response> {
  return fetch(`${beat.api}/v1/schedules/late`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ task: 'x', queue: 'elsewhere', schedule: { every: 3_600 } }),
  });
}

t.test('a Redis that comes back empty is not written to by running nodes; one that starts begins anew', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const beat = await spawnBeat(t, server.url, PATIENT);
  await startLoad(beat, redis, 10);
  await redis.flushall();
  await allSay([beat], 503);
  t.equal((await putDuringOutage(beat)).status, 503);
  t.same(await redis.keys('*'), []);
  const second = await spawnBeat(t, server.url, PATIENT);
  await allSay([beat, second], 200);
  await ringIs([beat, second]);
});
