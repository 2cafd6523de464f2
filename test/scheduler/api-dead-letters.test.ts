import t from 'tap';
import { namespaceKeys, queueList, shardKeys, shardOf } from '../../lua/keys.ts';
import { reserve } from '../../lua/reserve.ts';
import { settle } from '../../lua/settle.ts';
import { parseMessage } from '../lua/store.ts';
import { envelope, type MessageParts, redisNow, send } from '../worker/messages.ts';
import { call, importLines, schedulePath, startApi, type TestApi } from './api-harness.ts';

const keysOf = (id: string) => shardKeys('rb', shardOf(id, 16));

interface Letter {
  readonly id: string;
  readonly [field: string]: unknown;
}

async function letters(api: TestApi, query = ''): Promise<Letter[]> {
  const found: Letter[] = [];
  for (let cursor = ''; ; ) {
    const { json } = await call(api, 'GET', `/v1/dead-letters?${query}${cursor === '' ? '' : `&cursor=${cursor}`}`);
    found.push(...json.dead_letters);
    if (json.cursor === null) return found;
    cursor = json.cursor;
  }
}

async function replay(api: TestApi, json: object) {
  const reply = await call(api, 'POST', '/v1/dead-letters/replay', { json });
  t.equal(reply.status, 200, reply.text);
  return reply.json as { replayed: number; failed: { id: string; reason: string }[] };
}

/** Has a worker give messages up. */
async function giveUp(api: TestApi, ...messages: readonly MessageParts[]): Promise<void> {
  await send(api.redis, ...messages);
  const queues = [...new Set(messages.map(({ queue = 'celery' }) => queue))];
  const taken = await reserve(api.redis, 'rb', { workerId: 'w1', counter: 1, limit: 100, byteLimit: 1e6, queues });
  await settle(api.redis, 'rb', {
    workerId: 'w1',
    counter: 2,
    resultExpiresSec: 60,
    shards: 0,
    settlements: taken.messages.map(({ tag, list }) => ({
      tag,
      mode: 'held' as const,
      result: null,
      letter: { queue: list, reason: 'cannot be decoded' },
      run: null,
      actions: [],
    })),
  });
  await api.redis.del('rb:worker:w1:state', 'rb:worker:w1:settled');
}

/** Makes an `every` schedule due a second ago, on a queue that is none. */
async function giveUpRun(api: TestApi, id: string, parts: object = {}): Promise<number> {
  // Its next run is an hour away, whenever this is.
  const dueSec = Math.floor((await redisNow(api.redis)) / 1_000);
  const dueMs = dueSec * 1_000;
  await call(api, 'PUT', schedulePath(id), {
    json: { task: 't', schedule: { every: 3_600, phase: dueSec % 3_600 }, queue: 'broken', ...parts },
  });
  await api.redis.zadd(keysOf(id).due, 'XX', dueMs, id);
  await api.redis.set('broken', 'a string');
  await api.dispatch();
  await api.redis.del('broken');
  return dueMs;
}

t.test('what was given up is listed with why, newest first, page by page', async (t) => {
  const api = await startApi(t);
  t.strictSame(await letters(api), []);
  await giveUp(api, { task: 'video.cut', id: 'id-1', queue: 'video', priority: 6 });
  const dueMs = await giveUpRun(api, 'a');
  await api.redis.lpush('celery', 'no message');
  await reserve(api.redis, 'rb', { workerId: 'w2', counter: 1, limit: 10, byteLimit: 1e6, queues: ['celery'] });
  await api.redis.hset(keysOf('p').parked, 'p', 'nonsense');
  await api.redis.zadd(keysOf('p').extra, 1, 'p');
  await api.dispatch();
  const all = await letters(api);
  t.match(all, [
    { kind: 'parked', schedule: null, reason: /unreadable/, data: 'nonsense', task: null },
    { kind: 'message', queue: 'celery', task: null, reason: 'it is no JSON object', data: 'no message' },
    { kind: 'schedule', schedule: 'a', due: new Date(dueMs).toISOString(), reason: 'queue broken is not a list' },
    {
      kind: 'message',
      queue: 'video',
      task: 'video.cut',
      task_id: 'id-1',
      reason: 'cannot be decoded',
      schedule: null,
    },
  ]);
  t.equal(all.length, 4);
  t.equal(JSON.parse(String(all[3]?.data)).headers.id, 'id-1');
  t.strictSame(await letters(api, 'limit=1'), all);
  t.strictSame(await letters(api, 'limit=3'), all);
  t.strictSame(await letters(api, 'kind=message&limit=1'), [all[1], all[3]]);
  for (const query of ['limit=0', 'kind=x', 'cursor=x', 'cursor=1:2', 'task=t'])
    t.equal((await call(api, 'GET', `/v1/dead-letters?${query}`)).status, 400, query);
});

