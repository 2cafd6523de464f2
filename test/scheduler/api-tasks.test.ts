import { readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { queueBinding, resultKey, shardKeys } from '../../lua/keys.ts';
import { listParked, type ParkedEntry } from '../../lua/list-parked.ts';
import { eventually } from '../support/eventually.ts';
import { redisNow } from '../worker/messages.ts';
import { call, startApi, type TestApi } from './api-harness.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/;

const SOON = { countdown: 1_000 };

function send(api: TestApi, task: unknown, headers: Record<string, string> = {}) {
  return call(api, 'POST', '/v1/tasks', { json: task, headers });
}

function sendLines(api: TestApi, lines: readonly unknown[], headers: Record<string, string> = {}) {
  const body = lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n');
  return call(api, 'POST', '/v1/tasks', { body, type: 'application/x-ndjson', headers });
}

function taskPath(id: string): string {
  return `/v1/tasks/${encodeURIComponent(id)}`;
}

function parked(redis: Redis, queue = 'celery'): Promise<ParkedEntry[]> {
  return listParked(redis, 'rb', 16, [queue], 1_000);
}

// biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever was sent.
async function queued(redis: Redis, list = 'celery'): Promise<any[]> {
  return (await redis.lrange(list, 0, -1)).reverse().map((raw) => JSON.parse(raw));
}

function sample(name: string): { raw: string; list: string } {
  const url = new URL(`../../../test/fixtures/celery-samples/${name}.json`, import.meta.url);
  const { lists } = JSON.parse(readFileSync(url, 'utf8')) as { lists: Record<string, { raw: string }[]> };
  const [list, messages] = Object.entries(lists)[0]!;
  return { list, raw: messages[0]!.raw };
}

/** A result record as Celery stored it. */
function recordOf(name: string): string {
  const url = new URL(`../../../test/fixtures/celery-samples/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(url, 'utf8')).record.raw;
}

/** A message with what differs between any two senders taken out. */
function comparable(raw: string): string {
  const { headers, properties } = JSON.parse(raw);
  return [headers.id, headers.origin, properties.reply_to, properties.delivery_tag].reduce<string>(
    (text, name) => text.replaceAll(name, '<name>'),
    raw,
  );
}

t.test('a task is sent as Celery sends it, byte for byte', async (t) => {
  const api = await startApi(t);
  const ignored = { options: { ignore_result: false } };
  for (const [name, task] of Object.entries({
    'task-plain': { task: 'tapp.add', args: [2, 3], ...ignored },
    'task-priority-9': { task: 'tapp.add', args: [2, 3], options: { priority: 9 } },
  })) {
    const { raw, list } = sample(name);
    const answer = await send(api, task);
    t.equal(answer.status, 202);
    t.match(answer.json.task_id, UUID);
    t.equal(answer.headers.location, taskPath(answer.json.task_id));
    const [sent] = await api.redis.lrange(list, 0, -1);
    t.equal(comparable(sent!), comparable(raw), name);
    t.equal(JSON.parse(sent!).headers.id, answer.json.task_id);
  }
  t.equal(await api.redis.sismember(queueBinding('celery').key, queueBinding('celery').member), 1);
});

t.test('a task with an eta is parked, as Celery would have sent it', async (t) => {
  const api = await startApi(t);
  const answer = await send(api, { task: 'tapp.add', args: [2, 3], eta: '2030-01-02T01:04:05.678Z' });
  t.equal(answer.status, 202);
  t.equal(await api.redis.exists('celery'), 0);
  const [entry] = await parked(api.redis);
  t.match(entry, { list: 'celery', etaMs: Date.UTC(2030, 0, 2, 1, 4, 5, 678) });
  const celerys = sample('task-eta-aware').raw.replace('03:04:05.678900+02:00', '01:04:05.678000+00:00');
  t.equal(comparable(entry!.envelope), comparable(celerys));
});

t.test('countdown and expires count from the time of Redis; a countdown of 0 is none', async (t) => {
  const api = await startApi(t);
  const before = await redisNow(api.redis);
  await send(api, { task: 'a', countdown: 60, options: { expires: 120 } });
  const after = await redisNow(api.redis);
  const [entry] = await parked(api.redis);
  t.ok(entry!.etaMs >= before + 60_000 && entry!.etaMs <= after + 60_000);
  const { headers, properties } = JSON.parse(entry!.envelope);
  t.equal(Date.parse(headers.eta), entry!.etaMs);
  t.equal(Date.parse(headers.expires), entry!.etaMs + 60_000);
  t.equal(properties.expiration, '120000');
  await send(api, { task: 'b', countdown: 0 });
  t.match(await queued(api.redis), [{ headers: { task: 'b', eta: null } }]);
});

t.test('every option is written where Celery reads it', async (t) => {
  const api = await startApi(t);
  const answer = await send(api, {
    task: 'a',
    args: [12345678901234567890n.toString(), null],
    kwargs: { ü: 1.5 },
    queue: 'video',
    options: {
      priority: 4,
      expires: '2100-01-01T00:00:00Z',
      time_limit: 30,
      soft_time_limit: 20,
      ignore_result: true,
      headers: { 'x-tenant': 'acme' },
      task_id: 'order 7/ü',
    },
  });
  t.same(answer.json, { task_id: 'order 7/ü' });
  const [message] = await queued(api.redis, 'video\x06\x163');
  t.match(message, {
    headers: {
      id: 'order 7/ü',
      root_id: 'order 7/ü',
      timelimit: [30, 20],
      expires: '2100-01-01T00:00:00.000000+00:00',
      ignore_result: true,
      'x-tenant': 'acme',
      kwargsrepr: "{'ü': 1.5}",
    },
    properties: { correlation_id: 'order 7/ü', priority: 4, delivery_info: { exchange: '', routing_key: 'video' } },
  });
});

t.test('a task that is not valid is refused, naming the field, and nothing is sent', async (t) => {
  const api = await startApi(t);
  const cases: [string, unknown, string][] = [
    ['no task', {}, 'task'],
    ['an unknown field', { task: 'a', when: 1 }, 'when'],
    ['args that are no list', { task: 'a', args: 'x' }, 'args'],
    ['eta and countdown', { task: 'a', eta: '2030-01-01T00:00:00Z', countdown: 1 }, 'countdown'],
    ['an eta without an offset', { task: 'a', eta: '2030-01-01T00:00:00' }, 'eta'],
    ['a negative countdown', { task: 'a', countdown: -1 }, 'countdown'],
    ['a countdown of text', { task: 'a', countdown: '10' }, 'countdown'],
    ["a queue of kombu's", { task: 'a', queue: 'unacked' }, 'queue'],
    ["a queue among the namespace's keys", { task: 'a', queue: 'rb:x' }, 'queue'],
    ['a priority above 9', { task: 'a', options: { priority: 10 } }, 'options.priority'],
    ["a header of Celery's", { task: 'a', options: { headers: { id: 1 } } }, 'options.headers.id'],
    ['an id with a control character', { task: 'a', options: { task_id: 'a\nb' } }, 'options.task_id'],
    ['an empty id', { task: 'a', options: { task_id: '' } }, 'options.task_id'],
    [
      'a soft limit above the hard one',
      { task: 'a', options: { time_limit: 1, soft_time_limit: 2 } },
      'options.soft_time_limit',
    ],
  ];
  for (const [title, task, path] of cases) {
    const answer = await send(api, task);
    t.equal(answer.status, 400, title);
    t.same(
      answer.json.errors.map((error: { path: string }) => error.path),
      [path],
      title,
    );
  }
  t.same(await api.redis.keys('*celery*'), []);
});

t.test('at the queue cap a task is answered 429, and a delayed one is parked all the same', async (t) => {
  const api = await startApi(t, { queueCap: 1 });
  t.equal((await send(api, { task: 'a' })).status, 202);
  const refused = await send(api, { task: 'a' });
  t.equal(refused.status, 429);
  t.equal(refused.headers['retry-after'], '1');
  t.match(refused.json.detail, /queue "celery".*cap/);
  t.equal((await send(api, { task: 'a', ...SOON })).status, 202);
  t.equal(await api.redis.llen('celery'), 1);
});

t.test('a queue whose key is no list is answered 409', async (t) => {
  const api = await startApi(t);
  await api.redis.set('video', 'x');
  t.equal((await send(api, { task: 'a', queue: 'video' })).status, 409);
});

t.test('lines are sent in their order, a bad one stops none', async (t) => {
  const api = await startApi(t);
  const lines = [
    ...Array.from({ length: 600 }, (_, i) => ({ task: 'a', args: [i] })),
    '',
    'nonsense',
    { task: 'a', countdown: -1, options: { task_id: 'mine' } },
    { task: 'b', ...SOON },
  ];
  const answer = await sendLines(api, lines);
  t.equal(answer.status, 200);
  t.match(answer.json, { accepted: 601, failed: 2, errors: [{ line: 602 }, { line: 603, id: 'mine' }] });
  t.match(answer.json.errors[1].message, /^countdown must be at least 0/);
  t.same(
    (await api.redis.lrange('celery', 0, -1)).reverse().map((raw) => JSON.parse(raw).headers.argsrepr),
    Array.from({ length: 600 }, (_, i) => `(${i},)`),
  );
  t.equal((await parked(api.redis)).length, 1);
});

t.test('lines for a full queue fail one by one', async (t) => {
  const api = await startApi(t, { queueCap: 2 });
  const answer = await sendLines(api, [{ task: 'a' }, { task: 'a' }, { task: 'a' }, { task: 'a', queue: 'video' }]);
  t.match(answer.json, { accepted: 3, failed: 1, errors: [{ line: 3, id: UUID }] });
});

t.test('a request that is repeated sends and parks nothing again, whatever became of the first answer', async (t) => {
  const api = await startApi(t);
  const headers = { 'idempotency-key': 'k1' };
  const lines = [...Array.from({ length: 300 }, () => ({ task: 'a' })), { task: 'b', ...SOON }, { task: 'c', ...SOON }];
  async function forgetAnswers(): Promise<void> {
    // As if the node had died before it could keep its answer.
    const kept = await api.redis.keys('rb:request:*');
    if (kept.length > 0) await api.redis.del(...kept);
  }
  await sendLines(api, lines, headers);
  const ids = (await parked(api.redis)).map(({ envelope }) => JSON.parse(envelope).headers.id).sort();
  await forgetAnswers();
  t.match((await sendLines(api, lines, headers)).json, { accepted: 302, failed: 0 });
  t.equal(await api.redis.llen('celery'), 300);
  t.same((await parked(api.redis)).map(({ envelope }) => JSON.parse(envelope).headers.id).sort(), ids);

  const first = await send(api, { task: 'd', ...SOON }, { 'idempotency-key': 'k2' });
  await forgetAnswers();
  const again = await send(api, { task: 'd', ...SOON }, { 'idempotency-key': 'k2' });
  t.same(again.json, first.json);
  t.equal((await parked(api.redis)).length, 3);
  const other = await send(api, { task: 'd', ...SOON }, { 'idempotency-key': 'k3' });
  t.not(other.json.task_id, first.json.task_id);
});

t.test('the state of a task is what its record says; SCHEDULED while it is parked; else PENDING', async (t) => {
  const api = await startApi(t);
  const unknown = { eta: null, result: null, traceback: null, date_done: null };
  t.same((await call(api, 'GET', taskPath('nobody/knows'))).json, {
    task_id: 'nobody/knows',
    state: 'PENDING',
    ...unknown,
  });
  await send(api, { task: 'a', eta: '2030-01-02T03:04:05.678+02:00', options: { task_id: 'later' } });
  const later = { ...unknown, task_id: 'later', state: 'SCHEDULED', eta: '2030-01-02T01:04:05.678Z' };
  t.same((await call(api, 'GET', taskPath('later'))).json, later);
  await api.redis.set(resultKey('later'), recordOf('result-retry'));
  t.match((await call(api, 'GET', taskPath('later'))).json, { state: 'RETRY', eta: later.eta });
  for (const [name, expected] of Object.entries({
    'result-success': { state: 'SUCCESS', traceback: null },
    'result-failure': { state: 'FAILURE', result: { exc_type: 'ValueError' }, traceback: /Traceback/ },
    'head-result-failure': { state: 'FAILURE' },
    'result-started': { state: 'STARTED', date_done: null },
    'result-revoked': { state: 'REVOKED' },
  })) {
    const record = recordOf(name);
    await api.redis.set(resultKey('task'), record);
    const answer = (await call(api, 'GET', taskPath('task'))).json;
    t.match(answer, expected, name);
    const { date_done, result } = JSON.parse(record);
    t.same(answer.result, result, name);
    if (date_done !== null && date_done !== undefined)
      t.equal(answer.date_done, `${date_done.slice(0, 23)}Z`, `${name}: ${date_done}`);
  }
  await api.redis.set(resultKey('task'), '{"status": "SUCCESS", "result": [NaN, 10000000000000000001, "NaN"]}');
  t.match((await call(api, 'GET', taskPath('task'))).text, '"result":["NaN",10000000000000000001,"NaN"]');
});

t.test('revoking a parked task takes it out and leaves the record; workers are told in any case', async (t) => {
  const api = await startApi(t);
  const heard = await listen(t, api);
  const { json } = await send(api, { task: 'a', ...SOON });
  t.equal((await call(api, 'DELETE', taskPath(json.task_id))).status, 204);
  t.match((await call(api, 'GET', taskPath(json.task_id))).json, { state: 'REVOKED', eta: null });
  t.equal((await parked(api.redis)).length, 0);
  const shards = Array.from({ length: 16 }, (_, shard) => shardKeys('rb', shard));
  t.equal(await api.redis.exists(...shards.flatMap(({ extra, parked }) => [extra, parked])), 0);

  const unknown = await call(api, 'DELETE', taskPath('in some queue'));
  t.equal(unknown.status, 202);
  t.same(unknown.json, { task_id: 'in some queue' });
  t.equal(await api.redis.exists(resultKey('in some queue')), 0, 'whoever drops it says so');
  const messages = await eventually(() => {
    if (heard.length < 2) throw new Error(`${heard.length} messages`);
    return heard;
  });
  const revoke = { method: 'revoke', destination: null, pattern: null, matcher: null };
  const args = { terminate: false, signal: 'SIGTERM' };
  t.same(messages.map(bodyOf), [
    { ...revoke, arguments: { task_id: json.task_id, ...args } },
    { ...revoke, arguments: { task_id: 'in some queue', ...args } },
  ]);
});

function bodyOf(raw: string): unknown {
  return JSON.parse(Buffer.from(JSON.parse(raw).body, 'base64').toString());
}

async function listen(t: Test, api: TestApi): Promise<string[]> {
  const listener = api.server.connect();
  t.teardown(() => listener.disconnect());
  const heard: string[] = [];
  await listener.subscribe('/0.celery.pidbox');
  listener.on('message', (_, raw: string) => heard.push(raw));
  return heard;
}
