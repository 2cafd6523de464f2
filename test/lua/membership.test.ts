import t from 'tap';
import { heartbeat } from '../../lua/heartbeat.ts';
import { leave } from '../../lua/leave.ts';
import { EPOCH, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

interface Beat {
  readonly node?: string;
  readonly leaseMs?: number;
  /** What the node takes Redis time for, ahead of what it is; null when it may not judge. */
  readonly aheadMs?: number | null;
}

async function beat(store: Store, { node = 'n1', leaseMs = 5_000, aheadMs = 0 }: Beat = {}) {
  return heartbeat(store.redis, store.names, {
    epoch: EPOCH,
    node,
    info: `{"of": "${node}"}`,
    leaseMs,
    expectedNowMs: aheadMs === null ? null : (await store.now()) + aheadMs,
  });
}

async function lastSeen(store: Store, node: string, agoMs: number): Promise<void> {
  await store.redis.zadd(store.names.nodes, (await store.now()) - agoMs, node);
  await store.redis.hset(store.names.nodeInfo, node, '{}');
}

/** What is said on the channel that wakes nodes. */
async function listen(t: { teardown(fn: () => void): void }, store: Store) {
  const heard: string[] = [];
  const subscriber = store.redis.duplicate();
  t.teardown(() => subscriber.disconnect());
  await subscriber.subscribe(store.names.wake);
  subscriber.on('message', (_, message) => heard.push(message));
  return async () => {
    await subscriber.ping();
    return heard.splice(0);
  };
}

t.test('a heartbeat makes a node known, and answers with all who live and the settings', async (t) => {
  const store = await open();
  const before = await store.now();
  const first = await beat(store);
  t.same(first.nodes, ['n1']);
  t.ok(first.nowMs >= before && first.nowMs <= (await store.now()));
  t.equal(first.meta.get('shards'), '1');
  t.same((await beat(store, { node: 'n2' })).nodes, ['n1', 'n2']);
  t.same(await store.redis.hgetall(store.names.nodeInfo), { n1: '{"of": "n1"}', n2: '{"of": "n2"}' });
});

t.test('the same heartbeat again only renews its time', async (t) => {
  const store = await open();
  await beat(store);
  const heard = await listen(t, store);
  await beat(store);
  t.same(await heard(), []);
  t.equal(await store.redis.zcard(store.names.nodes), 1);
});

t.test('a node that is silent for longer than its lease is taken out, and all are told', async (t) => {
  const store = await open();
  await beat(store);
  await lastSeen(store, 'fresh', 4_000);
  await lastSeen(store, 'dead', 6_000);
  const heard = await listen(t, store);
  t.same((await beat(store)).nodes.toSorted(), ['fresh', 'n1']);
  t.same(await heard(), ['members']);
  t.same((await store.redis.hkeys(store.names.nodeInfo)).sort(), ['fresh', 'n1']);
});

const NO_JUDGES: readonly (readonly [string, number | null])[] = [
  ['that has not seen Redis steady for a lease', null],
  ["to which Redis's clock seems to have stepped forward", -2_000],
  ["to which Redis's clock seems to have stepped back", 2_000],
];
for (const [title, aheadMs] of NO_JUDGES) {
  t.test(`a node ${title} judges nobody dead`, async (t) => {
    const store = await open();
    await lastSeen(store, 'silent', 60_000);
    await lastSeen(store, 'ahead', -60_000);
    t.same((await beat(store, { aheadMs })).nodes.toSorted(), ['ahead', 'n1', 'silent']);
  });
}

t.test('heartbeats from before the clock stepped back do not keep a dead node alive', async (t) => {
  const store = await open();
  await lastSeen(store, 'ahead', -60_000);
  t.same((await beat(store)).nodes, ['n1']);
});

t.test('a node that was taken for dead is back with its next heartbeat', async (t) => {
  const store = await open();
  await beat(store);
  await lastSeen(store, 'suspended', 30_000);
  await beat(store);
  const heard = await listen(t, store);
  t.same((await beat(store, { node: 'suspended' })).nodes.toSorted(), ['n1', 'suspended']);
  t.same(await heard(), ['members']);
});

t.test('a node that leaves is gone at once, and all are told; leaving again does no harm', async (t) => {
  const store = await open();
  await beat(store);
  await beat(store, { node: 'n2' });
  const heard = await listen(t, store);
  await leave(store.redis, store.names, 'n2');
  t.same(await heard(), ['members']);
  t.same(await store.redis.zrange(store.names.nodes, '0', '-1'), ['n1']);
  t.same(await store.redis.hkeys(store.names.nodeInfo), ['n1']);
  const before = await store.snapshot();
  await leave(store.redis, store.names, 'n2');
  t.same(await store.snapshot(), before);
});

t.test('nothing is written to a namespace that is gone', async (t) => {
  const store = await open();
  await store.redis.del(store.names.meta);
  await t.rejects(beat(store), { code: 'NAMESPACE_GONE' });
  await leave(store.redis, store.names, 'n1');
  t.same(await store.snapshot(), {});
});

t.test('who serves a full Redis is still known', async (t) => {
  const store = await open();
  await beat(store);
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    t.same((await beat(store, { node: 'n2' })).nodes, ['n1', 'n2']);
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
});
