import t, { type Test } from 'tap';
import { WORKER_DEAD_LETTERS } from '../../lua/reserve.ts';
import { restoreLostWorkers, WORKER_LEASE_MS } from '../../lua/restore.ts';
import { brokenLaws, strayFlights } from '../lua/laws.ts';
import { end, flightOf, take } from '../lua/runs.ts';
import { fieldsOf, type ScheduleParts, type Store, storeFactory } from '../lua/store.ts';

const open = await storeFactory(t);

/** A loop whose run this worker has taken. */
async function taken(store: Store, parts: Partial<ScheduleParts> = {}) {
  await store.put({ id: 'a', after: 60_000, args: ['ü'], ...parts });
  await store.dispatch();
  const [message] = await take(store, 'w1');
  return message!;
}

/** As if the worker had been silent for longer than its lease. */
async function lose(store: Store, worker: string) {
  await store.redis.zadd('rb:workers', (await store.now()) - WORKER_LEASE_MS - 500, worker);
  return restoreLostWorkers(store.redis, 'rb', await store.now());
}

async function holds(t: Test, store: Store) {
  t.same(await brokenLaws(store.redis, 'rb', 1), []);
  t.same(await strayFlights(store.redis, 'rb', 1), []);
}

t.test('when its worker dies a run is sent again as its second attempt, at once', async (t) => {
  const store = await open();
  const first = await taken(store);
  t.match(await lose(store, 'w1'), { restored: 1, workers: ['w1'] });
  t.match(await flightOf(store, 'a'), { taskId: first.id, attempt: 2, dueMs: first.due });
  await holds(t, store);
  t.match(await store.dispatch(), { sent: 1 });
  const [second] = await take(store, 'w2');
  t.equal(second?.id, first.id, 'an attempt keeps its id');
  t.equal(second?.tag, first.tag.replace('-b001-', '-b002-'));
  t.match(second?.headers, { redelivered: true, ringbeat: { schedule: 'a', due: first.due, run: 0, attempt: 2 } });
  t.same(second?.body, first.body);
  t.match(await store.counts(), { recovered: 1 });
  await holds(t, store);
  await end(store, second!, { workerId: 'w2' });
  t.ok(await store.score('a'));
  await holds(t, store);
});

t.test('the worker that was taken for dead settles nothing any more', async (t) => {
  const store = await open();
  const first = await taken(store);
  await lose(store, 'w1');
  const flight = await flightOf(store, 'a');
  t.equal(await end(store, first, { workerId: 'w1' }), 1, 'it is told that it came too late');
  t.same(await flightOf(store, 'a'), flight);
  await store.dispatch();
  await take(store, 'w2');
  t.equal(await end(store, first, { workerId: 'w1' }), 1);
  t.same(await flightOf(store, 'a'), flight);
  t.equal(await store.score('a'), null);
  await holds(t, store);
});

t.test('several that recover a worker at once start one attempt', async (t) => {
  const store = await open();
  await taken(store);
  await store.redis.zadd('rb:workers', (await store.now()) - WORKER_LEASE_MS - 500, 'w1');
  const now = await store.now();
  const other = store.redis.duplicate();
  t.teardown(() => other.disconnect());
  await Promise.all([store.redis, other, store.redis].map((redis) => restoreLostWorkers(redis, 'rb', now)));
  t.match(await flightOf(store, 'a'), { attempt: 2 });
  t.match(await store.counts(), { recovered: 1 });
  t.equal(await store.redis.hlen(store.keys.parked), 1);
  await holds(t, store);
});

t.test('each further attempt waits longer, and after the fifth the run is given up and its loop goes on', async (t) => {
  const store = await open();
  await taken(store, { retry: { delayMs: 30_000, maxDelayMs: 90_000 } });
  const pauses: number[] = [];
  for (let attempt = 2; attempt <= 5; attempt++) {
    await lose(store, 'w1');
    const { taskId, attempt: next } = (await flightOf(store, 'a'))!;
    t.equal(next, attempt);
    const at = Number(await store.redis.zscore(store.keys.extra, taskId));
    pauses.push(Math.round((at - (await store.now())) / 1_000));
    await store.redis.zadd(store.keys.extra, 'XX', await store.now(), taskId);
    await store.dispatch();
    t.equal((await take(store, 'w1')).length, 1);
  }
  t.same(pauses, [0, 1, 2, 4]);
  const before = await store.now();
  t.match(await lose(store, 'w1'), { deadLetters: 1 });
  t.equal(await flightOf(store, 'a'), null);
  t.ok((await store.score('a'))!.atMs >= before + 30_000, 'as after a failure');
  const letters = await store.redis.xrange('rb:dead-letters', '-', '+', 'COUNT', WORKER_DEAD_LETTERS);
  t.equal(letters.length, 1);
  const letter = fieldsOf(letters[0]![1]);
  t.match(letter, { queue: 'celery', reason: 'its worker died in each of 5 attempts' });
  t.match(JSON.parse(letter.message!), { headers: { ringbeat: { schedule: 'a' } } }, 'with its message');
  await holds(t, store);
});

t.test('when nobody waits for its end any more a message goes back as any other', async (t) => {
  const store = await open();
  const first = await taken(store);
  await store.redis.hdel(store.keys.journal, 'a');
  t.match(await lose(store, 'w1'), { restored: 1 });
  const [again] = await store.queue();
  t.equal(again?.tag, first.tag);
});

t.test('a run whose loop was deleted meanwhile goes back as any other, and ends without a trace', async (t) => {
  const store = await open();
  await taken(store);
  await store.redis.del(store.keys.definitions, store.keys.journal, store.keys.flights, store.keys.deadlines);
  await lose(store, 'w1');
  const [message] = await take(store, 'w2');
  t.equal(await end(store, message!, { workerId: 'w2' }), 0);
  t.equal(await store.redis.exists(store.keys.due, store.keys.journal), 0);
});

t.test('a recovered run that a queue cap holds back keeps its attempt', async (t) => {
  const store = await open();
  const first = await taken(store);
  await lose(store, 'w1');
  await store.redis.lpush('celery', 'in the way');
  t.match(await store.dispatch({ queueCap: 1 }), { sent: 0 });
  await holds(t, store);
  await store.redis.del('celery');
  await store.redis.zadd(store.keys.extra, 'XX', await store.now(), first.id);
  await store.dispatch();
  const [second] = await take(store, 'w2');
  t.match(second, { id: first.id, tag: first.tag.replace('-b001-', '-b002-') });
});

t.test('a Redis that is full still lets runs be recovered', async (t) => {
  const store = await open();
  await taken(store);
  await store.redis.zadd('rb:workers', (await store.now()) - WORKER_LEASE_MS - 500, 'w1');
  await store.redis.config('SET', 'maxmemory', '1mb');
  try {
    // Only the total of what was recovered cannot be counted.
    await t.rejects(restoreLostWorkers(store.redis, 'rb', await store.now()), { message: /OOM/ });
  } finally {
    await store.redis.config('SET', 'maxmemory', '0');
  }
  t.match(await flightOf(store, 'a'), { attempt: 2 });
  await holds(t, store);
});

t.test('nothing is brought back into a namespace that is gone', async (t) => {
  const store = await open();
  const first = await taken(store);
  await store.redis.del(store.names.meta);
  t.equal(await end(store, first), 0, 'its result is taken');
  t.equal(await store.redis.exists(store.keys.due), 0);
});
