import t from 'tap';
import { queueList } from '../../lua/keys.ts';
import { type Store, storeFactory } from './store.ts';

const open = await storeFactory(t);

/** Two good schedules around a bad one. */
async function withBadOne(store: Store, parts: object = {}): Promise<number> {
  const now = await store.now();
  await store.putDue({ id: 'before', every: 60_000, task: 'good', dueMs: now - 30 });
  await store.putDue({ id: 'bad', every: 60_000, dueMs: now - 20, ...parts });
  await store.putDue({ id: 'after', every: 60_000, task: 'good', dueMs: now - 10 });
  return now - 20;
}

const UNREADABLE: readonly (readonly [string, string, (store: Store) => Promise<unknown>])[] = [
  ['whose definition is missing', 'missing definition', (store) => store.redis.hdel(store.keys.definitions, 'bad')],
  [
    'whose definition is no definition',
    'unreadable definition or template',
    (store) => store.redis.hset(store.keys.definitions, 'bad', 'nonsense'),
  ],
  [
    'whose definition is empty',
    'unreadable definition or template',
    (store) => store.redis.hset(store.keys.definitions, 'bad', ''),
  ],
  [
    'whose timing is of an unknown kind',
    'unreadable definition or template',
    async (store) => {
      const definition = (await store.redis.hget(store.keys.definitions, 'bad'))!;
      await store.redis.hset(store.keys.definitions, 'bad', definition.replace('\x1fe60000:', '\x1fq60000:'));
    },
  ],
  [
    'whose timing has no interval',
    'unreadable definition or template',
    async (store) => {
      const definition = (await store.redis.hget(store.keys.definitions, 'bad'))!;
      await store.redis.hset(store.keys.definitions, 'bad', definition.replace('\x1fe60000:', '\x1fex:'));
    },
  ],
  [
    'whose grid is unknown',
    'unreadable definition or template',
    async (store) => {
      const definition = (await store.redis.hget(store.keys.definitions, 'bad'))!;
      await store.redis.hset(store.keys.definitions, 'bad', definition.replace(/\x1fe60000:\w+:/, '\x1fe60000:what:'));
    },
  ],
  [
    'whose template is missing',
    'unreadable definition or template',
    async (store) => {
      const number = (await store.redis.hget(store.keys.definitions, 'bad'))!.split('\x1f')[0]!;
      await store.redis.hdel(store.keys.templates, number);
    },
  ],
  [
    'whose template is no template',
    'unreadable definition or template',
    async (store) => {
      const number = (await store.redis.hget(store.keys.definitions, 'bad'))!.split('\x1f')[0]!;
      await store.redis.hset(store.keys.templates, number, 'nonsense\x1f');
    },
  ],
];
for (const [title, reason, spoil] of UNREADABLE) {
  t.test(`an entry ${title} goes to the dead letters, once, and the batch goes on`, async (t) => {
    const store = await open();
    const dueMs = await withBadOne(store);
    await spoil(store);
    t.match(await store.dispatch(), { sent: 2 });
    t.same(
      (await store.queue()).map(({ schedule }) => schedule),
      ['before', 'after'],
    );
    t.match(await store.deadLetters(), [{ kind: 'schedule', id: 'bad', due: String(dueMs), reason }]);
    t.match(await store.counts(), { dead: 1, dispatched: 2 });
    t.equal(await store.score('bad'), null, 'not due any more');
    const after = await store.snapshot();
    t.match(await store.dispatch(), { sent: 0 });
    t.same(await store.snapshot(), after);
  });
}

for (const list of ['broken', queueList('broken', 6)]) {
  for (const kind of ['interval', 'one-shot'] as const) {
    t.test(
      `where ${JSON.stringify(list)} is no list, the run of an ${kind} is a dead letter, the others are sent once`,
      async (t) => {
        const store = await open();
        const now = await store.now();
        const parts = kind === 'one-shot' ? { at: now - 20 } : {};
        const dueMs = kind === 'one-shot' ? now - 20 : await withBadOne(store, { queue: 'broken' });
        if (kind === 'one-shot') {
          await store.putDue({ id: 'before', every: 60_000, task: 'good', dueMs: now - 30 });
          await store.put({ id: 'bad', queue: 'broken', ...parts });
          await store.putDue({ id: 'after', every: 60_000, task: 'good', dueMs: now - 10 });
        }
        await store.redis.set(list, 'a string');
        t.match(await store.dispatch(), { sent: 2, refused: 0, misfired: 0 });
        t.same(
          (await store.queue()).map(({ schedule }) => schedule),
          ['before', 'after'],
        );
        t.match(await store.deadLetters(), [
          { kind: 'schedule', id: 'bad', due: String(dueMs), reason: 'queue broken is not a list' },
        ]);
        t.equal((await store.score('bad'))?.atMs ?? null, kind === 'interval' ? dueMs + 60_000 : null);
        t.equal((await store.redis.zscore(store.keys.completed, 'bad')) !== null, kind === 'one-shot');
        const after = await store.snapshot();
        t.match(await store.dispatch(), { sent: 0 });
        t.same(await store.snapshot(), after);
      },
    );
  }
}

t.test('a queue that became a list again is pushed to again', async (t) => {
  const store = await open();
  const dueMs = await withBadOne(store, { queue: 'broken', every: 10 });
  await store.redis.hset('broken', 'a', 'b');
  await store.dispatch({ limit: 3 });
  await store.redis.del('broken');
  await store.dispatch();
  t.ok((await store.queue('broken')).every(({ due }) => due > dueMs));
  t.not(await store.redis.llen('broken'), 0);
  t.equal((await store.deadLetters()).length, 1);
});

const PARKED: readonly (readonly [string, string | null, string])[] = [
  ['that is missing', null, 'missing or unreadable parked message'],
  ['without a list', 'nonsense', 'missing or unreadable parked message'],
  ['for a queue that is no list', 'broken\x1ftag\x1f{}', 'queue broken is not a list'],
];
for (const [title, value, reason] of PARKED) {
  t.test(`a parked message ${title} is a dead letter, the others go back`, async (t) => {
    const store = await open();
    const now = await store.now();
    await store.redis.set('broken', 'a string');
    for (const [i, tag] of ['before', 'bad', 'after'].entries()) {
      await store.park(tag, 'celery', tag, now - 10 + i);
    }
    if (value === null) await store.redis.hdel(store.keys.parked, 'bad');
    else await store.redis.hset(store.keys.parked, 'bad', value);
    t.match(await store.dispatch(), { sent: 2 });
    t.same(await store.redis.lrange('celery', 0, -1), ['after', 'before']);
    t.match(await store.deadLetters(), [{ kind: 'parked', id: 'bad', reason }]);
    t.equal(await store.redis.exists(store.keys.extra, store.keys.parked), 0);
    t.match(await store.dispatch(), { sent: 0 });
  });
}

t.test('dead letters say what the entry was', async (t) => {
  const store = await open();
  await withBadOne(store, { queue: 'broken', args: ['precious'] });
  await store.redis.set('broken', 'x');
  const definition = await store.redis.hget(store.keys.definitions, 'bad');
  await store.dispatch();
  t.equal((await store.deadLetters())[0]?.data, definition);
});
