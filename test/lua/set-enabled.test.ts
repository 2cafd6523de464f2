import t from 'tap';
import { spreadOffsetMs } from '../../lua/definition.ts';
import { decodeScore } from '../../lua/score.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { EPOCH, firstGridPoint, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const set = (store: Store, enabled: boolean, ...ids: readonly string[]) =>
  setEnabled(store.redis, store.names, store.keys, { epoch: EPOCH, shard: 0, enabled, ids });

t.test('pause takes a schedule out of the due set, resume puts it back at the next point of its grid', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 20 }, { id: 'b' });
  t.same(await set(store, false, 'a', 'missing', 'b'), ['changed', 'missing', 'changed']);
  t.same(await store.redis.zrange(store.keys.due, '0', '-1'), []);
  t.match(await store.dispatch(), { sent: 0, nextDueMs: null });
  await store.passes((await store.now()) + 50);
  const before = await store.now();
  t.same(await set(store, true, 'a', 'missing', 'b'), ['changed', 'missing', 'changed']);
  const due = (await store.score('a'))!.atMs;
  t.ok(due > before, 'what passed meanwhile is not missed');
  t.equal(due % 20, spreadOffsetMs('a', 20));
  t.ok(due <= (await store.now()) + 20);
  t.same(await set(store, true, 'a', 'b'), ['unchanged', 'unchanged']);
});

t.test('the same call again changes nothing', async (t) => {
  const store = await open();
  await store.put({ id: 'a' }, { id: 'b' });
  for (const enabled of [false, true]) {
    await set(store, enabled, 'a', 'b');
    const before = await store.snapshot();
    t.same(await set(store, enabled, 'a', 'b'), ['unchanged', 'unchanged']);
    t.same(await store.snapshot(), before);
  }
});

t.test('pause and resume leave everything else of a schedule as it is', async (t) => {
  const store = await open();
  await store.put({ id: 'a', args: ['é\x1f'], tags: ['t'], endMs: 9e12, startMs: 5, headers: { h: 1 } });
  const before = await store.redis.hget(store.keys.definitions, 'a');
  await set(store, false, 'a');
  t.not(await store.redis.hget(store.keys.definitions, 'a'), before);
  await set(store, true, 'a');
  t.equal(await store.redis.hget(store.keys.definitions, 'a'), before);
});

t.test('what the last run was is kept over a pause', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 5;
  await store.putDue({ id: 'a', every: 60_000, dueMs });
  const { latenesses } = await store.dispatch();
  const told = `${dueMs}:${latenesses[0]?.[0]}`;
  await set(store, false, 'a');
  t.equal(await store.redis.hget(store.keys.last, 'a'), told);
  await set(store, true, 'a');
  t.equal(await store.redis.hget(store.keys.last, 'a'), told);
  t.same(await store.score('a'), { atMs: dueMs + 60_000, latenessMs: null });
});

t.test('a resumed schedule never runs again for a due time that was sent', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'a' });
  // As after a step back of the clock: the last run was due a minute from now.
  await store.redis.hset(store.keys.last, 'a', `${now + 60_000}:0`);
  await set(store, false, 'a');
  await set(store, true, 'a');
  t.equal((await store.score('a'))?.atMs, firstGridPoint({ id: 'a' }, now + 60_000));
});

t.test('resumed after its end, a schedule stays out of the due set', async (t) => {
  const store = await open();
  const endMs = (await store.now()) + 60;
  await store.put({ id: 'a', every: 20, endMs });
  await set(store, false, 'a');
  await store.passes(endMs);
  t.same(await set(store, true, 'a'), ['changed']);
  t.equal(await store.score('a'), null);
});

t.test('a one-shot whose time comes while it is paused does not run; one that is still ahead does', async (t) => {
  const store = await open();
  const at = (await store.now()) + 30;
  await store.put({ id: 'passed', at }, { id: 'ahead', at: at + 60_000 });
  await set(store, false, 'passed', 'ahead');
  await store.passes(at);
  t.same(await set(store, true, 'passed', 'ahead'), ['changed', 'changed']);
  t.equal(await store.score('passed'), null);
  t.ok(Number(await store.redis.zscore(store.keys.completed, 'passed')) > at);
  t.equal((await store.score('ahead'))?.atMs, at + 60_000);
  t.equal(await store.redis.zscore(store.keys.completed, 'ahead'), null);
});

t.test('a completed one-shot that is paused and resumed is still completed, and tells when it ran', async (t) => {
  const store = await open();
  await store.put({ id: 'a', at: (await store.now()) - 5 });
  const { nowMs, latenesses } = await store.dispatch();
  await set(store, false, 'a');
  await set(store, true, 'a');
  t.equal(await store.score('a'), null);
  t.same(decodeScore((await store.redis.zscore(store.keys.completed, 'a'))!), {
    atMs: nowMs,
    latenessMs: latenesses[0]![0],
  });
});

t.test('a resumed schedule that is the head of its shard within a second is announced', async (t) => {
  const store = await open();
  const heard: string[] = [];
  const subscriber = store.redis.duplicate();
  t.teardown(() => subscriber.disconnect());
  await subscriber.subscribe(store.names.wake);
  subscriber.on('message', (_, message) => heard.push(message));
  const at = (await store.now()) + 900;
  await store.put({ id: 'soon', at, enabled: false }, { id: 'far', at: at + 60_000, enabled: false });
  await set(store, true, 'far');
  await set(store, true, 'soon');
  await set(store, false, 'soon');
  await subscriber.ping();
  t.same(heard, [`0:${at}`]);
});

t.test('an unreadable definition counts as missing and stops nobody else', async (t) => {
  const store = await open();
  await store.put({ id: 'a' }, { id: 'b' });
  await store.redis.hset(store.keys.definitions, 'a', 'nonsense');
  t.same(await set(store, false, 'a', 'b'), ['missing', 'changed']);
});

t.test('nothing is written to a namespace that is gone', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  await store.redis.hset(store.names.meta, 'epoch', 'another');
  const before = await store.snapshot();
  await t.rejects(set(store, false, 'a'), { code: 'NAMESPACE_GONE' });
  t.same(await store.snapshot(), before);
});
