import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { connect } from '../../lua/connection.ts';
import { namespaceKeys, queueList, resultKey, shardKeys, workerKeys } from '../../lua/keys.ts';
import { listParked } from '../../lua/list-parked.ts';
import { restoreLostWorkers, WORKER_LEASE_MS } from '../../lua/restore.ts';
import { definedScripts } from '../../lua/script.ts';
import { RevokedTasks } from '../../protocol/revoked-tasks.ts';
import type { Namespace } from '../../registry/namespace.ts';
import { DelayedQueues } from '../../scheduler/delayed.ts';
import { eventually, until } from '../support/eventually.ts';
import { type CommandMatcher, runsScript, startProxy } from '../support/proxy.ts';
import { withRedis } from '../support/redis-server.ts';
import { envelope, iso, redisNow, whereabouts } from '../worker/messages.ts';

const server = await withRedis(t);
const redis = server.connect();
t.teardown(() => redis.disconnect());
t.beforeEach(async () => {
  await redis.flushall();
  await redis.hset('rb:meta', 'shards', '16', 'epoch', 'e1');
});

const NOWHERE = { queued: 0, unacked: 0, index: 0, dead: 0 };

interface Node {
  readonly revoked: RevokedTasks;
  readonly queues: DelayedQueues;
  namespace: Namespace | null;
}

/** A beat node's part that moves the messages of \`celery.delayed\` and \`video.delayed\`. */
function startNode(t: Test, options: { readonly url?: string; readonly nodeId?: string } = {}): Node {
  const { url = server.url, nodeId = 'node-1' } = options;
  const connection = connect(url, { option: '--redis', name: nodeId, commandTimeoutMs: 1_000 });
  const settings = { queueCap: 1, misfireThresholdMs: 1, keepCompletedMs: 1, recoveryRate: 0, missedFirst: 0 };
  const revoked = new RevokedTasks();
  const node: Node = {
    revoked,
    namespace: { ...settings, name: 'rb', epoch: 'e1', shards: 16, delayedQueues: ['celery', 'video'] },
    queues: new DelayedQueues({
      redis: connection,
      nodeId,
      revoked,
      log: pino({ level: 'silent' }),
      namespace: () => node.namespace,
    }),
  };
  t.teardown(async () => {
    await node.queues.stop();
    connection.disconnect();
  });
  node.queues.start();
  return node;
}

function delayed(raw: string, queue = 'celery.delayed', priority = 0): Promise<number> {
  return redis.lpush(queueList(queue, priority), raw);
}

function parked() {
  return listParked(redis, 'rb', 16, ['celery', 'video'], 1_000);
}

const LISTS = ['celery.delayed', 'celery.delayed\x06\x163', 'video.delayed'];

async function allMoved(): Promise<void> {
  await eventually(async () => assert.deepEqual(await whereabouts(redis, ...LISTS), NOWHERE));
}

t.test('messages with a future eta are parked for the queue, untouched', async (t) => {
  startNode(t);
  const etaMs = (await redisNow(redis)) + 3_600_000;
  const raws = [
    envelope({ queue: 'celery.delayed', headers: { eta: iso(etaMs) } }),
    envelope({ queue: 'celery.delayed', headers: { eta: iso(etaMs + 1) }, priority: 4 }),
    envelope({ queue: 'video.delayed', headers: { eta: iso(etaMs + 2) } }),
  ];
  await delayed(raws[0]!);
  await delayed(raws[1]!, 'celery.delayed', 4);
  await delayed(raws[2]!, 'video.delayed');
  await allMoved();
  t.same(
    (await parked()).map(({ etaMs, list, envelope }) => ({ etaMs, list, envelope })),
    [
      { etaMs, list: 'celery', envelope: raws[0] },
      { etaMs: etaMs + 1, list: 'celery\x06\x163', envelope: raws[1] },
      { etaMs: etaMs + 2, list: 'video', envelope: raws[2] },
    ],
  );
});

t.test('all others go on to the queue at once, in their order, untouched', async (t) => {
  startNode(t);
  const past = iso((await redisNow(redis)) - 1_000);
  const raws = [
    envelope({ id: 'a' }),
    envelope({ id: 'b', headers: { eta: past } }),
    envelope({ id: 'c', headers: { eta: 'nonsense' } }),
    envelope({ id: 'd', headers: { task: 7 } }),
    JSON.stringify({ ...JSON.parse(envelope({ id: 'e' })), 'content-type': 'application/x-python-serialize' }),
  ];
  await redis.lpush('celery', 'waiting');
  for (const raw of raws) await delayed(raw);
  await delayed(raws[0]!.replace('"priority": 0', '"priority": 3'), 'celery.delayed', 3);
  await allMoved();
  t.same((await redis.lrange('celery', 0, -1)).reverse(), ['waiting', ...raws]);
  t.equal(await redis.llen('celery\x06\x163'), 1);
  t.same(await parked(), []);
});

t.test('what the body is written in does not matter, nor the protocol', async (t) => {
  startNode(t);
  const eta = iso((await redisNow(redis)) + 3_600_000);
  const pickled = JSON.parse(envelope({ id: 'pickled', headers: { eta } }));
  const url = new URL('../../../test/fixtures/celery-samples/task-protocol1.json', import.meta.url);
  const { lists } = JSON.parse(readFileSync(url, 'utf8')) as { lists: Record<string, { raw: string }[]> };
  const protocol1 = JSON.parse(Object.values(lists)[0]![0]!.raw);
  const body = { ...JSON.parse(Buffer.from(protocol1.body, 'base64').toString()), id: 'old', eta };
  await delayed(JSON.stringify({ ...pickled, 'content-type': 'application/x-python-serialize', body: 'gASV' }));
  await delayed(JSON.stringify({ ...protocol1, body: Buffer.from(JSON.stringify(body)).toString('base64') }));
  await allMoved();
  const ids = (await parked()).map(({ envelope }) => JSON.parse(envelope).headers.id ?? 'old').sort();
  t.same(ids, ['old', 'pickled']);
});

