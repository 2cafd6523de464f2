import { once } from 'node:events';
import { connect } from 'node:net';
import fc from 'fast-check';
import t from 'tap';
import { until } from '../support/eventually.ts';
import { type CallOptions, call, importLines, type Reply, startApi, storedIds, type TestApi } from './api-harness.ts';

const SPEC = { id: 'a', task: 't', schedule: { every: 60 } };
const NDJSON = 'application/x-ndjson';

/** What every refusal looks like. */
function problemStatus(reply: Reply): number {
  const { json, headers, status } = reply;
  const isProblem =
    String(headers['content-type']).startsWith('application/problem+json') &&
    json.type === 'about:blank' &&
    typeof json.title === 'string' &&
    json.status === status &&
    typeof json.detail === 'string' &&
    Array.isArray(json.errors) &&
    json.errors.every(
      (error: { path: unknown; message: unknown }) =>
        typeof error.path === 'string' && typeof error.message === 'string',
    );
  if (!isProblem) throw new Error(`${status} is no problem document: ${reply.text}`);
  if (/\n\s+at |node_modules|\.[jt]s:\d/.test(reply.text)) throw new Error(`shows its inside: ${reply.text}`);
  return status;
}

t.test('every kind of bad request is a problem with its status, and stores nothing', async (t) => {
  const api = await startApi(t);
  const json = (body: string | Buffer): CallOptions => ({ body, type: 'application/json' });
  const cases: readonly (readonly [method: string, path: string, options: CallOptions, status: number])[] = [
    ['POST', '/v1/schedules', {}, 400],
    ['POST', '/v1/schedules', { type: 'application/json' }, 400],
    ['POST', '/v1/schedules', json(''), 400],
    ['POST', '/v1/schedules', json('{'), 400],
    ['POST', '/v1/schedules', json('[]'), 400],
    ['POST', '/v1/schedules', json('"a"'), 400],
    ['POST', '/v1/schedules', json('1.0'), 400],
    ['POST', '/v1/schedules', json(JSON.stringify([SPEC])), 400],
    ['POST', '/v1/schedules', json(`${JSON.stringify(SPEC)}\n${JSON.stringify(SPEC)}`), 400],
    ['POST', '/v1/schedules', json(Buffer.from([0x7b, 0xff, 0x7d])), 400],
    ['POST', '/v1/schedules', json('['.repeat(60_000)), 400],
    ['POST', '/v1/schedules', json(`{"args":${'['.repeat(30_000)}1.0${']'.repeat(30_000)}}`), 400],
    ['POST', '/v1/schedules', json(`{"x":${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}}`), 400],
    ['PATCH', '/v1/schedules/a', json(`{"kwargs":${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}}`), 400],
    ['POST', '/v1/schedules', json(' '.repeat(65_537)), 413],
    ['POST', '/v1/schedules', { body: JSON.stringify(SPEC) }, 415],
    ['POST', '/v1/schedules', { body: JSON.stringify(SPEC), type: 'text/plain' }, 415],
    ['POST', '/v1/schedules', { body: JSON.stringify(SPEC), type: 'application/x-www-form-urlencoded' }, 415],
    ['POST', '/v1/schedules', { body: JSON.stringify(SPEC), type: 'nonsense' }, 415],
    ['POST', '/v1/schedules', { ...json(JSON.stringify(SPEC)), headers: { 'content-encoding': 'gzip' } }, 415],
    ['PUT', '/v1/schedules/a', { body: JSON.stringify(SPEC), type: NDJSON }, 415],
    ['PUT', '/v1/schedules', { json: SPEC }, 405],
    ['DELETE', '/v1/schedules', {}, 405],
    ['POST', '/v1/schedules/a', { json: SPEC }, 405],
    ['GET', '/v1/schedules/a/pause', {}, 405],
    ['DELETE', '/v1/stats', {}, 405],
    ['OPTIONS', '/v1/schedules', {}, 405],
    ['TRACE', '/v1/schedules', {}, 405],
    ['GET', '/', {}, 404],
    ['GET', '/v1', {}, 404],
    ['GET', '/v2/schedules', {}, 404],
    ['GET', '/v1/schedules/', {}, 404],
    ['GET', '/v1/schedules/a/', {}, 404],
    ['GET', '//v1/schedules', {}, 404],
    ['GET', '/V1/SCHEDULES', {}, 404],
    ['GET', '/v1/schedules/a/b', {}, 404],
    ['POST', '/v1/schedules/a/b/pause', {}, 404],
    ['POST', '/v1/schedules//pause', {}, 404],
    ['POST', '/v1/schedules/a/explode', {}, 404],
    ['GET', '/v1/schedules/%', {}, 400],
    ['GET', '/v1/schedules/%zz', {}, 400],
    ['GET', '/v1/schedules/%ff', {}, 400],
    ['GET', '/v1/schedules/%ed%a0%80', {}, 400],
    ['PUT', '/v1/schedules/%00', { json: { task: 't', schedule: { every: 60 } } }, 400],
    ['PUT', '/v1/schedules/', { json: { task: 't', schedule: { every: 60 } } }, 400],
    ['GET', `/v1/schedules/${'x'.repeat(5_000)}`, {}, 414],
  ];
  for (const [method, path, options, status] of cases) {
    const reply = await call(api, method, path, options);
    t.equal(problemStatus(reply), status, `${method} ${path.slice(0, 60)} ${String(options.body ?? '').slice(0, 30)}`);
    if (status === 405) t.ok(reply.headers.allow, 'says what is possible');
  }
  t.strictSame(await storedIds(api), []);
});