t.test('letters of one moment are each on one page only', async (t) => {
  const api = await startApi(t);
  const stream = (shard: number) => shardKeys('rb', shard).deadLetters;
  for (let i = 0; i < 60; i++) {
    const at = `${1_000 + Math.floor(i / 20)}-${i % 5}`;
    const fields = ['kind', 'schedule', 'id', `s${i}`, 'due', '1', 'reason', 'r', 'data', 'd'];
    await api.redis.xadd(stream(Math.floor(i / 5) % 4), at, ...fields).catch(() => {});
  }
  await api.redis.xadd('rb:dead-letters', '1001-2', 'queue', 'q', 'reason', 'r', 'message', 'm');
  const all = await letters(api, 'limit=1000');
  t.equal(new Set(all.map(({ id }) => id)).size, all.length);
  for (const limit of [1, 2, 7, 20]) t.strictSame(await letters(api, `limit=${limit}`), all, `${limit} a page`);
});

t.test('a message that is replayed goes to its queue once, with a delivery tag of its own', async (t) => {
  const api = await startApi(t);
  await giveUp(
    api,
    { id: 'id-1', tag: 'tag-1', queue: 'video', priority: 6, args: ['é'] },
    {
      id: 'id-2',
      tag: 'tag-2',
      headers: { ringbeat: { schedule: 's', due: 1, run: 0, attempt: 6, journal: 'rb:{3}:' } },
    },
  );
  const before = (await letters(api)).reverse();
  t.strictSame(await replay(api, { ids: before.map(({ id }) => id) }), { replayed: 2, failed: [] });
  const [raw = ''] = await api.redis.lrange(queueList('video', 6), 0, -1);
  const message = JSON.parse(raw);
  const original = JSON.parse(envelope({ id: 'id-1', tag: 'tag-1', queue: 'video', priority: 6, args: ['é'] }));
  t.strictSame({ ...message, properties: { ...message.properties, delivery_tag: 'tag-1' } }, original);
  t.not(message.properties.delivery_tag, 'tag-1');
  const other = JSON.parse((await api.redis.lrange('celery', 0, -1))[0]!);
  t.strictSame(other.headers.ringbeat, { schedule: 's', due: 1, run: 0, attempt: 6 }, 'nobody waits for its end');
  t.strictSame(await letters(api), []);
  const [first] = before;
  t.strictSame(await replay(api, { ids: [first!.id] }), {
    replayed: 0,
    failed: [{ id: first!.id, reason: 'there is no such dead letter' }],
  });
  t.equal(await api.redis.llen('celery'), 1);
});

t.test('what cannot be replayed stays, and is told with why', async (t) => {
  const api = await startApi(t, { queueCap: 1 });
  await giveUp(api, { id: 'full', queue: 'full' }, { id: 'wrong', queue: 'wrong' });
  await send(api.redis, { queue: 'full' });
  await api.redis.hset('wrong', 'a', 'b');
  await api.redis.lpush('celery', 'no message');
  await reserve(api.redis, 'rb', { workerId: 'w2', counter: 1, limit: 10, byteLimit: 1e6, queues: ['celery'] });
  await giveUpRun(api, 'gone');
  await call(api, 'DELETE', '/v1/schedules/gone');
  const before = await letters(api);
  const { replayed, failed } = await replay(api, { all: true });
  t.equal(replayed, 0);
  const reasons = new Map(failed.map(({ id, reason }) => [id, reason]));
  t.strictSame(
    before.map(({ id }) => reasons.get(id)),
    [
      'there is no schedule "gone"',
      'it is no message that could be sent',
      'the queue wrong is a key of another type',
      'the queue full is at its cap of 1',
    ],
  );
  t.strictSame(await letters(api), before);
  t.strictSame((await replay(api, { ids: ['w:1-1', 'x', '99999:1-1', '3:1-1'] })).failed.length, 4);
});

