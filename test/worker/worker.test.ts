import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { type TaskContext, task } from '../../client/task.ts';
import { queueList, resultKey, shardKeys, shardOf } from '../../lua/keys.ts';
import type { WorkerOptions } from '../../worker/config.ts';
import { Worker } from '../../worker/worker.ts';
import { eventually, until } from '../support/eventually.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { envelope, iso, redisNow, send, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

/** What tasks did, in order. */
let ran: string[] = [];
/** Tasks of `wait` end when their id is released. */
let release = new Map<string, () => void>();

t.beforeEach(async () => {
  await redis.flushall();
  ran = [];
  release = new Map();
});

task('note', (ctx, value?: unknown) => {
  ran.push(ctx.id);
  return value;
});
task('late-note', (ctx) => void ran.push(ctx.id), { acksLate: true });
task('secret', (ctx) => ran.push(ctx.id), { ignoreResult: true });
task('throws', async (_ctx, message: string) => {
  throw Object.assign(new Error(message), { name: 'ValueError' });
});
task('unwritable', () => () => 1);
const waiting = (ctx: TaskContext) =>
  new Promise<string>((resolve) => {
    ran.push(ctx.id);
    release.set(ctx.id, () => resolve('done'));
  });
task('compute', (ctx, forMs: number) => {
  const untilMs = performance.now() + forMs;
  while (performance.now() < untilMs);
  ran.push(ctx.id);
});
task('wait', waiting);
task('wait-late', waiting, { acksLate: true });
let seen: TaskContext | null = null;
task('look', (ctx) => {
  seen = ctx;
});

async function startWorker(
  t: Test,
  options: Partial<WorkerOptions> = {},
  server: RedisServer = redisServer,
): Promise<Worker> {
  const worker = new Worker({ redis: server.url, hostname: 'test@here', ...options }, pino({ level: 'silent' }));
  t.teardown(() => worker.stopNow());
  await worker.start();
  return worker;
}

async function recordOf(id: string): Promise<Record<string, unknown>> {
  return eventually(async () => {
    const text = await redis.get(resultKey(id));
    assert.ok(text, `no result of ${id} yet`);
    return JSON.parse(text);
  });
}

const NOWHERE = { queued: 0, unacked: 0, index: 0, dead: 0 };

async function settled(...lists: readonly string[]): Promise<void> {
  await eventually(async () => {
    const { dead: _dead, ...where } = await whereabouts(redis, ...lists);
    assert.deepEqual(where, { queued: 0, unacked: 0, index: 0 });
  });
}

t.test('a message becomes a call and its return value a result', async (t) => {
  await startWorker(t);
  await send(redis, { id: 'id-1', args: [{ a: [1, 'ü'] }] });
  t.match(await recordOf('id-1'), {
    status: 'SUCCESS',
    result: { a: [1, 'ü'] },
    traceback: null,
    children: [],
    task_id: 'id-1',
  });
  const ttl = await redis.ttl(resultKey('id-1'));
  t.ok(ttl > 86_300 && ttl <= 86_400);
  await settled();
});

t.test('the function learns all about its message', async (t) => {
  await startWorker(t);
  const schedule = { schedule: 's1', due: 1_900_000_000_000, run: 0, attempt: 0 };
  const expires = iso((await redisNow(redis)) + 60_000);
  await send(redis, {
    ...{ task: 'look', id: 'id-1', args: [1, 'b'], kwargs: { c: null }, priority: 3 },
    headers: { ringbeat: schedule, parent_id: 'p', root_id: 'r', group: 'g', retries: 2, expires, 'x-tenant': 't1' },
  });
  await recordOf('id-1');
  t.match(seen, {
    id: 'id-1',
    task: 'look',
    args: [1, 'b'],
    kwargs: { c: null },
    retries: 2,
    eta: null,
    expires: new Date(expires),
    hostname: 'test@here',
    deliveryInfo: { exchange: '', routingKey: 'celery', priority: 3, redelivered: false },
    headers: { 'x-tenant': 't1' },
    rootId: 'r',
    parentId: 'p',
    groupId: 'g',
    schedule,
  });
  t.equal(seen!.signal.aborted, false);
  seen!.logger.info({ event: 'x' });
});

