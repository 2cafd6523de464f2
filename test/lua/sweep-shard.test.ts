import t from 'tap';
import { readLateness } from '../../lua/lateness.ts';
import { sweepShard } from '../../lua/sweep-shard.ts';
import { brokenLaws } from './laws.ts';
import { EPOCH, fieldsOf, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const sweep = (store: Store, keepMs = 3_600_000) => sweepShard(store.redis, store.names, store.keys, EPOCH, keepMs);

t.test('the histogram moves to the history, once', async (t) => {
  const store = await open();
  await store.put({ id: 'a', at: 5 });
  await store.dispatch();
  const histogram = (await store.redis.getBuffer(store.keys.lateness))!;
  const before = await store.now();
  t.equal(await sweep(store), false);
  t.equal(await store.redis.exists(store.keys.lateness), 0);
  const history = await store.redis.xrange(store.keys.history, '-', '+');
  t.equal(history.length, 1);
  const at = Number(fieldsOf(history[0]![1]).at);
  t.ok(at >= before && at <= (await store.now()));
  const [[, [, , , kept]]] = (await store.redis.xrangeBuffer(store.keys.history, '-', '+')) as [[Buffer, Buffer[]]];
  t.same(kept, histogram);
  const after = await store.snapshot();
  await sweep(store);
  t.same(await store.snapshot(), after);
});

t.test('nothing is missing from the figures before, while and after it moves', async (t) => {
  const store = await open();
  const since = await store.now();
  const figures = async () => (await readLateness(store.redis, [store.keys], since)).count;
  await store.put({ id: 'a', at: since });
  await store.dispatch();
  t.equal(await figures(), 1);
  await sweep(store);
  t.equal(await figures(), 1);
  await store.put({ id: 'b', at: since });
  await store.dispatch();
  t.equal(await figures(), 2);
});

t.test('the history keeps two minutes of seconds', async (t) => {
  const store = await open();
  for (let i = 0; i < 125; i++) {
    await store.redis.set(store.keys.lateness, Buffer.from([0, 0, 0, 1]));
    await sweep(store);
  }
  t.equal(await store.redis.xlen(store.keys.history), 120);
});

t.test('after a step back of the clock, what was recorded before it is not taken for recent', async (t) => {
  const store = await open();
  const now = await store.now();
  const one = Buffer.from([0, 0, 0, 1]);
  const ahead = now + 3_600_000;
  await store.redis.xadd(store.keys.history, `${ahead}-0`, 'at', ahead, 'lateness', one);
  await store.redis.set(store.keys.lateness, one);
  await sweep(store);
  const lateness = await readLateness(store.redis, [store.keys], now - 10_000, now);
  t.equal(lateness.count, 1);
});

t.test('a completed one-shot is removed when its time is up, with its template', async (t) => {
  const store = await open();
  await store.put({ id: 'old', at: 5, task: 'other' }, { id: 'late', at: 1 }, { id: 'ahead', at: 9e12 });
  await store.dispatch();
  await store.redis.zadd(store.keys.completed, 'XX', (await store.now()) - 10_000, 'old');
  await store.redis.del(store.keys.lateness);
  t.equal(await sweep(store, 5_000), false);
  t.same((await store.redis.hkeys(store.keys.definitions)).sort(), ['ahead', 'late']);
  t.same(await store.redis.zrange(store.keys.completed, '0', '-1'), ['late']);
  t.same(await store.redis.hkeys(store.keys.last), ['late']);
  t.equal(await store.redis.hlen(store.keys.templates), 1);
  t.same(Object.values(await store.redis.hgetall(store.keys.templateUses)), ['2']);
  const after = await store.snapshot();
  await sweep(store, 5_000);
  t.same(await store.snapshot(), after);
});

t.test('one that was scheduled again, or is gone, only leaves the list of the completed', async (t) => {
  const store = await open();
  await store.put({ id: 'again', at: 9e12 });
  await store.redis.zadd(store.keys.completed, 5, 'again', 5, 'gone');
  await sweep(store);
  t.equal(await store.redis.exists(store.keys.completed), 0);
  t.ok(await store.score('again'));
  t.equal(await store.redis.hlen(store.keys.definitions), 1);
  t.same(Object.values(await store.redis.hgetall(store.keys.templateUses)), ['1']);
});

t.test('a completed one-shot that became something else is not removed', async (t) => {
  for (const parts of [
    { id: 'a', every: 1_000, enabled: false },
    { id: 'a', at: 9e12, enabled: false },
    { id: 'a', calendar: { untilMs: 5, values: [] } },
    { id: 'a', after: 1_000, enabled: false },
  ]) {
    const store = await open();
    await store.put({ id: 'a', at: 5 });
    await store.dispatch();
    await store.passes((await store.now()) + 1);
    await store.put(parts);
    await sweep(store, 0);
    t.equal(await store.redis.hexists(store.keys.definitions, 'a'), 1, JSON.stringify(parts));
    t.same(await brokenLaws(store.redis, 'rb', 1), []);
  }
});

t.test('many are removed in bounded calls', async (t) => {
  const store = await open();
  await store.put(...Array.from({ length: 450 }, (_, i) => ({ id: `s${i}`, at: i })));
  while ((await store.dispatch()).isMoreDue);
  await store.passes((await store.now()) + 1);
  const calls: boolean[] = [];
  do calls.push(await sweep(store, 0));
  while (calls.at(-1));
  t.same(calls, [true, true, false]);
  t.equal(await store.redis.exists(store.keys.definitions, store.keys.templates, store.keys.templateUses), 0);
});

t.test('a Redis that is full still lets go of what completed', async (t) => {
  const store = await open();
  await store.put({ id: 'a', at: 5 });
  await store.dispatch();
  await store.passes((await store.now()) + 1);
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    await sweep(store, 0);
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
  t.equal(await store.redis.exists(store.keys.definitions, store.keys.completed, store.keys.templates), 0);
});

t.test('nothing is written to a namespace that is gone', async (t) => {
  const store = await open();
  await store.put({ id: 'a', at: 5 });
  await store.dispatch();
  await store.redis.del(store.names.meta);
  const before = await store.snapshot();
  await t.rejects(sweep(store, 0), { code: 'NAMESPACE_GONE' });
  t.same(await store.snapshot(), before);
});
