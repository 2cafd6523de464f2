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

t.test('a task that runs is revoked only when it is to be terminated, and then at once', async (t) => {
  await startWorker(t);
  await send(redis, { task: 'wait', id: 'kept' }, { task: 'wait', id: 'ended' });
  await until(() => release.size === 2, 'both run');
  t.same(await ask({ method: 'revoke', arguments: { task_id: 'kept' } }), {
    'w1@host1': { ok: 'tasks kept flagged as revoked' },
  });
  const terminate = { task_id: ['ended', 'unknown'], signal: 'KILL' };
  t.same(await ask({ method: 'terminate', arguments: terminate }), { 'w1@host1': { ok: 'terminate: ended' } });
  const args = ['terminated'];
  t.match(await recordOf('ended'), { ...REVOKED, result: { ...REVOKED.result, exc_message: args } });
  t.same(await redis.exists(resultKey('kept')), 0);
  for (const finish of release.values()) finish();
  t.match(await recordOf('kept'), { status: 'SUCCESS' });
  t.match(await recordOf('ended'), { status: 'REVOKED' }, 'what it returned later is dropped');
  t.same(await ask({ method: 'revoke', arguments: { ...terminate, terminate: true } }), {
    'w1@host1': { ok: 'terminate: tasks unknown' },
  });
});

t.test('REVOKED is stored at once for a task that no record says to have begun or ended', async (t) => {
  await startWorker(t);
  const record = (status: string) => `{"status": "${status}", "result": 1}`;
  for (const status of ['SUCCESS', 'FAILURE', 'STARTED', 'PROGRESS', 'RETRY'])
    await redis.set(resultKey(status), record(status));
  await redis.set(resultKey('foreign'), 'no record');
  await redis.lpush(resultKey('list'), 'no record');
  const ids = ['SUCCESS', 'FAILURE', 'STARTED', 'PROGRESS', 'RETRY', 'foreign', 'list', 'new'];
  await ask({ method: 'revoke', arguments: { task_id: ids } });
  for (const status of ['SUCCESS', 'FAILURE', 'STARTED', 'PROGRESS'])
    t.equal(await redis.get(resultKey(status)), record(status));
  t.equal(await redis.get(resultKey('foreign')), 'no record');
  t.equal(await redis.type(resultKey('list')), 'list');
  t.match(await recordOf('RETRY'), REVOKED);
  t.match(await recordOf('new'), REVOKED);
  t.ok((await redis.ttl(resultKey('new'))) > 86_000);
});

t.test('messages with a revoked stamp are dropped, and ended where they run', async (t) => {
  await startWorker(t);
  const stamped = (value: string | string[]) => ({ stamped_headers: ['batch'], stamps: { batch: value } });
  await send(redis, { task: 'wait', id: 'one', headers: stamped(['a', 'b']) });
  await send(redis, { task: 'wait', id: 'other', headers: stamped('c') });
  await until(() => release.size === 2, 'both run');
  const method = 'revoke_by_stamped_headers';
  t.same(await ask({ method, arguments: { headers: { batch: ['b', 'd'] } } }), {
    'w1@host1': { ok: "headers {'batch': ['b', 'd']} flagged as revoked, but not terminated" },
  });
  t.same(await ask({ method, arguments: { headers: ['batch=x'], terminate: true } }), {
    'w1@host1': { ok: "headers {'batch': 'x'} were not terminated" },
  });
  t.same(await ask({ method, arguments: { headers: { batch: 'b' }, terminate: true } }), {
    'w1@host1': { ok: "headers {'batch': ['b']} revoked" },
  });
  t.match(await recordOf('one'), { status: 'REVOKED' });
  await send(redis, { id: 'two', headers: stamped('d') }, { id: 'three', headers: stamped('e') }, { id: 'four' });
  t.match(await recordOf('two'), REVOKED);
  t.match(await recordOf('four'), { status: 'SUCCESS' });
  t.same(ran, ['one', 'other', 'three', 'four']);
});

t.test('a signal that there is not is refused, and revokes nothing', async (t) => {
  await startWorker(t);
  const cases: [unknown, string][] = [
    ['kill', "TypeError('signal name must be uppercase string.')"],
    ['SIGNONE', "AttributeError(\"module 'signal' has no attribute 'SIGNONE'\")"],
    [99, "ValueError('99 is no signal')"],
  ];
  for (const [signal, error] of cases)
    t.same(await ask({ method: 'terminate', arguments: { task_id: 'a', signal } }), { 'w1@host1': { error } });
  t.same(await ask({ method: 'revoked' }), { 'w1@host1': [] });
  t.equal(await redis.exists(resultKey('a')), 0);
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
  const reply = (await ask({ method: 'hello', arguments: { from_node: 'w2@host1', revoked: ['b'] } }))['w1@host1'];
  t.same(reply.revoked, ['a', 'b']);
  t.ok(reply.clock > 7);
  await ask({ method: 'hello', arguments: { from_node: 'w3@host1', revoked: { c: [1.5, 'c'] } } });
  t.same(await ask({ method: 'hello', arguments: { from_node: 'w1@host1' } }), { 'w1@host1': null });
  t.same(await ask({ method: 'dump_revoked' }), { 'w1@host1': ['a', 'b', 'c'] });
});

