import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { eventually, until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat, spawnRingbeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

async function setUp(t: Test): Promise<{ url: string; redis: Redis }> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { url: server.url, redis };
}

// biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever came.
async function get(beat: SpawnedBeat, path: string): Promise<any> {
  const answer = await fetch(`${beat.api}${path}`);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function put(beat: SpawnedBeat, id: string, spec: object): Promise<void> {
  const answer = await fetch(`${beat.api}/v1/schedules/${id}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ task: 'x', ...spec }),
  });
  if (!answer.ok) throw new Error(await answer.text());
}

/** Sum of a metric over its labels, as one node reports it. */
async function metric(beat: SpawnedBeat, name: string): Promise<number> {
  const text = await (await fetch(`${beat.api}/metrics`)).text();
  return [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].reduce(
    (sum, [, value]) => sum + Number(value),
    0,
  );
}

t.test('all figures tell the same of what was dispatched, dropped and refused', async (t) => {
  const { url, redis } = await setUp(t);
  // What is late on a busy machine is not missed.
  const patient = ['--misfire-threshold', '600'];
  const beats = await Promise.all([spawnBeat(t, url, patient), spawnBeat(t, url, patient)]);
  for (let i = 0; i < 30; i++) await put(beats[i % 2]!, `once${i}`, { schedule: { in: 0 } });
  for (let i = 0; i < 5; i++) await put(beats[0], `far${i}`, { schedule: { at: '2098-01-01T00:00:00Z' } });
  await put(beats[0], 'paused', { schedule: { every: 1 }, enabled: false });
  await put(beats[0], 'missed', { schedule: { at: '2020-01-01T00:00:00Z' }, misfire: { policy: 'skip' } });
  await put(beats[0], 'refused', { queue: 'full', queue_cap: 0, schedule: { every: 0.1 } });
  await eventually(async () => {
    const stats = await get(beats[1], '/v1/stats');
    assert.equal(stats.dispatched, 30);
    assert.equal(stats.misfired, 1);
    assert.ok(stats.refused >= 3);
    assert.equal(stats.schedules, 38);
    assert.equal(stats.overdue, 0);
    assert.equal(stats.parked, 0);
    assert.ok(stats.lateness_ms.max >= stats.lateness_ms.p50);
  });
  await put(beats[0], 'refused', { queue: 'full', queue_cap: 0, schedule: { every: 0.1 }, enabled: false });
  const { refused } = await get(beats[0], '/v1/stats');
  t.equal(await redis.llen('celery'), 30);

  const sum = async (name: string) => (await metric(beats[0], name)) + (await metric(beats[1], name));
  // A node counts what it did once it has Redis's answer.
  await eventually(async () => {
    assert.equal(await sum('ringbeat_dispatched_total'), 30);
    assert.equal(await sum('ringbeat_misfired_total'), 1);
    assert.equal(await sum('ringbeat_refused_total'), refused);
    assert.equal(await sum('ringbeat_dispatch_lateness_seconds_count'), 30);
    assert.equal(await sum('ringbeat_shard_owner'), 16);
    assert.equal(await sum('ringbeat_schedules'), 38);
  });

  const { queues } = await get(beats[0], '/v1/queues');
  t.match(queues, [
    { name: 'celery', length: 30, cap: 1_000_000, refused: 0 },
    { name: 'full', length: 0, cap: 0, refused },
  ]);
  const { shards } = await get(beats[1], '/v1/shards');
  t.equal(
    shards.reduce((sum: number, shard: { schedules: number }) => sum + shard.schedules, 0),
    38,
  );
  const { nodes } = await get(beats[1], '/v1/nodes');
  t.same(nodes.map(({ pid }: { pid: number }) => pid).sort(), beats.map(({ pid }) => pid).sort());
  for (const { id, shards: owned } of nodes)
    t.same(
      shards.filter(({ owner }: { owner: string }) => owner === id).map((shard: { id: number }) => shard.id),
      owned,
    );
});

t.test('a completed one-shot is told of for as long as it is kept, then it is gone', async (t) => {
  const { url, redis } = await setUp(t);
  const beat = await spawnBeat(t, url, ['--keep-completed', '0.5']);
  await put(beat, 'once', { schedule: { in: 0 } });
  await until(async () => (await redis.llen('celery')) === 1, 'it runs');
  await until(async () => (await fetch(`${beat.api}/v1/schedules/once`)).status === 404, 'it is removed');
  t.equal((await get(beat, '/v1/stats')).schedules, 0);
  t.equal((await get(beat, '/v1/stats')).dispatched, 1, 'totals stay');
});

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  t.test(`${signal} takes a node out of the ring and ends it with 0`, async (t) => {
    const { url, redis } = await setUp(t);
    const [leaves, stays] = await Promise.all([spawnBeat(t, url), spawnBeat(t, url)]);
    leaves.kill(signal);
    t.same(await leaves.exited, { code: 0, signal: null });
    t.equal(await redis.zcard('rb:nodes'), 1);
    await until(async () => (await get(stays, '/v1/nodes')).nodes[0].shards.length === 16, 'the other owns all');
  });
}

t.test('SIGQUIT ends a node at once', async (t) => {
  const { url } = await setUp(t);
  const beat = await spawnBeat(t, url);
  beat.kill('SIGQUIT');
  t.same(await beat.exited, { code: 0, signal: null });
});

t.test('a node that cannot have its port ends with 1 and was never in the ring', async (t) => {
  const { url, redis } = await setUp(t);
  const first = await spawnBeat(t, url);
  const port = new URL(first.api).port;
  const second = await spawnRingbeat(t, ['beat', '--redis', url, '--api-port', port]);
  t.same(await second.exited, { code: 1, signal: null });
  t.match(second.stderr, `Cannot listen on 127.0.0.1:${port}`);
  t.notMatch(second.stderr, /\n\s+at /);
  t.equal(await redis.zcard('rb:nodes'), 1);
});

t.test('a node whose Redis does not answer ends with 1 and says which', async (t) => {
  const beat = await spawnRingbeat(t, ['beat', '--redis', 'redis://user:secret@127.0.0.1:1/0', '--no-api']);
  t.same(await beat.exited, { code: 1, signal: null });
  t.match(beat.stderr, '127.0.0.1:1');
  t.notMatch(beat.stderr, /secret|\n\s+at /);
});

t.test('nodes without an API dispatch like others', async (t) => {
  const { url, redis } = await setUp(t);
  const beat = await spawnBeat(t, url);
  const silent = await spawnRingbeat(t, ['beat', '--redis', url, '--no-api']);
  await silent.logged('beat_started');
  await until(async () => (await get(beat, '/v1/nodes')).nodes.length === 2, 'both are in the ring');
  for (let i = 0; i < 40; i++) await put(beat, `s${i}`, { schedule: { in: 0 } });
  await until(async () => (await redis.llen('celery')) === 40, 'all run');
  t.notOk(silent.log.some(({ event }) => event === 'api_listening'));
});

t.test('two namespaces in one Redis know nothing of each other', async (t) => {
  const { url, redis } = await setUp(t);
  const [one, other] = await Promise.all(['one', 'other'].map((name) => spawnBeat(t, url, ['--namespace', name])));
  await put(one!, 'a', { schedule: { in: 0 } });
  await until(async () => (await redis.llen('celery')) === 1, 'it runs');
  t.equal((await fetch(`${other!.api}/v1/schedules/a`)).status, 404);
  t.equal((await get(other!, '/v1/stats')).dispatched, 0);
  t.equal((await get(other!, '/v1/nodes')).nodes.length, 1);
  const keys = await redis.keys('*');
  t.same(
    keys.filter((key) => !/^(one:|other:|celery$|_kombu\.binding\.celery$)/.test(key)),
    [],
  );
});
