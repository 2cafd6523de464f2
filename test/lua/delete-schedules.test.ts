import t from 'tap';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { EPOCH, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const remove = (store: Store, ...ids: readonly string[]) =>
  deleteSchedules(store.redis, store.names, store.keys, EPOCH, ids);

t.test('a deleted schedule leaves nothing behind, and others stay as they are', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'stays' });
  const before = await store.snapshot();
  await store.put(
    { id: 'a', task: 'other' },
    { id: 'shares' },
    { id: 'paused', enabled: false },
    { id: 'once', at: now },
  );
  await store.redis.hset(store.keys.last, 'a', `${now}:1`);
  t.same(await remove(store, 'a', 'missing', 'shares', 'paused', 'once'), [true, false, true, true, true]);
  // Numbers of templates are never given out twice, so their count stays.
  await store.redis.hset(store.keys.counts, 'templates', 1);
  t.same(await store.snapshot(), before);
});

t.test('the same call again changes nothing', async (t) => {
  const store = await open();
  await store.put({ id: 'a' }, { id: 'b' });
  await remove(store, 'a');
  const before = await store.snapshot();
  t.same(await remove(store, 'a'), [false]);
  t.same(await store.snapshot(), before);
});

t.test('an id that is given twice is deleted, and its template let go of, once', async (t) => {
  const store = await open();
  await store.put({ id: 'a' }, { id: 'b' });
  t.same(await remove(store, 'a', 'a'), [true, false]);
  t.same(Object.values(await store.redis.hgetall(store.keys.templateUses)), ['1']);
});

t.test('a completed one-shot can be deleted', async (t) => {
  const store = await open();
  await store.put({ id: 'a', at: 5 });
  await store.dispatch();
  t.same(await remove(store, 'a'), [true]);
  t.equal(await store.redis.exists(store.keys.completed, store.keys.definitions, store.keys.templates), 0);
});

t.test('what was sent stays in its queue', async (t) => {
  const store = await open();
  await store.put({ id: 'a', at: 5 });
  await store.dispatch();
  await remove(store, 'a');
  t.equal(await store.redis.llen('celery'), 1);
});

t.test('nothing is removed from a namespace that is gone', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  await store.redis.hset(store.names.meta, 'epoch', 'another');
  const before = await store.snapshot();
  await t.rejects(remove(store, 'a'), { code: 'NAMESPACE_GONE' });
  t.same(await store.snapshot(), before);
});

t.test('a Redis that is full can be emptied', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  await remove(store, 'missing');
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    t.same(await remove(store, 'a'), [true]);
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
  t.equal(await store.redis.exists(store.keys.templates, store.keys.templateUses, store.keys.due), 0);
});