t.test('a worker that starts asks the others, and waits for nobody who does not answer', async (t) => {
  await startWorker(t);
  await ask({ method: 'revoke', arguments: { task_id: 'a' } });
  // Of a worker that was killed.
  await redis.sadd('_kombu.binding.celery.pidbox', ['', '', 'dead@host1.celery.pidbox'].join(SEPARATOR));
  await startWorker(t, { hostname: 'w2@host1' });
  await startWorker(t, { hostname: 'w3@host1', withoutMingle: true });
  t.same(await ask({ method: 'revoked' }, 3), { 'w1@host1': ['a'], 'w2@host1': ['a'], 'w3@host1': [] });
  t.equal(await redis.exists('_kombu.binding.reply.celery.pidbox'), 1, 'of this test');
});

t.test('every command of Celery 5.2 is answered in the shape that its own worker answers it in', async (t) => {
  await startWorker(t, { concurrency: 2 });
  const url = new URL('../../../test/fixtures/celery-samples/control-replies.json', import.meta.url);
  // Python's json writes what JSON does not have.
  const { commands } = JSON.parse(readFileSync(url, 'utf8').replaceAll('Infinity', '1e999'));
  const texts = [
    'ping',
    'ping-unexpected-argument',
    'enable_events-unexpected-argument',
    'no_such_command',
    'terminate#2',
    'pool_grow',
    'pool_shrink',
    'autoscale',
    'pool_restart',
    'cancel_consumer',
    'add_consumer',
    'active_queues#2',
    'heartbeat',
    'revoke',
    'rate_limit#2',
    'time_limit#2',
  ];
  for (const name of texts) {
    const { command, arguments: args, replies } = commands[name];
    t.same(await ask({ method: command, arguments: args }), replies[0], name);
  }
  for (const name of ['rate_limit', 'rate_limit#3', 'rate_limit#4', 'time_limit']) {
    const { command, arguments: args, replies } = commands[name];
    t.same(await ask({ method: command, arguments: { ...args, task_name: 'note' } }), replies[0], name);
  }
  for (const name of [
    'clock',
    'conf',
    'report',
    'stats',
    'memdump',
    'revoked',
    'registered',
    'reserved',
    'query_task',
  ]) {
    const { command, arguments: args, replies } = commands[name];
    const reply = (await ask({ method: command, arguments: args }))['w1@host1'];
    const theirs = replies[0]['w1@host1'];
    t.equal(typeof reply, typeof theirs, name);
    t.equal(Array.isArray(reply), Array.isArray(theirs), name);
    if (name === 'stats') {
      for (const part of [reply, reply.broker, reply.rusage]) t.notMatch(JSON.stringify(part), /undefined/);
      const missing = Object.keys(theirs).filter((key) => typeof theirs[key] !== typeof reply[key]);
      t.same(missing, []);
      t.same(
        Object.keys(theirs.broker).filter((key) => !(key in reply.broker)),
        [],
      );
      t.same(Object.keys(reply.rusage), Object.keys(theirs.rusage));
    }
  }
  t.match((await ask({ method: 'memsample' }))['w1@host1'], /^\d+(\.\d+)?MB$/);
  t.match((await ask({ method: 'memdump' }))['w1@host1'], /^- rss \(sample\):\n- {4}> .*MB,\n- rss \(end\): .*MB\.\n$/);
  t.same(await ask({ method: 'election', arguments: { id: '1', topic: 'task' } }), { 'w1@host1': null });
});

t.test('tasks are shown where they are: running, waiting, held', async (t) => {
  await startWorker(t, { concurrency: 1, prefetch: 8 });
  const far = (await redisNow(redis)) + 3_600_000;
  await send(redis, { task: 'wait', id: 'running', args: [20] }, { id: 'waiting' });
  await send(redis, { id: 'held', headers: { eta: iso(far) } });
  await until(async () => (await redis.hlen('unacked')) === 2, 'the worker holds two');
  const active = (await ask({ method: 'active' }))['w1@host1'];
  t.equal(active.length, 1);
  t.match(active[0], { id: 'running', args: [20], acknowledged: true, worker_pid: process.pid, hostname: 'w1@host1' });
  t.ok(Math.abs(active[0].time_start - (await redisNow(redis)) / 1_000) < 60);
  const shown = (await ask({ method: 'dump_active', arguments: { safe: true } }))['w1@host1'][0];
  t.match(shown, { args: '()', kwargs: '{}' }, 'as its sender wants them shown');
  const reserved = (await ask({ method: 'reserved' }))['w1@host1'];
  t.match(reserved, [{ id: 'waiting', time_start: null, acknowledged: false, worker_pid: null }]);
  const found = (await ask({ method: 'query_task', arguments: { ids: ['running', 'waiting', 'held', 'none'] } }))[
    'w1@host1'
  ];
  t.match(found, {
    running: ['active', { id: 'running' }],
    waiting: ['reserved', { id: 'waiting' }],
    held: ['scheduled', { id: 'held' }],
  });
  t.notOk('none' in found);
  t.same((await ask({ method: 'stats' }))['w1@host1'].total, { wait: 1 });
});