t.test('what a function throws becomes a failure with its traceback', async (t) => {
  await startWorker(t);
  await send(redis, { task: 'throws', id: 'id-1', args: ['bang'] }, { task: 'unwritable', id: 'id-2' });
  const failure = await recordOf('id-1');
  t.match(failure, {
    status: 'FAILURE',
    result: { exc_type: 'ValueError', exc_message: ['bang'], exc_module: 'builtins' },
  });
  t.match(failure.traceback, /worker\.test/);
  t.match(await recordOf('id-2'), {
    status: 'FAILURE',
    result: { exc_type: 'EncodeError', exc_module: 'kombu.exceptions' },
  });
  await settled();
});

t.test('no result is stored where the message or the task says so', async (t) => {
  await startWorker(t);
  await send(redis, { id: 'id-1', headers: { ignore_result: true } }, { task: 'secret', id: 'id-2' });
  await send(redis, { task: 'throws', id: 'id-3', args: ['x'], headers: { ignore_result: true } }, { id: 'id-4' });
  await recordOf('id-4');
  await settled();
  t.same(ran, ['id-1', 'id-2', 'id-4']);
  t.same(await redis.keys('celery-task-meta-*'), [resultKey('id-4')]);
});

t.test('thousands of messages run once each, acknowledged early or late, with and without results', async (t) => {
  await startWorker(t, { queues: ['celery', 'other'] });
  const ids: string[] = [];
  const pipeline = redis.pipeline();
  for (let n = 0; n < 4_000; n++) {
    const id = `id-${n}`;
    ids.push(id);
    const queue = n % 2 === 0 ? 'celery' : 'other';
    const priority = n % 10;
    const headers = { ignore_result: n % 3 === 0 };
    pipeline.lpush(
      queueList(queue, priority),
      envelope({ id, queue, priority, headers, task: n % 4 < 2 ? 'note' : 'late-note' }),
    );
  }
  await pipeline.exec();
  await until(() => ran.length >= ids.length, 'all ran', { deadlineMs: 30_000 });
  await settled('celery', 'other');
  t.same([...ran].sort(), ids.sort());
  t.equal(
    (await redis.keys('celery-task-meta-*')).length,
    ids.filter((_, n) => Number(ids[n]!.slice(3)) % 3 !== 0).length,
  );
});

t.test('no more tasks run at once than the concurrency, and no more messages are held than the prefetch', async (t) => {
  await startWorker(t, { concurrency: 3, prefetch: 5 });
  for (let n = 0; n < 20; n++) await send(redis, { task: 'wait-late', id: `id-${n}` });
  for (let done = 0; done < 20; done++) {
    const running = Math.min(3, 20 - done);
    await until(() => release.size === running, `${running} run`);
    await eventually(async () => assert.equal(await redis.hlen('unacked'), Math.min(5, 20 - done)));
    const [[id, end]] = release as unknown as [[string, () => void]];
    release.delete(id);
    end();
    await recordOf(id);
  }
  await settled();
});

t.test('functions that compute for long let the worker see to its other duties in between', async (t) => {
  await startWorker(t);
  const before = await redis.zscore('rb:workers', (await redis.zrange('rb:workers', '0', '0'))[0]!);
  await send(redis, ...Array.from({ length: 60 }, (_, n) => ({ task: 'compute', id: `id-${n}`, args: [50] })));
  await until(async () => {
    const [, after] = await redis.zrange('rb:workers', '0', '0', 'WITHSCORES');
    return after !== before && ran.length > 0 && ran.length < 60;
  }, 'a heartbeat comes between them');
  await until(() => ran.length === 60, 'all ran');
  await settled();
});

