import t from 'tap';
import { requireSafeListener } from '../../scheduler/api/auth.ts';
import { call, startApi } from './api-harness.ts';

const TOKENS = [
  { token: 'reader-secret', scope: 'read' },
  { token: 'writer-secret', scope: 'write' },
] as const;

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

t.test('with tokens configured, everything but health needs one', async (t) => {
  const api = await startApi(t, { tokens: TOKENS });
  for (const path of [
    '/v1/schedules',
    '/v1/stats',
    '/v1/nodes',
    '/v1/shards',
    '/v1/queues',
    '/metrics',
    '/openapi.json',
  ]) {
    const without = await call(api, 'GET', path);
    t.match(without, { status: 401, headers: { 'www-authenticate': 'Bearer' }, json: { status: 401 } }, path);
    t.equal((await call(api, 'GET', path, { headers: bearer('reader-secret') })).status, 200, path);
  }
  for (const path of ['/healthz', '/readyz']) t.equal((await call(api, 'GET', path)).status, 200, path);
});

t.test('a token for reading changes nothing, one for writing may do all', async (t) => {
  const api = await startApi(t, { tokens: TOKENS });
  const json = { id: 'a', task: 't', schedule: { every: 60 } };
  const requests = [
    ['POST', '/v1/schedules', 201],
    ['PUT', '/v1/schedules/a', 200],
    ['PATCH', '/v1/schedules/a', 200],
    ['POST', '/v1/schedules/a/pause', 200],
    ['DELETE', '/v1/schedules/a', 204],
  ] as const;
  for (const [method, path, status] of requests) {
    t.equal(
      (await call(api, method, path, { json, headers: bearer('reader-secret') })).status,
      403,
      `${method} ${path}`,
    );
    t.equal((await call(api, method, path, { json })).status, 401, `${method} ${path}`);
    t.equal(
      (await call(api, method, path, { json, headers: bearer('writer-secret') })).status,
      status,
      `${method} ${path}`,
    );
  }
  t.equal((await call(api, 'HEAD', '/v1/schedules', { headers: bearer('reader-secret') })).status, 200);
});

t.test('what is no known token is refused', async (t) => {
  const api = await startApi(t, { tokens: TOKENS });
  for (const authorization of [
    '',
    'Bearer',
    'Bearer ',
    'Bearer x',
    'Bearer writer-secret x',
    'Basic writer-secret',
    'writer-secret',
    'Bearer reader-secre',
    'Bearer reader-secrett',
  ]) {
    t.equal((await call(api, 'GET', '/v1/stats', { headers: { authorization } })).status, 401, authorization);
  }
  t.equal(
    (await call(api, 'GET', '/v1/stats', { headers: { authorization: 'bearer  reader-secret ' } })).status,
    200,
    'the scheme is written as one likes',
  );
});

t.test('listening beyond loopback needs a token or a word that it is meant', async (t) => {
  const token = [{ token: 'x', scope: 'read' }] as const;
  for (const host of ['127.0.0.1', '127.1.2.3', 'localhost', '::1', '[::1]', '::ffff:127.0.0.1'])
    t.doesNotThrow(() => requireSafeListener(host, [], false), host);
  for (const host of ['0.0.0.0', '::', '', '10.0.0.1', 'example.org', '127.0.0.1.example.org', '::ffff:10.0.0.1']) {
    t.throws(() => requireSafeListener(host, [], false), { code: 'INSECURE_API' }, host);
    t.doesNotThrow(() => requireSafeListener(host, token, false), host);
    t.doesNotThrow(() => requireSafeListener(host, [], true), host);
  }
});
