import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import t from 'tap';
import { eventually, until } from '../support/eventually.ts';
import { call, importLines, startApi, storedIds, type TestApi } from './api-harness.ts';

const SPEC = { task: 't', schedule: { every: 60 } };

function post(api: TestApi, key: string, json: unknown, path = '/v1/schedules') {
  return call(api, 'POST', path, { json, headers: { 'idempotency-key': key } });
}

t.test('a repeated creation answers as the first did and creates nothing more', async (t) => {
  const api = await startApi(t);
  const first = await post(api, 'k1', SPEC);
  const second = await post(api, 'k1', SPEC);
  t.equal(first.status, 201);
  t.equal(second.status, 201);
  t.equal(second.text, first.text);
  t.equal(second.headers.location, first.headers.location);
  t.equal(second.headers['idempotency-replayed'], 'true');
  t.strictSame(await storedIds(api), [first.json.id]);
  const other = await post(api, 'k2', SPEC);
  t.not(other.json.id, first.json.id, 'another key is another request');
});

t.test('a key that is used for another request is refused', async (t) => {
  const api = await startApi(t);
  await post(api, 'k', { id: 'a', ...SPEC });
  t.equal((await post(api, 'k', { id: 'b', ...SPEC })).status, 422);
  t.equal((await post(api, 'k', { tag: 'x' }, '/v1/schedules/pause')).status, 422);
  t.equal((await importLines(api, [{ id: 'c', ...SPEC }], { 'idempotency-key': 'k' })).status, 422);
  t.strictSame(await storedIds(api), ['a']);
});

t.test('a repeated import is not done again', async (t) => {
  const api = await startApi(t);
  const lines = Array.from({ length: 1_000 }, (_, n) => ({ id: `s${n}`, ...SPEC }));
  const first = await importLines(api, lines, { 'idempotency-key': 'k' });
  t.match(first.json, { created: 1_000 });
  await call(api, 'DELETE', '/v1/schedules/s5');
  const second = await importLines(api, lines, { 'idempotency-key': 'k' });
  t.equal(second.text, first.text);
  t.equal((await call(api, 'GET', '/v1/schedules/s5')).status, 404);
  const changed = await importLines(api, [...lines, { id: 'more', ...SPEC }], { 'idempotency-key': 'k' });
  t.equal(changed.status, 422);
});

t.test('a repeated action tells what the first one changed', async (t) => {
  const api = await startApi(t);
  await importLines(api, [{ id: 'a', ...SPEC }]);
  t.strictSame((await post(api, 'k', { prefix: 'a' }, '/v1/schedules/pause')).json, { matched: 1, changed: 1 });
  t.strictSame((await post(api, 'k', { prefix: 'a' }, '/v1/schedules/pause')).json, { matched: 1, changed: 1 });
  t.strictSame((await post(api, 'other', { prefix: 'a' }, '/v1/schedules/pause')).json, { matched: 1, changed: 0 });
  t.equal((await post(api, 'r', undefined, '/v1/schedules/a/resume')).json.state, 'scheduled');
  t.equal((await post(api, 'r', undefined, '/v1/schedules/a/resume')).headers['idempotency-replayed'], 'true');
});

t.test('a refused request may be corrected under the same key', async (t) => {
  const api = await startApi(t);
  t.equal((await post(api, 'k', { id: 'a', task: 't' })).status, 400);
  t.equal((await post(api, 'k', { id: 'a', ...SPEC })).status, 201);
});

t.test('a request whose first sending broke off may be sent again', async (t) => {
  const api = await startApi(t);
  const socket = connect(api.port, '127.0.0.1');
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.write(
    'POST /v1/schedules HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 1000\r\nidempotency-key: k\r\n\r\n',
  );
  const repeat = () => importLines(api, [{ id: 'a', ...SPEC }], { 'idempotency-key': 'k' });
  await until(async () => (await api.redis.keys('rb:request:*')).length === 1, 'the first sending holds the key');
  t.equal((await repeat()).status, 409);
  socket.resetAndDestroy();
  const answer = await eventually(async () => {
    const reply = await repeat();
    assert.equal(reply.status, 200);
    return reply;
  });
  t.match(answer.json, { created: 1 });
});

t.test('of the same request many times at once, one is done and none answers otherwise', async (t) => {
  const api = await startApi(t);
  const replies = await Promise.all(Array.from({ length: 20 }, () => post(api, 'k', SPEC)));
  const created = replies.filter(({ status }) => status === 201);
  t.ok(created.length > 0);
  t.equal(new Set(created.map(({ text }) => text)).size, 1);
  t.ok(replies.every(({ status }) => status === 201 || status === 409));
  t.equal((await storedIds(api)).length, 1);
});

t.test('a creation that was done but not answered is answered when it is repeated', async (t) => {
  const api = await startApi(t);
  const first = await post(api, 'k', SPEC);
  // What a node leaves that dies between creating and answering, once its lease has lapsed.
  for (const key of await api.redis.keys('rb:request:*')) await api.redis.del(key);
  const second = await post(api, 'k', SPEC);
  t.equal(second.status, 201);
  t.equal(second.json.id, first.json.id);
  t.equal((await storedIds(api)).length, 1);
});

t.test('answers are kept for ten minutes', async (t) => {
  const api = await startApi(t);
  await post(api, 'k', SPEC);
  for (const key of await api.redis.keys('rb:request:*')) {
    const left = await api.redis.pttl(key);
    t.ok(left > 590_000 && left <= 600_000, `${left} ms left`);
  }
});

t.test('keys that are none are refused', async (t) => {
  const api = await startApi(t);
  for (const key of ['', ' ', 'a b', 'x'.repeat(201), 'é']) {
    t.match(
      await post(api, key, SPEC),
      { status: 400, json: { errors: [{ path: 'Idempotency-Key' }] } },
      JSON.stringify(key),
    );
  }
  t.strictSame(await storedIds(api), []);
});