t.test('pool solo runs one task at a time, in order', async (t) => {
  const worker = await startWorker(t, { pool: 'solo' });
  t.equal(worker.config.concurrency, 1);
  await send(redis, { task: 'wait', id: 'a' }, { task: 'wait', id: 'b' });
  await until(() => release.has('a'), 'a runs');
  t.same(ran, ['a']);
  release.get('a')!();
  await until(() => release.has('b'), 'b runs');
  release.get('b')!();
  await recordOf('b');
});

t.test('a late-acknowledged message stays in unacked while its task runs, an early one does not', async (t) => {
  await startWorker(t);
  await send(
    redis,
    { task: 'wait', id: 'early', tag: 'tag-early' },
    { task: 'wait-late', id: 'late', tag: 'tag-late' },
  );
  await until(() => release.size === 2, 'both run');
  t.same(await redis.hkeys('unacked'), ['tag-late']);
  for (const end of release.values()) end();
  await recordOf('late');
  await settled();
});

t.test('--acks-late holds for tasks that do not say otherwise', async (t) => {
  await startWorker(t, { acksLate: true });
  await send(redis, { task: 'wait', id: 'a', tag: 'tag-a' });
  await until(() => release.has('a'), 'a runs');
  t.same(await redis.hkeys('unacked'), ['tag-a']);
  release.get('a')!();
  await settled();
});

t.test('an expired message is revoked instead of run', async (t) => {
  const now = await redisNow(redis);
  await send(
    redis,
    { id: 'old', headers: { expires: iso(now - 1_000) } },
    { id: 'old-late', task: 'late-note', headers: { expires: iso(now - 1_000) } },
  );
  await send(redis, { id: 'fresh', headers: { expires: iso(now + 60_000) } });
  await startWorker(t);
  const result = { exc_type: 'TaskRevokedError', exc_message: ['expired'], exc_module: 'celery.exceptions' };
  t.match(await recordOf('old'), { status: 'REVOKED', result, traceback: null });
  t.match(await recordOf('old-late'), { status: 'REVOKED', result });
  await recordOf('fresh');
  t.same(ran, ['fresh']);
  await settled();
});

t.test('a message that expires while it waits for a slot is revoked', async (t) => {
  await startWorker(t, { concurrency: 1 });
  await send(redis, { task: 'wait', id: 'first' });
  await until(() => release.has('first'), 'first runs');
  const expiresMs = (await redisNow(redis)) + 150;
  await send(redis, { id: 'second', headers: { expires: iso(expiresMs) } });
  await until(async () => (await redisNow(redis)) > expiresMs + 1, 'it expired');
  release.get('first')!();
  t.match(await recordOf('second'), { status: 'REVOKED' });
  t.same(ran, ['first']);
});

t.test('an unknown task is answered with NotRegistered', async (t) => {
  await startWorker(t);
  await send(redis, { task: 'nobody.knows', id: 'id-1' });
  t.match(await recordOf('id-1'), {
    status: 'FAILURE',
    result: { exc_type: 'NotRegistered', exc_message: ['nobody.knows'], exc_module: 'celery.exceptions' },
    traceback: null,
  });
  await settled();
  t.same(await whereabouts(redis), NOWHERE);
});

// What Celery 5.2 does with the same variants is recorded in the sample; where its worker died or dropped the message
// without a trace, ours keeps it as a dead letter.
const MALFORMED: Readonly<
  Record<string, { change: (message: Message) => unknown; outcome: 'runs' | 'dead' | 'unknown' | 'revoked' | 'fails' }>
