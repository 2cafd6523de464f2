import t from 'tap';
import { backfill } from '../../lua/backfill.ts';
import { setEnabled } from '../../lua/set-enabled.ts';
import { trigger } from '../../lua/trigger.ts';
import { brokenLaws } from './laws.ts';
import { runAll } from './runs.ts';
import { EPOCH, type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

const runs = ({ redis, keys }: Store) => redis.hget(keys.runs, 'a');

t.test('a schedule completes with the run that reaches max_runs', async (t) => {
  const store = await open();
  const due = (await store.now()) - 35_000;
  await store.putDue({ id: 'a', dueMs: due, maxRuns: 3 });
  for (let call = 0; call < 5; call++) await store.dispatch();
  t.same(
    (await store.queue()).map(({ due }) => due),
    [due, due + 10_000, due + 20_000],
  );
  t.equal(await runs(store), '3');
  t.equal(await store.score('a'), null);
  t.match(await store.redis.hget(store.keys.last, 'a'), new RegExp(`^${due + 20_000}:\\d+$`));
  t.same(await store.put({ id: 'a', phase: due % 10_000, maxRuns: 3 }), ['unchanged'], 'nothing is astray');
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('only runs that were pushed count', async (t) => {
  const store = await open();
  const { redis } = store;
  const due = (await store.now()) - 35_000;
  await store.putDue({ id: 'a', dueMs: due, maxRuns: 2, overlap: 'skip' });
  await redis.lpush('celery', 'in the way');
  await store.dispatch({ queueCap: 1 });
  t.match(await store.counts(), { refused: 1 });
  await redis.del('celery');
  for (let call = 0; call < 2; call++) await store.dispatch();
  t.match(await store.counts(), { skipped: 1, dispatched: 1 });
  t.equal(await runs(store), '1');
  await runAll(store);
  await store.dispatch();
  t.equal(await runs(store), '2');
  t.equal(await store.score('a'), null);
});

t.test('triggered and backfilled runs do not count, and run when it is completed', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  const due = (await store.now()) - 5;
  await store.putDue({ id: 'a', dueMs: due, maxRuns: 1 });
  const request = { epoch: EPOCH, shard: 0, id: 'a' };
  await trigger(redis, names, keys, { ...request, requestId: 'r1' });
  await store.dispatch();
  t.equal(await runs(store), '1');
  t.equal(await redis.llen('celery'), 2);
  await trigger(redis, names, keys, { ...request, requestId: 'r2' });
  await backfill(redis, names, keys, { ...request, requestId: 'r3', duesMs: [1, 2] });
  t.match(await store.dispatch(), { sent: 3 });
  t.equal(await runs(store), '1');
});

t.test('raised, a completed schedule goes on at the next point of its grid; lowered, it is completed', async (t) => {
  const store = await open();
  const due = (await store.now()) - 5;
  const parts = { id: 'a', phase: due % 10_000 };
  await store.putDue({ ...parts, dueMs: due, maxRuns: 1 });
  await store.dispatch();
  t.equal(await store.score('a'), null);
  t.same(await store.put({ ...parts, maxRuns: 2 }), ['updated']);
  t.equal((await store.score('a'))?.atMs, due + 10_000);
  t.same(await store.put({ ...parts, maxRuns: 1 }), ['updated']);
  t.equal(await store.score('a'), null);
  t.same(await store.put(parts), ['updated'], 'without a limit');
  t.equal((await store.score('a'))?.atMs, due + 10_000);
  t.equal(await runs(store), null);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});

t.test('what the last run was is told when a limit comes to a schedule that had none', async (t) => {
  const store = await open();
  const due = (await store.now()) - 5;
  await store.putDue({ id: 'a', dueMs: due });
  const { latenesses } = await store.dispatch();
  await store.put({ id: 'a', phase: due % 10_000, maxRuns: 5 });
  t.equal(await store.redis.hget(store.keys.last, 'a'), `${due}:${latenesses[0]![0]}`);
});

t.test('completed, it stays so through a pause', async (t) => {
  const store = await open();
  const { redis, names, keys } = store;
  await store.putDue({ id: 'a', dueMs: (await store.now()) - 5, maxRuns: 1 });
  await store.dispatch();
  for (const enabled of [false, true])
    await setEnabled(redis, names, keys, { epoch: EPOCH, shard: 0, enabled, ids: ['a'] });
  t.equal(await store.score('a'), null);
  t.equal(await runs(store), '1');
});

t.test('a loop ends with the run that reaches max_runs', async (t) => {
  const store = await open();
  await store.put({ id: 'a', after: 0, maxRuns: 2 });
  for (let round = 0; round < 3; round++) {
    await store.passes(await store.now());
    await store.dispatch();
    await runAll(store);
  }
  t.equal(await runs(store), '2');
  t.equal(await store.score('a'), null);
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
  t.same(await store.put({ id: 'a', after: 0, maxRuns: 3 }), ['updated']);
  t.ok(await store.score('a'), 'and begins again when it is raised');
});

t.test('a one-shot that is given another time runs again, whatever its limit', async (t) => {
  const store = await open();
  await store.put({ id: 'a', at: (await store.now()) - 5, maxRuns: 1 });
  t.match(await store.dispatch(), { sent: 1 });
  const at = (await store.now()) + 1_000;
  await store.put({ id: 'a', at, maxRuns: 1 });
  await store.passes(at);
  t.match(await store.dispatch(), { sent: 1 });
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
});
