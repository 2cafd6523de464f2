import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { type TaskContext, task } from '../../client/task.ts';
import { resultKey } from '../../lua/keys.ts';
import type { WorkerOptions } from '../../worker/config.ts';
import { Worker } from '../../worker/worker.ts';
import { eventually, until } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';
import { iso, redisNow, send, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

const CHANNEL = '/0.celery.pidbox';
const SEPARATOR = '\x06\x16';

let ran: string[] = [];
let release = new Map<string, () => void>();
t.beforeEach(async () => {
  await redis.flushall();
  ran = [];
  release = new Map();
});

task('note', (ctx) => void ran.push(ctx.id));
task('wait', (ctx: TaskContext) => {
  ran.push(ctx.id);
  return new Promise<void>((resolve) => release.set(ctx.id, resolve));
});

async function startWorker(t: Test, options: Partial<WorkerOptions> = {}): Promise<Worker> {
  const worker = new Worker({ redis: redisServer.url, hostname: 'w1@host1', ...options }, pino({ level: 'silent' }));
  t.teardown(() => worker.stopNow());
  await worker.start();
  return worker;
}

/** A namespace with a beat node, as far as workers can see. */
async function pretendBeat(): Promise<void> {
  await redis.hset('rb:meta', 'shards', '16');
  await redis.zadd('rb:nodes', String((await redisNow(redis)) + 3_600_000), 'beat-1');
}

interface Request {
  readonly method: string;
  readonly arguments?: Record<string, unknown>;
  readonly destination?: readonly string[];
  readonly pattern?: string;
  readonly matcher?: string;
}

/** Asks as Celery's `Control` does; the replies that came, by node. */
// biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever came.
async function ask(request: Request, replies = 1): Promise<Record<string, any>> {
  const oid = randomUUID();
  const list = `${oid}.reply.celery.pidbox`;
  const ticket = randomUUID();
  await redis.sadd('_kombu.binding.reply.celery.pidbox', [oid, '', list].join(SEPARATOR));
  const replyTo = { exchange: 'reply.celery.pidbox', routing_key: oid };
  const blank = { arguments: {}, destination: null, pattern: null, matcher: null };
  await broadcast({ ...blank, ...request, ticket, reply_to: replyTo });
  // Requests are answered in their order: whoever answers a later one has been through this one.
  if (replies === 0) await ask({ method: 'ping' });
  await eventually(async () => assert.ok((await redis.llen(list)) >= replies));
  const envelopes = (await redis.lrange(list, 0, -1)).map((raw) => JSON.parse(raw));
  for (const envelope of envelopes) {
    assert.equal(envelope.headers.ticket, ticket);
    assert.deepEqual(envelope.properties.delivery_info, replyTo);
  }
  return Object.assign({}, ...envelopes.map(({ body }) => JSON.parse(Buffer.from(body, 'base64').toString())));
}

function broadcast(body: unknown): Promise<number> {
  const envelope = {
    body: Buffer.from(JSON.stringify(body)).toString('base64'),
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers: { clock: 7, expires: 0 },
    properties: {
      delivery_mode: 2,
      delivery_info: { exchange: 'celery.pidbox', routing_key: '' },
      priority: 0,
      body_encoding: 'base64',
      delivery_tag: randomUUID(),
    },
  };
  return redis.publish(CHANNEL, JSON.stringify(envelope));
}

async function recordOf(id: string): Promise<{ readonly status: string; readonly result: unknown }> {
  return eventually(async () => {
    const text = await redis.get(resultKey(id));
    assert.ok(text, `no result of ${id} yet`);
    return JSON.parse(text);
  });
}

const REVOKED = {
  status: 'REVOKED',
  result: { exc_type: 'TaskRevokedError', exc_message: ['revoked'], exc_module: 'celery.exceptions' },
};

t.test('a ping is answered byte for byte as Celery does, names, clock and tags aside', async (t) => {
  await startWorker(t);
  const url = new URL('../../../test/fixtures/celery-samples/control-wire-ping.json', import.meta.url);
  const { request, reply } = JSON.parse(readFileSync(url, 'utf8'));
  const [oid] = reply.list_key.split('.');
  await redis.sadd('_kombu.binding.reply.celery.pidbox', [oid, '', reply.list_key].join(SEPARATOR));
  await redis.publish(request.channel, request.message.raw);
  await until(async () => (await redis.llen(reply.list_key)) === 1, 'a reply');
  const raw = (await redis.lindex(reply.list_key, 0))!;
  const blank = (text: string) =>
    text.replace(/"clock": \d+/, '"clock": 0').replace(/"delivery_tag": "[^"]*"/, '"delivery_tag": ""');
  t.equal(blank(raw), blank(reply.message.raw));
  t.ok(JSON.parse(raw).headers.clock > JSON.parse(request.message.raw).headers.clock, 'its clock is later');
});

t.test('Celery finds the worker in the bindings while it runs', async (t) => {
  const worker = await startWorker(t);
  const binding = ['', '', 'w1@host1.celery.pidbox'].join(SEPARATOR);
  t.equal(await redis.sismember('_kombu.binding.celery.pidbox', binding), 1);
  await worker.stop();
  t.equal(await redis.exists('_kombu.binding.celery.pidbox'), 0);
});

t.test('only the nodes that are meant answer', async (t) => {
  await startWorker(t);
  await startWorker(t, { hostname: 'w2@host1' });
  const cases: [Omit<Request, 'method'>, string[]][] = [
    [{}, ['w1@host1', 'w2@host1']],
    [{ destination: ['w2@host1', 'w3@host1'] }, ['w2@host1']],
    [{ destination: [] }, ['w1@host1', 'w2@host1']],
    [{ pattern: 'w1*', matcher: 'glob' }, ['w1@host1']],
    [{ pattern: 'w[!1]@host?', matcher: 'glob' }, ['w2@host1']],
    [{ pattern: 'w.@h', matcher: 'pcre' }, ['w1@host1', 'w2@host1']],
    [{ pattern: 'host1', matcher: 'pcre' }, []],
  ];
  for (const [request, nodes] of cases) {
    const replies = await ask({ method: 'ping', ...request }, nodes.length);
    t.same(Object.keys(replies).sort(), nodes, JSON.stringify(request));
  }
});

t.test('a request that cannot be read or understood harms nothing', async (t) => {
  await startWorker(t);
  const envelope = { 'content-type': 'application/json', headers: {}, properties: {} };
  for (const payload of [
    'no JSON',
    '[]',
    '{}',
    JSON.stringify({ ...envelope, body: 7 }),
    JSON.stringify({ ...envelope, body: '"text"' }),
    JSON.stringify({ ...envelope, body: '{"arguments": {}}' }),
    JSON.stringify({ ...envelope, body: '{"method": "ping", "pattern": "(", "matcher": "pcre"}' }),
    JSON.stringify({ ...envelope, 'content-type': 'application/x-python-serialize', body: 'x' }),
  ])
    await redis.publish(CHANNEL, payload);
  await broadcast({ method: 'ping', reply_to: { exchange: 'reply.celery.pidbox' } });
  t.same(await ask({ method: 'no_such_command' }), { 'w1@host1': { error: "KeyError('no_such_command')" } });
  t.same(await ask({ method: 'constructor' }), { 'w1@host1': { error: "KeyError('constructor')" } });
  t.same(await ask({ method: 'revoke' }), {
    'w1@host1': { error: 'TypeError("revoke() missing 1 required positional argument: \'task_id\'")' },
  });
  t.same(await ask({ method: 'ping', arguments: { unexpected: 1 } }), { 'w1@host1': { ok: 'pong' } });
});

t.test('a reply that nobody waits for is dropped', async (t) => {
  await startWorker(t);
  const replyTo = { exchange: 'reply.celery.pidbox', routing_key: 'gone' };
  await broadcast({ method: 'ping', arguments: {}, ticket: 'x', reply_to: replyTo });
  await ask({ method: 'ping' });
  t.equal(await redis.exists('gone.reply.celery.pidbox'), 0);
});

t.test('a task that waits for a slot is revoked at once and never runs', async (t) => {
  await startWorker(t, { concurrency: 1, prefetch: 8 });
  await send(redis, { task: 'wait', id: 'running' });
  await until(() => release.size === 1, 'one runs');
  await send(redis, { id: 'a' }, { id: 'b' }, { id: 'c' });
  await until(async () => (await redis.hlen('unacked')) >= 1, 'the worker holds some');
  t.same(await ask({ method: 'revoke', arguments: { task_id: 'b', terminate: false, signal: 'SIGTERM' } }), {
    'w1@host1': { ok: 'tasks b flagged as revoked' },
  });
  release.get('running')?.();
  t.match(await recordOf('b'), REVOKED);
  t.match(await recordOf('c'), { status: 'SUCCESS' });
  t.same(ran, ['running', 'a', 'c']);
  t.same(await ask({ method: 'revoked' }), { 'w1@host1': ['b'] });
});

t.test('a task that is still in its queue is dropped when it comes', async (t) => {
  await startWorker(t);
  await ask({ method: 'revoke', arguments: { task_id: ['x', 'y'] } });
  await send(redis, { id: 'x' }, { id: 'y' }, { id: 'z' });
  t.match(await recordOf('x'), REVOKED);
  t.match(await recordOf('y'), REVOKED);
  t.match(await recordOf('z'), { status: 'SUCCESS' });
  t.same(ran, ['z']);
});

t.test('what runs already is not revoked', async (t) => {
  await startWorker(t);
  await send(redis, { task: 'wait', id: 'running' });
  await until(() => release.size === 1, 'it runs');
  const revoke = { task_id: ['running'], terminate: true, signal: 'KILL' };
  t.same(await ask({ method: 'revoke', arguments: revoke }), { 'w1@host1': { ok: 'terminate: tasks unknown' } });
  release.get('running')?.();
  t.match(await recordOf('running'), { status: 'SUCCESS' });
});

t.test('held eta messages are revoked at once, and listed while they are held', async (t) => {
  await startWorker(t);
  const now = await redisNow(redis);
  const far = now + 3_600_000;
  await send(redis, { id: 'late', headers: { eta: iso(far + 1) } }, { id: 'gone', headers: { eta: iso(far) } });
  await send(redis, { id: 'later', args: [1], kwargs: { a: 'x' }, headers: { eta: iso(far + 2) } });
  await until(async () => (await redis.hlen('unacked')) === 3, 'all are held');
  const listed = (await ask({ method: 'scheduled' }))['w1@host1'];
  t.same(
    listed.map(({ request }: { request: { id: string } }) => request.id),
    ['gone', 'late', 'later'],
  );
  t.same(listed[2], {
    eta: iso(far + 2),
    priority: 6,
    request: {
      id: 'later',
      name: 'note',
      args: [1],
      kwargs: { a: 'x' },
      type: 'note',
      hostname: 'w1@host1',
      time_start: null,
      acknowledged: false,
      delivery_info: { exchange: '', routing_key: 'celery', priority: 0, redelivered: false },
      worker_pid: null,
    },
  });
  await ask({ method: 'revoke', arguments: { task_id: 'gone' } });
  t.match(await recordOf('gone'), REVOKED);
  await until(async () => (await redis.hlen('unacked')) === 2, 'it is acknowledged');
  t.equal((await ask({ method: 'dump_schedule' }))['w1@host1'].length, 2);
});

t.test("parked messages of the worker's queues are listed, nearest first, and revoked", async (t) => {
  await pretendBeat();
  await startWorker(t, { queues: ['celery', 'video'] });
  const far = (await redisNow(redis)) + 3_600_000;
  for (let n = 0; n < 30; n++) {
    await send(redis, { id: `id-${n}`, queue: n % 2 === 0 ? 'celery' : 'video', headers: { eta: iso(far - n) } });
  }
  await until(async () => (await whereabouts(redis, 'celery', 'video')).queued === 0, 'all are taken');
  await until(async () => (await redis.hlen('unacked')) === 0, 'all are parked');
  const listed = (await ask({ method: 'scheduled' }))['w1@host1'];
  t.same(
    listed.map(({ request }: { request: { id: string } }) => request.id),
    Array.from({ length: 30 }, (_, n) => `id-${29 - n}`),
  );
  t.equal(listed[0].eta, iso(far - 29));
  await ask({ method: 'revoke', arguments: { task_id: ['id-3', 'id-4'] } });
  t.match(await recordOf('id-3'), REVOKED);
  t.match(await recordOf('id-4'), REVOKED);
  t.equal((await ask({ method: 'scheduled' }))['w1@host1'].length, 28);
});

t.test('a worker that starts learns what was revoked, and tells what it was told', async (t) => {
  await startWorker(t);
  await ask({ method: 'revoke', arguments: { task_id: 'a' } });
  const before = process.hrtime.bigint();
  const reply = (await ask({ method: 'hello', arguments: { from_node: 'w2@host1', revoked: ['b'] } }))['w1@host1'];
  t.same(Object.keys(reply.revoked), ['a', 'b']);
  const [stamp, id] = reply.revoked.a;
  t.equal(id, 'a');
  t.ok(stamp > 0 && stamp < Number(before) / 1e9 + 60);
  t.ok(reply.clock > 7);
  await ask({ method: 'hello', arguments: { from_node: 'w3@host1', revoked: { c: [1.5, 'c'] } } });
  t.same(await ask({ method: 'hello', arguments: { from_node: 'w1@host1' } }), { 'w1@host1': null });
  t.same(await ask({ method: 'dump_revoked' }), { 'w1@host1': ['a', 'b', 'c'] });
});