> = {
  'body plain, body_encoding absent': { change: (m) => plain(m, undefined), outcome: 'runs' },
  'body plain, body_encoding null': { change: (m) => plain(m, null), outcome: 'runs' },
  'headers null': { change: (m) => set(m, 'headers', null), outcome: 'dead' },
  'numeric task id': { change: (m) => set(m.headers, 'id', 5), outcome: 'dead' },
  'content-encoding missing': { change: (m) => set(m, 'content-encoding', undefined), outcome: 'runs' },
  'priority out of range 42': { change: (m) => set(m.properties, 'priority', 42), outcome: 'runs' },
  'argsrepr missing': { change: (m) => set(m.headers, 'argsrepr', undefined), outcome: 'runs' },
  'group_index string, no group': { change: (m) => set(m.headers, 'group_index', 'x'), outcome: 'runs' },
  'missing delivery_tag': { change: (m) => set(m.properties, 'delivery_tag', undefined), outcome: 'dead' },
  'missing delivery_info': { change: (m) => set(m.properties, 'delivery_info', undefined), outcome: 'dead' },
  'missing priority': { change: (m) => set(m.properties, 'priority', undefined), outcome: 'runs' },
  'missing correlation_id+reply_to': {
    change: (m) => set(set(m.properties, 'correlation_id', undefined), 'reply_to', undefined),
    outcome: 'runs',
  },
  'body plain utf-8 (body_encoding utf-8)': { change: (m) => plain(m, 'utf-8'), outcome: 'runs' },
  'embed {}': { change: (m) => body(m, '[[2, 3], {}, {}]'), outcome: 'runs' },
  'body only 2 items': { change: (m) => body(m, '[[2, 3], {}]'), outcome: 'dead' },
  'embed null': { change: (m) => body(m, '[[2, 3], {}, null]'), outcome: 'runs' },
  'minimal headers: task,id only': { change: (m) => set(m, 'headers', { task: 'note', id: 'id-1' }), outcome: 'runs' },
  'minimal headers: lang,task,id': {
    change: (m) => set(m, 'headers', { lang: 'py', task: 'note', id: 'id-1' }),
    outcome: 'runs',
  },
  'kwargs is list': { change: (m) => body(m, '[[2, 3], [], {}]'), outcome: 'dead' },
  'body invalid json': { change: (m) => body(m, '{broken'), outcome: 'dead' },
  'body not base64': { change: (m) => set(m, 'body', '!!! not base64 !!!'), outcome: 'dead' },
  'content-type pickle': { change: (m) => set(m, 'content-type', 'application/x-python-serialize'), outcome: 'dead' },
  'content-type missing': { change: (m) => set(m, 'content-type', undefined), outcome: 'dead' },
  'no task header, dict body without task': { change: (m) => body(set(m, 'headers', {}), '{"a": 1}'), outcome: 'dead' },
  'header id missing': { change: (m) => set(m.headers, 'id', undefined), outcome: 'dead' },
  'eta garbage': { change: (m) => set(m.headers, 'eta', 'not a date'), outcome: 'dead' },
  'eta Z suffix in past': { change: (m) => set(m.headers, 'eta', '2020-01-01T00:00:00Z'), outcome: 'runs' },
  'eta ms + Z': { change: (m) => set(m.headers, 'eta', '2020-01-01T00:00:00.123Z'), outcome: 'runs' },
  'expires past': { change: (m) => set(m.headers, 'expires', '2020-01-01T00:00:00Z'), outcome: 'revoked' },
  'timelimit null': { change: (m) => set(m.headers, 'timelimit', null), outcome: 'runs' },
  'retries null': { change: (m) => set(m.headers, 'retries', null), outcome: 'runs' },
  'wrong arg count': { change: (m) => set(m.headers, 'task', 'throws'), outcome: 'fails' },
  'list item is not JSON': { change: () => 'not JSON', outcome: 'dead' },
  'list item is JSON without properties': { change: () => '{"body": ""}', outcome: 'dead' },
};

type Fields = Record<string, unknown>;
type Message = Fields & { headers: Fields; properties: Fields };

function set<T extends Fields>(fields: T, name: string, value: unknown): T {
  return Object.assign(fields, { [name]: value });
}

function body(message: Message, text: string): Message {
  return set(message, 'body', Buffer.from(text).toString('base64'));
}

