import { readdirSync } from 'node:fs';
import type { Redis } from 'ioredis';
import t from 'tap';
import { announce } from '../../lua/announce.ts';
import { namespaceKeys, shardKeys, shardOf } from '../../lua/keys.ts';
import { takeAbsent } from '../../lua/take-absent.ts';
import { encodeClaim } from '../../scheduler/journal/election.ts';
import { eventually, until } from '../support/eventually.ts';
import { spawnBeat, spawnRingbeat } from '../support/processes.ts';
import { startProxy } from '../support/proxy.ts';
import { withRedis } from '../support/redis-server.ts';
import { areReady, folderIn, isCopied, journalIn, linesOf, schedulesOf } from './journal-nodes.ts';
import { account, ask, EVERY_MS, goesOn, PATIENT, put, readiness, redisNow, ringIs, startLoad } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 4;

const names = namespaceKeys('rb');

/** What a node announces that knows more than any other. */
const GREATEST = { epoch: 'f', restores: 9, sequence: 1e9, aliveMs: 0, isDeleted: false };

/** Due times of what is in the queue, by schedule. */
async function duesIn(redis: Redis): Promise<Map<string, Set<number>>> {
  const dues = new Map<string, Set<number>>();
  for (const message of await redis.lrange('celery', 0, -1)) {
    const [, schedule, due] = /"ringbeat": \{"schedule": "([^"]*)", "due": (\d+)/.exec(message)!;
    if (!dues.has(schedule!)) dues.set(schedule!, new Set());
    dues.get(schedule!)!.add(Number(due));
  }
  return dues;
}

t.test(
  'a Redis that was killed without persistence has every schedule again, restored once, and no run is left out',
  { timeout: 600_000 },
  async (t) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const dirs = [t.testdir({ one: {}, two: {} })].flatMap((dir) => [`${dir}/one`, `${dir}/two`]);
    const beats = await Promise.all(
      dirs.map((dir) => spawnBeat(t, server.url, [...PATIENT, ...journalIn(dir), '--queue-cap', '900000'])),
    );
    await startLoad(beats[0]!, redis, 100);
    const hour = { schedule: { every: 3_600 } };
    await put(beats[0]!, 'hourly', { ...hour, queue: 'other', args: ['ä'], tags: ['t'] });
    await put(beats[0]!, 'edited', hour);
    await put(beats[0]!, 'edited', { schedule: { every: 7_200 }, max_runs: 7 });
    await put(beats[0]!, 'paused', { ...hour, enabled: false });
    await put(beats[0]!, 'gone', hour);
    await ask(beats[0]!, '/v1/schedules/paused/pause', { method: 'POST' });
    await fetch(`${beats[0]!.api}/v1/schedules/gone`, { method: 'DELETE' });
    await put(beats[0]!, 'later', { schedule: { in: 3_600 } });
    await put(beats[0]!, 'over', { schedule: { in: 0 }, queue: 'other' });
    await put(beats[0]!, 'cron', { schedule: { cron: '0 0 1 1 *', tz: 'Europe/Berlin' } });
    await put(beats[0]!, 'loop', { schedule: { after: 3_600 }, queue: 'other' });
    await until(async () => (await schedulesOf(beats[0]!)).get('over')?.state === 'completed', 'it has run');
    await isCopied(beats[0]!, dirs, 'last');
    const before = await schedulesOf(beats[0]!);

    // What is sent from here on is lost with Redis.
    await redis.client('PAUSE', 60_000, 'WRITE');
    const sent = await duesIn(redis);
    await server.kill();
    await server.restart();
    // A node may not have noticed yet, and be ready still.
    for (const beat of beats) await beat.logged('namespace_gone');
    await areReady(beats);

    t.equal(linesOf(beats, 'namespace_gone').length, 2, 'both say so');
    t.equal(linesOf(beats, 'journal_restored').length, 1, 'one restores');
    t.match(linesOf(beats, 'journal_restored'), [{ schedules: before.size, left_out: 0 }]);
    const after = await schedulesOf(beats[1]!);
    t.same([...after.keys()].sort(), [...before.keys()].sort());
    for (const [id, schedule] of before) {
      if (/^s\d+$/.test(id)) continue;
      t.same(after.get(id), schedule, id);
    }
    const meta = await redis.hgetall(names.meta);
    t.match(meta, { queue_cap: '900000', restores: '1', journal: '1' });
    t.equal(await redis.exists(names.announcements, names.restoring), 0);

    await goesOn(redis, 2_000);
    t.match(await account(redis), { schedules: 100, doubled: [], missing: [] });
    const again = await duesIn(redis);
    for (let i = 0; i < 100; i++) {
      const first = sent.get(`s${i}`)!;
      const dues = [...first, ...again.get(`s${i}`)!];
      const gaps = [...new Set(dues)]
        .sort((a, b) => a - b)
        .filter((due, at, all) => at > 0 && due - all[at - 1]! > EVERY_MS);
      t.same(gaps, [], `no run of s${i} is left out`);
      const twice = [...again.get(`s${i}`)!].filter((due) => first.has(due));
      // The last sign of life is at most a look old; a machine under load may take longer.
      t.ok(twice.length <= 5, `${twice.length} runs of s${i} are sent again`);
    }
    await ringIs(beats);
    await until(async () => linesOf(beats, 'journal_snapshot').length >= 4, 'both follow it again');
  },
);

