import t, { type Test } from 'tap';
import { namespaceKeys } from '../../lua/keys.ts';
import { until } from '../support/eventually.ts';
import { spawnBeat, spawnRingbeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { areReady, isCopied, journalIn, linesOf, schedulesOf } from './journal-nodes.ts';
import { ask, put, redisNow } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const names = namespaceKeys('rb');

async function deleteNamespace(t: Test, url: string): Promise<void> {
  const command = await spawnRingbeat(t, ['namespace', 'delete', '--redis', url]);
  t.match(await command.exited, { code: 0 }, command.stderr);
}

t.test('a deletion is no loss: the nodes note it in their journals, and nobody restores', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dirs = [t.testdir({ one: {}, two: {} })].flatMap((dir) => [`${dir}/one`, `${dir}/two`]);
  const beats = await Promise.all(dirs.map((dir) => spawnBeat(t, server.url, journalIn(dir))));
  await put(beats[0]!, 'a', { schedule: { every: 3_600 } });
  await isCopied(beats[0]!, dirs, 'last');
  const epoch = await redis.hget(names.meta, 'epoch');
  await deleteNamespace(t, server.url);
  for (const beat of beats) t.match(await beat.logged('namespace_deleted'), { epoch });
  t.equal(await redis.get(names.tombstone), epoch);

  // Nor when Redis has forgotten that it was.
  await redis.flushall();
  const flushedAtMs = await redisNow(redis);
  await until(async () => (await redisNow(redis)) > flushedAtMs + 4_000, '4 s pass');
  t.equal(await redis.exists(names.meta), 0);
  t.same(linesOf(beats, 'journal_restoring'), []);

  const fresh = await spawnBeat(t, server.url);
  await areReady([...beats, fresh]);
  t.not(await redis.hget(names.meta, 'epoch'), epoch);
  t.same((await ask(fresh, '/v1/schedules')).schedules, []);
  await put(fresh, 'b', { schedule: { every: 3_600 } });
  await isCopied(fresh, dirs, 'last-again');
  await redis.flushall();
  await until(() => linesOf(beats, 'journal_restored').length === 1, 'the new one is restored');
  await areReady([...beats, fresh]);
  t.same([...(await schedulesOf(fresh)).keys()].sort(), ['b', 'last-again']);
});

t.test('a node that was off during a deletion', { timeout: 600_000 }, async (t) => {
  t.jobs = 3;

  /** A namespace with two journals, one of whose nodes is off while it is deleted. */
  const deletedWithoutOne = async (t: Test) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const [one, two] = [t.testdir({ one: {}, two: {} })].flatMap((dir) => [`${dir}/one`, `${dir}/two`]);
    const [stays, leaves] = await Promise.all([one, two].map((dir) => spawnBeat(t, server.url, journalIn(dir!))));
    await isCopied(stays!, [one!, two!], 'a');
    await leaves!.stop();
    await deleteNamespace(t, server.url);
    await stays!.logged('namespace_deleted');
    return { server, redis, stays: stays!, dir: two! };
  };

  t.test('learns of it from Redis', async (t) => {
    const { server, stays, dir } = await deletedWithoutOne(t);
    await stays.stop();
    const back = await spawnBeat(t, server.url, journalIn(dir));
    await back.logged('namespace_deleted');
    t.same((await ask(back, '/v1/schedules')).schedules, []);
    t.same(linesOf([back], 'journal_restoring'), []);
  });

  t.test('learns of it from another node when Redis has forgotten it', async (t) => {
    const { server, redis, dir } = await deletedWithoutOne(t);
    await redis.flushall();
    const back = await spawnBeat(t, server.url, journalIn(dir));
    await back.logged('namespace_deleted');
    t.same((await ask(back, '/v1/schedules')).schedules, []);
    t.same(linesOf([back], 'journal_restoring'), []);
  });

  t.test('restores the namespace when neither Redis nor another node remembers it: a stated limit', async (t) => {
    const { server, redis, stays, dir } = await deletedWithoutOne(t);
    await stays.stop();
    await redis.flushall();
    const back = await spawnBeat(t, server.url, journalIn(dir));
    await back.logged('journal_restored');
    t.same([...(await schedulesOf(back)).keys()], ['a']);
  });
});