function plain(message: Message, encoding: unknown): void {
  set(message, 'body', '[[2, 3], {}, {}]');
  set(message.properties, 'body_encoding', encoding);
}

t.test('every recorded kind of malformed message has its outcome, and none stops the good ones', async (t) => {
  const sample = JSON.parse(
    readFileSync(new URL('../../../test/fixtures/celery-samples/malformed-messages.json', import.meta.url), 'utf8'),
  );
  const names: string[] = sample.cases.map((entry: { case: string }) => entry.case);
  t.same(
    names.filter((name) => !(name in MALFORMED)),
    [],
    'no recorded kind is left out',
  );
  await startWorker(t);
  for (const [name, { change, outcome }] of Object.entries(MALFORMED)) {
    await t.test(name, async (t) => {
      const message = JSON.parse(envelope({ id: 'id-1', args: [2, 3] }));
      const replaced = change(message);
      await redis.lpush('celery', typeof replaced === 'string' ? replaced : JSON.stringify(message));
      await send(redis, { id: 'good' });
      await recordOf('good');
      await eventually(async () =>
        assert.deepEqual(await whereabouts(redis), { ...NOWHERE, dead: outcome === 'dead' ? 1 : 0 }),
      );
      const record = await redis.get(resultKey('id-1'));
      const status = { runs: 'SUCCESS', dead: null, unknown: 'FAILURE', fails: 'FAILURE', revoked: 'REVOKED' }[outcome];
      t.equal(record === null ? null : JSON.parse(record).status, status);
      t.same(ran, outcome === 'runs' ? ['id-1', 'good'] : ['good']);
    });
  }
});

t.test('a queue of the wrong type does not stop the others', async (t) => {
  await redis.set('broken', 'text');
  await startWorker(t, { queues: ['broken', 'celery'] });
  await send(redis, { id: 'id-1' });
  await recordOf('id-1');
});

async function pretendBeat(): Promise<void> {
  await redis.hset('rb:meta', 'shards', '16');
  await redis.zadd('rb:nodes', String((await redisNow(redis)) + 3_600_000), 'beat-1');
}

t.test('a message with an eta ahead is parked while a beat node lives', async (t) => {
  await pretendBeat();
  await startWorker(t, { concurrency: 1, prefetch: 2 });
  const etaMs = (await redisNow(redis)) + 3_600_000;
  const tags = Array.from({ length: 30 }, (_, n) => `tag-${n}`);
  for (const tag of tags) await send(redis, { id: `id of ${tag}`, tag, priority: 4, headers: { eta: iso(etaMs) } });
  await eventually(async () => {
    let parked = 0;
    for (let shard = 0; shard < 16; shard++) parked += await redis.zcard(shardKeys('rb', shard).extra);
    assert.equal(parked, 30);
  });
  await settled('celery', queueList('celery', 3));
  const shard = shardKeys('rb', shardOf('id of tag-7', 16));
  t.equal(Number(await redis.zscore(shard.extra, 'id of tag-7')), etaMs);
  t.match(await redis.hget(shard.parked, 'id of tag-7'), /^celery\x06\x163\x1ftag-7\x1f/);
  t.same(ran, []);
});

t.test('an eta in the past runs at once', async (t) => {
  await pretendBeat();
  await startWorker(t);
  await send(redis, { id: 'id-1', headers: { eta: iso((await redisNow(redis)) - 5) } });
  await recordOf('id-1');
});

t.test('without a beat node messages with an eta are held, beside the prefetch, and run when it comes', async (t) => {
  await startWorker(t, { concurrency: 1, prefetch: 2 });
  const now = await redisNow(redis);
  for (let n = 0; n < 10; n++) await send(redis, { id: `far-${n}`, headers: { eta: iso(now + 3_600_000) } });
  const etaMs = now + 400;
  await send(redis, { id: 'soon', headers: { eta: iso(etaMs) } }, { id: 'now' });
  await recordOf('now');
  t.same(ran, ['now']);
  await eventually(async () => assert.equal(await redis.hlen('unacked'), 11));
  await recordOf('soon');
  t.ok((await redisNow(redis)) >= etaMs, 'not before its time');
  t.same(ran, ['now', 'soon']);
});

