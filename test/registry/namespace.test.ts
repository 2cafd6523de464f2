import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { eventually } from '../support/eventually.ts';
import { type Spawned, type SpawnedBeat, spawnBeat, spawnRingbeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 4;

async function setUp(t: Test): Promise<{ url: string; redis: Redis }> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { url: server.url, redis };
}

/** Runs a command to its end. */
async function run(
  t: Test,
  url: string,
  ...args: string[]
): Promise<{ code: number | null; out: string; err: string }> {
  const [command, ...rest] = args;
  const process: Spawned = await spawnRingbeat(t, [...command!.split(' '), '--redis', url, ...rest]);
  const { code } = await process.exited;
  return { code, out: process.stdout, err: process.stderr };
}

const readiness = async (beat: SpawnedBeat) => (await fetch(`${beat.api}/readyz`)).status;

async function put(beat: SpawnedBeat, id: string): Promise<number> {
  const answer = await fetch(`${beat.api}/v1/schedules/${id}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ task: 'x', schedule: { every: 0.1 } }),
  });
  return answer.status;
}

t.test('two first nodes at once create one namespace', async (t) => {
  const { url, redis } = await setUp(t);
  const beats = await Promise.all([spawnBeat(t, url, ['--shards', '8']), spawnBeat(t, url, ['--shards', '8'])]);
  t.equal(await redis.hget('rb:meta', 'shards'), '8');
  for (const beat of beats) {
    const { shards } = (await (await fetch(`${beat.api}/v1/shards`)).json()) as { shards: unknown[] };
    t.equal(shards.length, 8);
  }
});

t.test('a node that wants another number of shards ends with 1 and says what to do', async (t) => {
  const { url } = await setUp(t);
  await spawnBeat(t, url, ['--shards', '8']);
  const { code, err, out } = await run(t, url, 'beat', '--shards', '4', '--no-api');
  t.equal(code, 1);
  t.equal(out, '');
  t.match(
    err,
    'Namespace rb has 8 shards; this node was started with --shards 4. Start it without --shards, or with --shards 8.',
  );
  t.notMatch(err, /\n\s+at /, 'no stack trace');
  const second = await spawnBeat(t, url);
  t.equal(await readiness(second), 200, 'without --shards any number will do');
});

t.test('settings are those of the first node; `namespace set` changes them while nodes run', async (t) => {
  const { url, redis } = await setUp(t);
  const beat = await spawnBeat(t, url, ['--queue-cap', '7', '--misfire-threshold', '2.5']);
  await spawnBeat(t, url, ['--queue-cap', '9']);
  const shown = await run(t, url, 'namespace show');
  t.equal(shown.code, 0);
  t.match(shown.out, /^queue-cap +7$/m);
  t.match(shown.out, /^misfire-threshold +2.5$/m);
  t.match(shown.out, /^keep-completed +3600$/m);
  t.match(shown.out, /^shards +16$/m);

  await redis.lpush('celery', ...Array.from({ length: 7 }, () => 'in the way'));
  await put(beat, 'a');
  await eventually(async () => assert.ok(Number((await redis.hgetall(await countsOf(redis))).refused) > 0));
  const set = await run(t, url, 'namespace set', '--queue-cap', '100', '--keep-completed', '60');
  t.equal(set.code, 0);
  t.match(set.out, /^queue-cap +100$/m);
  t.match(set.out, /^keep-completed +60$/m);
  t.match(set.out, /^misfire-threshold +2.5$/m);
  await eventually(async () => assert.ok((await redis.llen('celery')) > 7));
});

async function countsOf(redis: Redis): Promise<string> {
  const keys = await redis.keys('rb:{*}:counts');
  for (const key of keys) if (await redis.hexists(key, 'refused')) return key;
  throw new Error('nothing was refused yet');
}

const REFUSALS: readonly (readonly [readonly string[], number, RegExp])[] = [
  [['namespace show'], 1, /Namespace rb is not in Redis/],
  [['namespace set', '--queue-cap', '5'], 1, /Namespace rb is not in Redis/],
  [['namespace delete'], 1, /Namespace rb is not in Redis/],
  [['namespace set', '--queue-cap', 'many'], 2, /Expected a whole number/],
  [['namespace set', '--shards', '4'], 2, /unknown option '--shards'/],
  [['namespace show', '--namespace', 'a{b}'], 2, /Namespace "a\{b\}" is not usable/],
];
for (const [args, code, message] of REFUSALS) {
  t.test(`\`${args.join(' ')}\` without a namespace ends with ${code} and creates nothing`, async (t) => {
    const { url, redis } = await setUp(t);
    const answer = await run(t, url, ...args);
    t.equal(answer.code, code);
    t.match(answer.err, message);
    t.notMatch(answer.err, /\n\s+at /);
    t.same(await redis.keys('*'), []);
  });
}

t.test('`namespace set` without a setting says which there are', async (t) => {
  const { url } = await setUp(t);
  await spawnBeat(t, url);
  const { code, err } = await run(t, url, 'namespace set');
  t.ok(code !== 0 && code !== null);
  t.match(err, /--queue-cap, --misfire-threshold, --keep-completed/);
});

t.test(
  'when a namespace is deleted, its nodes stop dispatching and say so, and only the tombstone is left',
  async (t) => {
    const { url, redis } = await setUp(t);
    const beats = await Promise.all([spawnBeat(t, url), spawnBeat(t, url)]);
    for (let i = 0; i < 20; i++) t.equal(await put(beats[0], `s${i}`), 201);
    await eventually(async () => assert.ok((await redis.llen('celery')) > 20));
    const epoch = await redis.hget('rb:meta', 'epoch');
    const { code, out } = await run(t, url, 'namespace delete');
    t.equal(code, 0);
    t.match(out, /deleted namespace rb/);
    for (const beat of beats) await beat.logged('namespace_gone');
    await eventually(async () => assert.deepEqual(await Promise.all(beats.map(readiness)), [503, 503]));
    const sent = await redis.llen('celery');
    t.equal(await put(beats[0], 'new'), 503);
    // A heartbeat and a dispatch of each node later, nothing has come back.
    for (const beat of beats) t.same(await beat.stop(), { code: 0, signal: null });
    t.equal(await redis.llen('celery'), sent);
    t.same((await redis.keys('rb:*')).sort(), ['rb:tombstone']);
    t.equal(await redis.get('rb:tombstone'), epoch);
  },
);

t.test('running nodes join a namespace that was deleted and created anew', async (t) => {
  const { url, redis } = await setUp(t);
  const old = await spawnBeat(t, url);
  await put(old, 'a');
  await run(t, url, 'namespace delete');
  await old.logged('namespace_gone');
  const fresh = await spawnBeat(t, url);
  await old.logged('namespace_rejoined');
  await eventually(async () => assert.deepEqual(await Promise.all([old, fresh].map(readiness)), [200, 200]));
  const { schedules } = (await (await fetch(`${old.api}/v1/stats`)).json()) as { schedules: number };
  t.equal(schedules, 0);
  await redis.del('celery');
  t.equal(await put(old, 'b'), 201);
  await eventually(async () => assert.ok((await redis.llen('celery')) > 0));
});