t.test('HEAD answers as GET does, without the body', async (t) => {
  const api = await startApi(t);
  await call(api, 'POST', '/v1/schedules', { json: SPEC });
  for (const path of ['/v1/schedules', '/v1/schedules/a', '/v1/stats', '/healthz']) {
    const get = await call(api, 'GET', path);
    t.match(
      await call(api, 'HEAD', path),
      { status: 200, text: '', headers: { 'content-length': String(Buffer.byteLength(get.text)) } },
      path,
    );
  }
  t.equal((await call(api, 'HEAD', '/v1/schedules/none')).status, 404);
  t.equal((await call(api, 'HEAD', '/v1/schedules/pause')).status, 404, 'a schedule of that name could be there');
});

t.test('a body that is too large is read on, so that its sender sees the refusal', async (t) => {
  const api = await startApi(t);
  const before = process.memoryUsage().rss;
  const body = Buffer.alloc(40 * 1_048_576, 'x');
  const grown = process.memoryUsage().rss - before;
  for (const method of ['POST', 'PUT', 'PATCH']) {
    const path = method === 'POST' ? '/v1/schedules' : '/v1/schedules/a';
    t.equal(problemStatus(await call(api, method, path, { body, type: 'application/json' })), 413, method);
  }
  const after = process.memoryUsage().rss - before - grown;
  t.ok(after < 96 * 1_048_576, `memory grew by ${Math.round(after / 1_048_576)} MiB while 120 MiB came`);
});

t.test('what is not HTTP gets a problem and a closed connection', async (t) => {
  const api = await startApi(t);
  for (const [sent, status] of [
    ['nonsense\r\n\r\n', 400],
    ['GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n', 400],
    [`GET /healthz HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(70_000)}\r\n\r\n`, 431],
  ] as const) {
    const socket = connect(api.port, '127.0.0.1');
    let answer = '';
    socket.on('data', (data) => {
      answer += data;
    });
    socket.on('error', () => {});
    socket.write(sent);
    await once(socket, 'close');
    t.match(answer, new RegExp(`^HTTP/1.1 ${status} `), sent.slice(0, 30));
    t.match(answer, /application\/problem\+json/);
  }
  t.equal((await call(api, 'GET', '/healthz')).status, 200);
});

t.test('a sender that goes away in the middle of a JSON body leaves nothing behind', async (t) => {
  const api = await startApi(t);
  for (let n = 0; n < 20; n++) {
    const socket = connect(api.port, '127.0.0.1');
    socket.on('error', () => {});
    await once(socket, 'connect');
    const text = JSON.stringify(SPEC);
    socket.write(
      `POST /v1/schedules HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${text.length + 1}\r\n\r\n${text}`,
    );
    if (n % 2 === 0) socket.resetAndDestroy();
    else socket.end();
  }
  await until(
    async () =>
      (await new Promise<number>((resolve) => api.app.server.getConnections((_, count) => resolve(count)))) === 0,
    'no connection is left',
  );
  t.strictSame(await storedIds(api), []);
});

