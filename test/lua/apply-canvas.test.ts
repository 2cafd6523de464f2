import t from 'tap';
import type { Action } from '../../lua/actions.ts';
import { applyCanvas } from '../../lua/apply-canvas.ts';
import { EPOCH, storeFactory } from './store.ts';

const open = await storeFactory(t);
const push = (envelope: string, list = 'celery'): Action => ({ kind: 'push', list, envelope });
const SIZE: Action = { kind: 'size', groupId: 'g', size: 2 };
const KEY = 'celery-taskset-meta-g.s';

async function setUp() {
  const store = await open();
  await store.redis.hset(store.names.meta, 'epoch', EPOCH);
  const apply = (actions: readonly Action[], request: { requestId?: string; epoch?: string } = {}) =>
    applyCanvas(store.redis, store.names, {
      ...{ namespace: 'rb', epoch: EPOCH, requestId: 'r', queueCap: 2, shards: 1, resultExpiresSec: 60 },
      ...request,
      actions,
    });
  return { redis: store.redis, apply };
}

t.test('the messages of a workflow are sent with the sizes of its chords, once for each request', async (t) => {
  const { redis, apply } = await setUp();
  t.equal(await apply([SIZE, push('a'), push('b')]), 'taken');
  t.equal(await apply([SIZE, push('a'), push('b')]), 'taken');
  t.same(await redis.lrange('celery', 0, -1), ['b', 'a']);
  t.equal(await redis.get(KEY), '2');
  t.equal(await redis.ttl(KEY), 60);
});

t.test('nothing is sent where one queue has no room for all of its messages', async (t) => {
  const { redis, apply } = await setUp();
  await redis.lpush('full', 'x');
  const actions = [SIZE, push('a'), push('b', 'full'), push('c', 'full')];
  t.same(await apply(actions), { queue: 'full', outcome: 'full' });
  t.same(await redis.exists('celery', KEY), 0);
  await redis.del('full');
  t.equal(await apply(actions), 'taken', 'a request that was refused may be repeated');
});

t.test('nothing is sent where the key of a queue is no list', async (t) => {
  const { redis, apply } = await setUp();
  await redis.set('text', 'x');
  t.same(await apply([push('a'), push('b', 'text')]), { queue: 'text', outcome: 'not a list' });
  t.equal(await redis.exists('celery'), 0);
});

t.test('nothing is sent in a namespace that is another one by now', async (t) => {
  const { redis, apply } = await setUp();
  await t.rejects(apply([push('a')], { epoch: 'old' }), { code: 'NAMESPACE_GONE' });
  t.equal(await redis.exists('celery'), 0);
});