t.test('held messages are parked once a beat node appears', async (t) => {
  await startWorker(t);
  const now = await redisNow(redis);
  for (let n = 0; n < 10; n++) await send(redis, { headers: { eta: iso(now + 3_600_000) } });
  await eventually(async () => assert.equal(await redis.hlen('unacked'), 10));
  await pretendBeat();
  await settled();
  let parked = 0;
  for (let shard = 0; shard < 16; shard++) parked += await redis.zcard(shardKeys('rb', shard).extra);
  t.equal(parked, 10);
});

t.test('held messages keep their visibility fresh', async (t) => {
  await startWorker(t, { visibilityTimeout: 1 });
  const now = await redisNow(redis);
  await send(redis, { id: 'id-1', tag: 'tag-1', headers: { eta: iso(now + 3_500) } });
  await eventually(async () => assert.ok(await redis.zscore('unacked_index', 'tag-1')));
  const score = await redis.zscore('unacked_index', 'tag-1');
  await eventually(async () => assert.notEqual(await redis.zscore('unacked_index', 'tag-1'), score));
  await recordOf('id-1');
  t.same(ran, ['id-1']);
});

t.test('a warm stop gives back what has not started and lets running tasks finish', async (t) => {
  const worker = await startWorker(t, { concurrency: 2, prefetch: 8 });
  const far = iso((await redisNow(redis)) + 3_600_000);
  await send(redis, { id: 'held', headers: { eta: far } });
  await send(redis, { task: 'wait', id: 'early' }, { task: 'wait-late', id: 'late' });
  for (let n = 0; n < 5; n++) await send(redis, { id: `rest-${n}`, tag: `rest-${n}` });
  await until(() => release.size === 2, 'two run');
  await eventually(async () => assert.equal(await redis.llen('celery'), 0));
  const stopped = worker.stop();
  await eventually(async () => assert.equal(await redis.llen('celery'), 6));
  t.equal(await redis.hlen('unacked'), 1, 'the late-acknowledged one that still runs');
  for (const end of release.values()) end();
  await stopped;
  t.same(ran.sort(), ['early', 'late']);
  t.match(await recordOf('early'), { status: 'SUCCESS', result: 'done' });
  t.match(await recordOf('late'), { status: 'SUCCESS', result: 'done' });
  t.same(await redis.keys('rb:*'), []);
  const next = JSON.parse((await redis.rpop('celery')) ?? '');
  t.equal(next.properties.delivery_tag, 'rest-0', 'in the order in which they came');
  t.equal(next.headers.redelivered, true);
  await worker.stop();
});

t.test('a cold stop gives back late-acknowledged messages whose tasks still run', async (t) => {
  const worker = await startWorker(t);
  await send(redis, { task: 'wait-late', id: 'late' }, { task: 'wait', id: 'early' });
  await until(() => release.size === 2, 'both run');
  await worker.stopNow();
  t.same(await whereabouts(redis), { ...NOWHERE, queued: 1 });
  t.same(await redis.keys('rb:*'), []);
  for (const end of release.values()) end();
});

t.test('a second, colder stop ends a warm one', async (t) => {
  const worker = await startWorker(t);
  await send(redis, { task: 'wait-late', id: 'late' });
  await until(() => release.size === 1, 'it runs');
  const warm = worker.stop();
  await worker.stopNow();
  await warm;
  t.equal(await redis.llen('celery'), 1);
  release.get('late')!();
});

t.test('a worker shows the queues that it takes from', async (t) => {
  await startWorker(t, { queues: ['celery', 'video'] });
  t.same(await redis.smembers('_kombu.binding.video'), ['video\x06\x16\x06\x16video']);
});