t.test('a flushed Redis is restored by the node that has a journal, the others wait', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const [a, b] = await Promise.all([
    spawnBeat(t, server.url, [...PATIENT, ...journalIn(dir)]),
    spawnBeat(t, server.url, PATIENT),
  ]);
  await startLoad(b!, redis, 20);
  await isCopied(a!, [dir], 'last');
  for (const _ of ['once', 'twice']) {
    const before = await schedulesOf(a!);
    await redis.flushall();
    await until(() => linesOf([b!], 'namespace_gone').length > 0, 'it is noticed');
    await until(async () => (await readiness(a!)) === 200 && (await redis.exists(names.meta)) === 1, 'it is back');
    await areReady([a!, b!]);
    t.same([...(await schedulesOf(b!)).keys()].sort(), [...before.keys()].sort());
    await isCopied(a!, [dir], `last-${_}`);
  }
  t.equal(await redis.hget(names.meta, 'restores'), '2');
  t.equal(
    (await fetch(`${a!.api}/metrics`).then((answer) => answer.text())).match(/^ringbeat_restored_total (\d+)/m)?.[1],
    '43',
  );
});

t.test('when all nodes are gone too, one that starts with a journal restores', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const first = await spawnBeat(t, server.url, journalIn(dir));
  await put(first, 'a', { schedule: { every: 3_600 } });
  await isCopied(first, [dir], 'last');
  const before = await schedulesOf(first);
  first.kill('SIGKILL');
  await first.exited;
  await redis.flushall();
  const second = await spawnBeat(t, server.url, journalIn(dir));
  await second.logged('journal_restored');
  t.same(await schedulesOf(second), before);

  const other = await spawnRingbeat(t, ['beat', '--redis', server.url, '--no-api', '--shards', '8']);
  t.match(await other.exited, { code: 1 });
  await second.stop();
  await redis.flushall();
  const third = await spawnRingbeat(t, ['beat', '--redis', server.url, '--no-api', '--shards', '8', ...journalIn(dir)]);
  t.match(await third.exited, { code: 1 }, 'nothing is restored that could not be joined');
  t.match(third.stderr, /has 16 shards; this node was started with --shards 8/);
  t.equal(await redis.exists(names.meta), 0);
});

t.test('a node that starts creates nothing while a journal is announced', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  let announcing = true;
  let announcedAt = 0;
  const announced = until(
    async () => {
      announcedAt = await redisNow(redis);
      await announce(redis, names, 'elsewhere', encodeClaim(GREATEST));
      return !announcing;
    },
    'it is told to end',
    { everyMs: 100 },
  );
  const started = await redisNow(redis);
  const beat = await spawnRingbeat(t, ['beat', '--redis', server.url, '--api-port', '0']);
  await until(async () => (await redisNow(redis)) > started + 6_000, '6 s pass');
  t.equal(await redis.exists(names.meta), 0);
  announcing = false;
  await announced;
  await beat.logged('beat_started');
  t.ok(Number(await redis.hget(names.meta, 'created_at')) - announcedAt >= 2_000, 'then 2 s pass first');
});

t.test('a node that starts on an empty Redis creates at once when it is told to', async (t) => {
  const server = await withRedis(t);
  const beat = await spawnBeat(t, server.url, ['--create-at-once']);
  t.same(linesOf([beat], 'namespace_gone'), []);
});