t.test('queues, slots and limits change while the worker runs', async (t) => {
  await startWorker(t, { concurrency: 1 });
  await send(redis, { id: 'other', queue: 'other' });
  await ask({ method: 'add_consumer', arguments: { queue: 'other', exchange: 'videos', routing_key: 'hd' } });
  t.match(await recordOf('other'), { status: 'SUCCESS' });
  t.equal(await redis.sismember('_kombu.binding.videos', ['hd', '', 'other'].join(SEPARATOR)), 1);
  t.match((await ask({ method: 'active_queues' }))['w1@host1'], [
    { name: 'celery', exchange: { name: 'celery' }, routing_key: 'celery' },
    { name: 'other', exchange: { name: 'videos' }, routing_key: 'hd' },
  ]);
  await ask({ method: 'cancel_consumer', arguments: { queue: 'other' } });
  await send(redis, { id: 'left', queue: 'other' }, { id: 'taken' });
  t.match(await recordOf('taken'), { status: 'SUCCESS' });
  await ask({ method: 'cancel_consumer', arguments: { queue: 'celery' } });
  await ask({ method: 'ping' });
  t.equal(await redis.llen('other'), 1);
  t.match((await ask({ method: 'add_consumer', arguments: { queue: 'a"b' } }))['w1@host1'], { error: /^ValueError/ });
  const fanout = { queue: 'q', exchange_type: 'fanout' };
  t.match((await ask({ method: 'add_consumer', arguments: fanout }))['w1@host1'], { error: /^NotImplementedError/ });
  await ask({ method: 'add_consumer', arguments: { queue: 'celery' } });

  await send(redis, { task: 'wait', id: 'one' }, { task: 'wait', id: 'two' }, { task: 'wait', id: 'three' });
  await until(() => release.size === 1, 'one runs');
  await ask({ method: 'pool_grow', arguments: { n: 2 } });
  await until(() => release.size === 3, 'all run');
  await ask({ method: 'pool_shrink', arguments: { n: 1 } });
  const { pool, prefetch_count } = (await ask({ method: 'stats' }))['w1@host1'];
  t.equal(pool['max-concurrency'], 2);
  t.equal(prefetch_count, 8);
  t.match((await ask({ method: 'pool_shrink', arguments: { n: 2 } }))['w1@host1'], { error: /^ValueError/ });

  const attributes = { taskinfoitems: ['rate_limit', 'time_limit', 'max_retries', '_secret'] };
  await ask({ method: 'rate_limit', arguments: { task_name: 'note', rate_limit: '100/m' } });
  await ask({ method: 'time_limit', arguments: { task_name: 'note', soft: 50, hard: 60 } });
  t.same((await ask({ method: 'registered', arguments: attributes }))['w1@host1'], [
    'note [rate_limit=100/m time_limit=60 max_retries=3]',
    'wait [max_retries=3]',
  ]);
  t.match((await ask({ method: 'rate_limit', arguments: { task_name: 'note', rate_limit: '5/d' } }))['w1@host1'], {
    error: "KeyError('d')",
  });
});

t.test('settings are told without passwords', async (t) => {
  await redis.config('SET', 'requirepass', 'hush');
  try {
    const url = redisServer.url.replace('redis://', 'redis://:hush@');
    await startWorker(t, { redis: url, concurrency: 7, acksLate: true });
    const conf = (await ask({ method: 'dump_conf' }))['w1@host1'];
    t.match(conf, { broker_url: /^redis:\/\/:\*\*\*@/, worker_concurrency: 7, task_acks_late: true });
    t.notOk('result_expires' in conf, 'it is the default');
    const all = (await ask({ method: 'conf', arguments: { with_defaults: true } }))['w1@host1'];
    t.equal(all.result_expires, 86_400);
    for (const method of ['conf', 'report', 'stats']) t.notMatch(JSON.stringify(await ask({ method })), /hush/);
  } finally {
    await redis.config('SET', 'requirepass', '');
  }
});

t.test('a worker that is told to shut down ends what runs, and gives no answer', async (t) => {
  const worker = await startWorker(t);
  await send(redis, { task: 'wait', id: 'running' });
  await until(() => release.size === 1, 'it runs');
  await broadcast({ method: 'shutdown', arguments: {}, destination: ['w1@host1'] });
  const ended = worker.ended.then(() => 'ended');
  t.equal(await Promise.race([ended, Promise.resolve('runs')]), 'runs');
  release.get('running')?.();
  t.equal(await ended, 'ended');
  t.match(await recordOf('running'), { status: 'SUCCESS' });
});
