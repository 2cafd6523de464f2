import t from 'tap';
import { deleteNamespace } from '../../lua/delete-namespace.ts';
import { namespaceKeys } from '../../lua/keys.ts';
import { openNamespace } from '../../lua/open-namespace.ts';
import { setSettings } from '../../lua/set-settings.ts';
import { EPOCH, storeFactory } from './store.ts';

const open = await storeFactory(t);

t.test('of several who create a namespace one does, and all read what it wrote', async (t) => {
  const { redis } = await open();
  const names = namespaceKeys('fresh');
  const answers = await Promise.all(
    ['e1', 'e2', 'e3'].map((epoch) => openNamespace(redis, names, { epoch, settings: { shards: epoch } })),
  );
  for (const answer of answers) {
    t.equal(answer.get('epoch'), 'e1');
    t.equal(answer.get('shards'), 'e1');
    t.match(answer.get('created_at'), /^\d{13}$/);
  }
  const before = await redis.hgetall(names.meta);
  await openNamespace(redis, names, { epoch: 'e1', settings: { shards: 'e1' } });
  t.same(await redis.hgetall(names.meta), before);
});

t.test('reading creates nothing', async (t) => {
  const { redis } = await open();
  const names = namespaceKeys('fresh');
  t.equal((await openNamespace(redis, names, null)).size, 0);
  t.equal(await redis.exists(names.meta), 0);
});

t.test('settings are changed only in the namespace that is meant', async (t) => {
  const { redis, names } = await open();
  await setSettings(redis, names, EPOCH, [['queue_cap', '5']]);
  await setSettings(redis, names, EPOCH, [['queue_cap', '5']]);
  t.match(await redis.hgetall(names.meta), { epoch: EPOCH, queue_cap: '5', shards: '1' });
  await t.rejects(setSettings(redis, names, 'another', [['queue_cap', '6']]), { code: 'NAMESPACE_GONE' });
  t.equal(await redis.hget(names.meta, 'queue_cap'), '5');
});

t.test('deletion leaves a tombstone, what is in queues, and what belongs to others', async (t) => {
  const store = await open();
  const { redis, names } = store;
  await store.put({ id: 'a', at: 5 }, { id: 'b' });
  await store.dispatch();
  const others = ['rb', 'rbx:meta', 'xrb:meta', 'celery-task-meta-1', 'RB:meta'];
  for (const key of others) await redis.set(key, 'theirs');
  // More than one page.
  for (let i = 0; i < 3_000; i++) redis.set(`rb:more:${i}`, i).catch(() => {});
  await redis.ping();
  const deleted = await deleteNamespace(redis, names, 'rb', EPOCH);
  t.ok(deleted > 3_000);
  t.same((await redis.keys('*')).sort(), ['celery', names.tombstone, ...others].sort());
  t.equal(await redis.get(names.tombstone), EPOCH);
});

t.test('deletion of another namespace of that name changes nothing', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  const before = await store.snapshot();
  await t.rejects(deleteNamespace(store.redis, store.names, 'rb', 'another'), { code: 'NAMESPACE_GONE' });
  t.same(await store.snapshot(), before);
});

t.test('a deletion that was interrupted is finished by the same call again', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  const definitions = await store.redis.hgetall(store.keys.definitions);
  await deleteNamespace(store.redis, store.names, 'rb', EPOCH);
  await store.redis.hset(store.keys.definitions, definitions);
  await deleteNamespace(store.redis, store.names, 'rb', EPOCH);
  t.same(await store.snapshot(), { [store.names.tombstone]: Buffer.from(EPOCH).toString('hex') });
  await openNamespace(store.redis, store.names, { epoch: 'second', settings: {} });
  await t.rejects(deleteNamespace(store.redis, store.names, 'rb', EPOCH), { code: 'NAMESPACE_GONE' });
});

t.test('a Redis that is full can be emptied', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    await deleteNamespace(store.redis, store.names, 'rb', EPOCH);
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
  t.same(await store.redis.keys('*'), [store.names.tombstone]);
});

t.test('a name with characters that patterns know deletes only its own keys', async (t) => {
  const { redis } = await open();
  const names = namespaceKeys('a.b');
  await openNamespace(redis, names, { epoch: 'e', settings: {} });
  await redis.set('a.b:x', '1');
  await redis.set('aXb:x', '1');
  await deleteNamespace(redis, names, 'a.b', 'e');
  t.equal(await redis.exists('aXb:x'), 1);
  t.equal(await redis.exists('a.b:x'), 0);
});

t.test('a namespace that is created anew has no tombstone and another epoch', async (t) => {
  const { redis, names } = await open();
  await deleteNamespace(redis, names, 'rb', EPOCH);
  const meta = await openNamespace(redis, names, { epoch: 'second', settings: {} });
  t.equal(meta.get('epoch'), 'second');
  t.equal(await redis.exists(names.tombstone), 0);
});