t.test('a node that announced more and died is not waited for, and what it left half done is done anew', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  await put(beat, 'a', { schedule: { every: 3_600 } });
  await isCopied(beat, [dir], 'last');
  const before = await schedulesOf(beat);
  beat.kill('SIGSTOP');
  await redis.flushall();
  await announce(redis, names, 'dead', encodeClaim(GREATEST));
  t.ok(await takeAbsent(redis, names, 'dead', 4_000));
  const keys = shardKeys('rb', shardOf('stray', 16));
  await redis.hset(keys.definitions, 'stray', 'half done');
  await redis.zadd(keys.due, 5, 'stray');
  beat.kill('SIGCONT');
  await beat.logged('journal_restored');
  await areReady([beat]);
  t.same(await schedulesOf(beat), before);
  t.equal(await redis.zscore(keys.due, 'stray'), null);
});

t.test('a node that was suspended while the streams went on begins anew', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const [a, b] = await Promise.all([spawnBeat(t, server.url, journalIn(dir)), spawnBeat(t, server.url)]);
  await isCopied(a!, [dir], 'first');
  a!.kill('SIGSTOP');
  // The first may be on its way to it already.
  await put(b!, 'missed', { schedule: { every: 3_600 } });
  await put(b!, 'missed', { schedule: { every: 7_200 } });
  await redis.xtrim(shardKeys('rb', shardOf('missed', 16)).changes, 'MAXLEN', 0);
  a!.kill('SIGCONT');
  t.match(await a!.logged('journal_begins_anew'), { reason: 'changes_trimmed' });
  await until(() => linesOf([a!], 'journal_snapshot').length === 2, 'a new snapshot is complete');
  await redis.flushall();
  await a!.logged('journal_restored');
  await areReady([a!, b!]);
  t.match((await schedulesOf(b!)).get('missed'), { schedule: { every: 7_200 } });
});

t.test('a Redis that is emptied while a snapshot is taken is restored from the snapshot before', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const ids = Array.from({ length: 40 }, (_, i) => `s${i}`);
  const first = await spawnBeat(t, server.url, journalIn(dir));
  for (const id of ids) await put(first, id, { schedule: { every: 3_600 } });
  await isCopied(first, [dir], 'last');
  await first.stop();
  const proxy = await startProxy(t, server.port);
  // A scan then takes seconds.
  proxy.delay(20);
  const second = await spawnBeat(t, proxy.url, journalIn(dir));
  await until(() => readdirSync(folderIn(dir)).some((name) => name.endsWith('.part')), 'a snapshot is being taken', {
    everyMs: 1,
  });
  await redis.flushall();
  await second.logged('namespace_gone');
  proxy.delay(0);
  t.same(linesOf([second], 'journal_snapshot'), []);
  t.match(await second.logged('journal_restored'), { schedules: 41, left_out: 0 });
  await areReady([second]);
  t.same([...(await schedulesOf(second)).keys()].sort(), ['last', ...ids].sort());
});

t.test('changes are forgotten once every node had its time to read them', { timeout: 600_000 }, async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  await put(beat, 'a', { schedule: { every: 3_600 } });
  const { changes } = shardKeys('rb', shardOf('a', 16));
  t.equal(await redis.xlen(changes), 1);
  await until(async () => (await redis.xlen(changes)) === 0, 'the stream is empty');
  await put(beat, 'a', { schedule: { every: 7_200 } });
  await isCopied(beat, [dir], 'last');
  t.same(linesOf([beat], 'journal_begins_anew'), []);
});

t.test('a Redis that restarts with its data is followed on, by a new snapshot', async (t) => {
  const server = await withRedis(t, { appendonly: true });
  const dir = t.testdir();
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  await put(beat, 'a', { schedule: { every: 3_600 } });
  await isCopied(beat, [dir], 'last');
  await server.restart();
  t.match(await beat.logged('journal_begins_anew'), { reason: 'another_redis' });
  await until(() => linesOf([beat], 'journal_snapshot').length === 2, 'a new snapshot is complete');
  t.match(linesOf([beat], 'journal_snapshot')[1], { schedules: 2 });
  t.same(linesOf([beat], 'namespace_gone'), []);
});

t.test('a namespace of the same name that somebody created meanwhile is not overwritten', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const first = await spawnBeat(t, server.url, journalIn(dir));
  await isCopied(first, [dir], 'old');
  await first.stop();
  await redis.flushall();
  const other = await spawnBeat(t, server.url);
  await put(other, 'new', { schedule: { every: 3_600 } });
  const second = await spawnBeat(t, server.url, journalIn(dir));
  await second.logged('journal_set_aside');
  await second.logged('journal_snapshot');
  t.same([...(await schedulesOf(second)).keys()], ['new']);
  await redis.flushall();
  await second.logged('journal_restored');
  await eventually(async () => {
    const ids = [...(await schedulesOf(second)).keys()];
    if (ids.join() !== 'new') throw new Error(ids.join());
  });
});