t.test('revoked tasks are dropped, leaving their record', async (t) => {
  const node = startNode(t);
  node.revoked.add(['gone'], 0);
  await delayed(envelope({ id: 'gone', headers: { eta: iso((await redisNow(redis)) + 3_600_000) } }));
  await delayed(envelope({ id: 'kept' }));
  await allMoved();
  t.match(JSON.parse((await redis.get(resultKey('gone')))!), { status: 'REVOKED', task_id: 'gone' });
  t.same(
    (await redis.lrange('celery', 0, -1)).map((raw) => JSON.parse(raw).headers.id),
    ['kept'],
  );
  t.same(await parked(), []);
});

t.test('a message for a queue whose key is no list becomes a dead letter', async (t) => {
  startNode(t);
  await redis.set('celery', 'x');
  await delayed(envelope({ id: 'stuck' }));
  await until(async () => (await redis.xlen('rb:dead-letters')) === 1, 'a dead letter');
  t.equal(await redis.hlen('unacked'), 0);
});

t.test('several nodes move every message once', async (t) => {
  const etaMs = (await redisNow(redis)) + 3_600_000;
  for (let n = 0; n < 2_000; n++) {
    await delayed(envelope({ id: `id-${n}`, headers: n % 2 === 0 ? { eta: iso(etaMs) } : {} }));
  }
  for (const nodeId of ['node-1', 'node-2', 'node-3']) startNode(t, { nodeId });
  await allMoved();
  const ids = [...(await redis.lrange('celery', 0, -1)), ...(await parked()).map(({ envelope }) => envelope)];
  t.equal(new Set(ids.map((raw) => JSON.parse(raw).headers.id)).size, 2_000);
  t.equal(ids.length, 2_000);
});

const scriptNamed = (name: string): CommandMatcher =>
  runsScript(definedScripts().find((script) => script.name === name) ?? assert.fail(name));

for (const name of ['reserve', 'park', 'forward', 'settle']) {
  for (const when of ['cutAfter', 'cutBefore'] as const) {
    t.test(`every message is moved once when the connection breaks at ${name} (${when})`, async (t) => {
      const proxy = await startProxy(t, server.port);
      const cuts = proxy[when](scriptNamed(name), 3);
      const node = startNode(t, { url: proxy.url });
      const etaMs = (await redisNow(redis)) + 3_600_000;
      for (let n = 0; n < 1_200; n++) {
        if (n % 100 === 0) node.revoked.add([`id-${n}`], 0);
        await delayed(envelope({ id: `id-${n}`, headers: n % 2 === 0 ? { eta: iso(etaMs) } : {} }));
      }
      await allMoved();
      const moved = [...(await redis.lrange('celery', 0, -1)), ...(await parked()).map(({ envelope }) => envelope)];
      t.equal(moved.length, 1_188);
      t.equal(new Set(moved.map((raw) => JSON.parse(raw).headers.id)).size, 1_188);
      t.equal((await redis.keys(resultKey('*'))).length, 12);
      t.ok(cuts.count >= 1);
    });
  }
}

t.test('what a dead node had taken goes back to the delayed queue, to be moved by another', async (t) => {
  const raw = envelope({ id: 'a', tag: 'a', queue: 'celery.delayed' });
  await redis.hset('unacked', 'a', `[${raw}, "", "celery.delayed"]`);
  await redis.zadd('unacked_index', '1', 'a');
  await redis.sadd(workerKeys('rb', 'dead').reserved, 'a');
  const now = await redisNow(redis);
  await redis.zadd(namespaceKeys('rb').workers, now - WORKER_LEASE_MS - 1_000, 'dead');
  t.match(await restoreLostWorkers(redis, 'rb', now), { workers: ['dead'], restored: 1 });
  t.equal(await redis.llen('celery.delayed'), 1);
  startNode(t);
  await allMoved();
  t.equal(await redis.llen('celery'), 1);
});

t.test('a node is known as a holder while it takes part, and leaves when it stops or is told to', async (t) => {
  const { workers } = namespaceKeys('rb');
  const node = startNode(t);
  await until(async () => (await redis.zcard(workers)) === 1, 'it is known');
  await node.queues.stop();
  t.same((await redis.keys('*')).sort(), ['rb:meta']);
  const other = startNode(t, { nodeId: 'node-2' });
  await until(async () => (await redis.zcard(workers)) === 1, 'it is known');
  other.namespace = { ...other.namespace!, delayedQueues: [] };
  await until(async () => (await redis.exists(workers)) === 0, 'it has left');
});

t.test('nothing is taken while the namespace is gone, and nothing is lost when it goes', async (t) => {
  const node = startNode(t);
  await until(async () => (await redis.zcard('rb:workers')) === 1, 'it is known');
  await redis.del('rb:meta');
  const raw = envelope({ id: 'a', queue: 'celery.delayed', headers: { eta: iso((await redisNow(redis)) + 60_000) } });
  await delayed(raw);
  await eventually(async () => {
    const [back] = await redis.lrange('celery.delayed', 0, -1);
    assert.equal(JSON.parse(back ?? '{"headers": {}}').headers.redelivered, true, 'taken and given back');
  });
  node.namespace = null;
  await redis.hset('rb:meta', 'shards', '16');
  const shards = Array.from({ length: 16 }, (_, shard) => shardKeys('rb', shard).parked);
  t.equal(await redis.exists(...shards), 0);
});