t.test('a run that was given up is made up for beside the runs that followed', async (t) => {
  const api = await startApi(t);
  const dueMs = await giveUpRun(api, 'a');
  const next = (await call(api, 'GET', '/v1/schedules/a')).json.next_run_at;
  t.strictSame(await replay(api, { all: true, kind: 'schedule' }), { replayed: 1, failed: [] });
  t.equal(await api.dispatch(), 1);
  const [message] = (await api.redis.lrange('broken', 0, -1)).map(parseMessage);
  t.match(message, { schedule: 'a', due: dueMs, headers: { ringbeat: { run: /^[1-9]/ } } });
  t.equal((await call(api, 'GET', '/v1/schedules/a')).json.next_run_at, next);
  t.strictSame(await letters(api), []);
});

t.test('a schedule that could not be read is due again once it can', async (t) => {
  const api = await startApi(t);
  const names = namespaceKeys('rb');
  t.equal(await api.redis.exists(names.meta), 1);
  // Its next run is an hour away, whenever this is.
  const dueSec = Math.floor((await redisNow(api.redis)) / 1_000);
  const dueMs = dueSec * 1_000;
  const specs = [
    { id: 'grid', task: 't', schedule: { every: 60, phase: 0 } },
    { id: 'once', task: 't', schedule: { at: new Date(dueMs).toISOString() } },
    { id: 'loop', task: 't', schedule: { after: 60 } },
  ];
  await importLines(api, specs);
  await api.redis.zadd(keysOf('grid').due, 'XX', dueMs, 'grid');
  const kept = new Map<string, string>();
  for (const { id } of specs) {
    kept.set(id, (await api.redis.hget(keysOf(id).definitions, id))!);
    await api.redis.hset(keysOf(id).definitions, id, 'nonsense');
  }
  t.equal(await api.dispatch(), 0);
  const { replayed, failed } = await replay(api, { all: true });
  t.equal(replayed, 0);
  t.strictSame(
    failed.map(({ reason }) => reason).sort(),
    ['grid', 'loop', 'once'].map((id) => `the schedule "${id}" cannot be read; put it again`),
  );
  for (const [id, definition] of kept) await api.redis.hset(keysOf(id).definitions, id, definition);
  t.match(await replay(api, { all: true }), { replayed: 3, failed: [] });
  t.equal(await api.dispatch(), 3);
  const sent = (await api.redis.lrange('celery', 0, -1)).map(parseMessage);
  const dueOf = (id: string) => sent.find(({ schedule }) => schedule === id)?.due;
  t.equal(dueOf('grid'), dueMs);
  t.equal(dueOf('once'), dueMs);
  t.ok(dueOf('loop'));
  t.match((await call(api, 'GET', '/v1/schedules/grid')).json, { state: 'scheduled', next_run_at: /Z$/ });
});

t.test('a loop that is paused is not replayed', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/loop', { json: { task: 't', schedule: { after: 60 }, queue: 'broken' } });
  await api.redis.set('broken', 'a string');
  await api.dispatch();
  await api.redis.del('broken');
  await call(api, 'POST', '/v1/schedules/loop/pause');
  t.match((await replay(api, { all: true })).failed, [{ reason: /is paused/ }]);
  await call(api, 'POST', '/v1/schedules/loop/resume');
  t.match(await replay(api, { all: true }), { replayed: 1 });
  t.equal(await api.dispatch(), 1, 'it runs now');
});

t.test('letters are forgotten by id, by kind, and all', async (t) => {
  const api = await startApi(t);
  await giveUp(api, { id: 'one' }, { id: 'two' });
  await giveUpRun(api, 'a');
  const forget = async (json: object) => (await call(api, 'POST', '/v1/dead-letters/delete', { json })).json;
  const [, second] = await letters(api, 'kind=message');
  t.strictSame(await forget({ ids: [second!.id, second!.id, 'w:1-1', 'x'] }), { deleted: 1 });
  t.strictSame(await forget({ all: true, kind: 'schedule' }), { deleted: 1 });
  t.match(await letters(api), [{ task_id: 'two' }]);
  t.strictSame(await forget({ all: true }), { deleted: 1 });
  t.strictSame(await letters(api), []);
  for (const json of [
    {},
    { ids: [] },
    { all: false },
    { ids: ['x'], all: true },
    { ids: [5] },
    { all: true, kind: 'x' },
  ])
    for (const action of ['replay', 'delete'])
      t.equal((await call(api, 'POST', `/v1/dead-letters/${action}`, { json })).status, 400, JSON.stringify(json));
});