t.test('whatever JSON is sent to whatever route, the answer is one that is foreseen', async (t) => {
  const api = await startApi(t);
  const routes = [
    ['POST', '/v1/schedules'],
    ['PUT', '/v1/schedules/a'],
    ['PATCH', '/v1/schedules/a'],
    ['POST', '/v1/schedules/pause'],
    ['POST', '/v1/schedules/delete'],
  ] as const;
  const field = fc.constantFrom(
    'id',
    'task',
    'args',
    'kwargs',
    'queue',
    'schedule',
    'start',
    'end',
    'misfire',
    'options',
    'tags',
    'enabled',
    'tag',
    'prefix',
    'queue_cap',
  );
  const bodies = fc.oneof(
    fc.json(),
    fc.dictionary(field, fc.jsonValue()).map((members) => JSON.stringify({ ...SPEC, ...members })),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...routes), bodies, async ([method, path], body) => {
      const reply = await call(api, method, path, { body, type: 'application/json' });
      if (reply.status >= 500) throw new Error(`${method} ${path}: ${reply.text}`);
      if (reply.status >= 400) problemStatus(reply);
    }),
    { seed: 20_261_121, numRuns: 300 },
  );
});

async function answersWhileAway(api: TestApi): Promise<number[]> {
  const replies = await Promise.all([
    call(api, 'GET', '/v1/schedules'),
    call(api, 'GET', '/v1/schedules/a'),
    call(api, 'POST', '/v1/schedules', { json: { ...SPEC, id: 'b' }, headers: { 'idempotency-key': 'k' } }),
    call(api, 'PUT', '/v1/schedules/b', { json: SPEC, headers: {} }),
    call(api, 'PATCH', '/v1/schedules/a', { json: { args: [1] } }),
    call(api, 'DELETE', '/v1/schedules/a'),
    call(api, 'POST', '/v1/schedules/a/pause'),
    call(api, 'POST', '/v1/schedules/delete', { json: { prefix: 'a' } }),
    importLines(api, [SPEC]),
  ]);
  return replies.map(problemStatus);
}

t.test('while Redis is away every route that needs it answers 503, and afterwards all goes on', async (t) => {
  const api = await startApi(t);
  await call(api, 'POST', '/v1/schedules', { json: SPEC });
  await api.server.kill();
  await until(() => api.redis.status !== 'ready', 'the connection is known to be lost');
  t.strictSame(await answersWhileAway(api), [503, 503, 503, 503, 503, 503, 503, 503, 503]);
  t.equal((await call(api, 'GET', '/healthz')).status, 200);
  t.equal(problemStatus(await call(api, 'GET', '/readyz')), 503);
  t.equal((await call(api, 'GET', '/openapi.json')).status, 200);
  await api.server.restart();
  await until(async () => (await call(api, 'GET', '/readyz')).status === 200, 'ready again');
  t.strictSame((await call(api, 'GET', '/v1/schedules')).json.schedules, []);
});

t.test('a Redis that hangs is a 503 as well', async (t) => {
  const api = await startApi(t);
  await call(api, 'POST', '/v1/schedules', { json: SPEC });
  api.server.pause();
  t.equal(problemStatus(await call(api, 'GET', '/v1/schedules/a')), 503);
  api.server.resume();
  await until(async () => (await call(api, 'GET', '/v1/schedules/a')).status === 200, 'Redis is back');
});

t.test('health tells when the loop stands still or the node is not ready', async (t) => {
  const api = await startApi(t, {
    system: { isLive: () => false, isReady: () => ({ ready: false, reason: 'Shutting down.' }) },
  });
  t.equal(problemStatus(await call(api, 'GET', '/healthz')), 503);
  t.match(await call(api, 'GET', '/readyz'), { status: 503, json: { detail: 'Shutting down.' } });
});

t.test('a fault inside is a 500 that tells nothing', async (t) => {
  const api = await startApi(t, {
    system: {
      stats: () => Promise.reject(new TypeError('secret of /home/x/y.ts:5')),
    },
  });
  const reply = await call(api, 'GET', '/v1/stats');
  t.equal(problemStatus(reply), 500);
  t.notMatch(reply.text, /secret/);
});
