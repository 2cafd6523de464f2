import t from 'tap';
import { realign } from '../../lua/realign.ts';
import { EPOCH, firstGridPoint, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const run = (store: Store) => realign(store.redis, store.names, store.keys, EPOCH);

/** As after a step back of the clock by an hour: all that waits, waits an hour longer. */
async function stepBack(store: Store): Promise<void> {
  const due = await store.redis.zrange(store.keys.due, '0', '-1', 'WITHSCORES');
  for (let i = 0; i < due.length; i += 2)
    await store.redis.zadd(store.keys.due, String(Number(due[i + 1]) + 3_600_000), due[i]!);
}

t.test('schedules that would wait longer than their interval go to the next point of their grid', async (t) => {
  const store = await open();
  await store.put({ id: 'a' }, { id: 'b', every: 20_000, phase: 5 });
  await stepBack(store);
  const before = await store.now();
  t.equal(await run(store), 2);
  const after = await store.now();
  for (const [id, parts] of [
    ['a', { id: 'a' }],
    ['b', { id: 'b', every: 20_000, phase: 5 }],
  ] as const) {
    const bounds = [before, after].map((atMs) => firstGridPoint(parts, atMs));
    t.ok(bounds.includes((await store.score(id))!.atMs));
  }
  const settled = await store.snapshot();
  t.equal(await run(store), 0);
  t.same(await store.snapshot(), settled);
});

t.test('none goes back to a due time that was sent already', async (t) => {
  const store = await open();
  const dueMs = (await store.now()) - 5;
  await store.putDue({ id: 'a', dueMs });
  const { latenesses } = await store.dispatch();
  await store.put({ id: 'told', phase: dueMs % 10_000 });
  await stepBack(store);
  // 'a' tells by its score that it ran an hour ahead; this one does by the hash.
  await store.redis.hset(store.keys.last, 'told', `${dueMs + 50_000}:2`);
  const score = await store.redis.zscore(store.keys.due, 'a');
  t.equal(await run(store), 1);
  t.equal(await store.redis.zscore(store.keys.due, 'a'), score);
  t.same(await store.score('told'), { atMs: dueMs + 60_000, latenessMs: null });
  t.ok(latenesses.length > 0);
});

t.test('what the last run was is kept', async (t) => {
  const store = await open();
  await store.put({ id: 'a', every: 10_000, phase: 0 });
  const now = await store.now();
  // The last run an interval before a due time two intervals ahead: due less than what is moved past it.
  const due = Math.ceil(now / 10_000) * 10_000 + 40_000;
  await store.redis.zadd(store.keys.due, due, 'a');
  await store.redis.hset(store.keys.last, 'a', `${due - 60_000}:7`);
  t.equal(await run(store), 1);
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${due - 60_000}:7`);
});

t.test('one-shots, what is due within its interval, and what starts later stay', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.put({ id: 'once', at: now + 3_600_000 });
  await store.put({ id: 'next' });
  await store.put({ id: 'starts', startMs: now + 3_600_000 });
  await store.putDue({ id: 'late', dueMs: now - 10 });
  const before = await store.snapshot();
  t.equal(await run(store), 0);
  t.same(await store.snapshot(), before);
});

t.test('all pages of a large shard are looked at', async (t) => {
  const store = await open();
  for (let from = 0; from < 2_000; from += 500)
    await store.put(...Array.from({ length: 500 }, (_, i) => ({ id: `s${from + i}` })));
  await stepBack(store);
  t.equal(await run(store), 2_000);
});

t.test('nothing is written to a namespace that is gone', async (t) => {
  const store = await open();
  await store.put({ id: 'a' });
  await stepBack(store);
  await store.redis.del(store.names.meta);
  const before = await store.snapshot();
  await t.rejects(run(store), { code: 'NAMESPACE_GONE' });
  t.same(await store.snapshot(), before);
});
