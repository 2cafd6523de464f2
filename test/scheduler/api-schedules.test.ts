import fc from 'fast-check';
import t from 'tap';
import { call, importLines, schedulePath, startApi } from './api-harness.ts';

const EVERY_10 = { task: 'monitor.check', schedule: { every: 10, phase: 3 } };

t.test('a schedule is created, read, changed, replaced and deleted', async (t) => {
  const api = await startApi(t);
  const created = await call(api, 'POST', '/v1/schedules', { json: { id: 'a/1', args: [1], ...EVERY_10 } });
  t.equal(created.status, 201);
  t.equal(created.headers.location, '/v1/schedules/a%2F1');
  t.match(created.json, {
    id: 'a/1',
    args: [1],
    queue: 'celery',
    state: 'scheduled',
    runs: null,
    last_run_at: null,
    last_lateness_ms: null,
  });
  t.match(created.json.next_run_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d3\.000Z$/);

  t.strictSame((await call(api, 'GET', '/v1/schedules/a%2F1')).json, created.json);

  const patched = await call(api, 'PATCH', '/v1/schedules/a%2F1', {
    body: '{"kwargs":{"x":1},"tags":["new"]}',
    type: 'application/merge-patch+json',
  });
  t.equal(patched.status, 200);
  t.strictSame(patched.json, {
    ...created.json,
    kwargs: { x: 1 },
    tags: ['new'],
    next_run_at: patched.json.next_run_at,
  });

  const replaced = await call(api, 'PUT', '/v1/schedules/a%2F1', { json: { task: 'other', schedule: { in: 60 } } });
  t.equal(replaced.status, 200);
  t.match(replaced.json, { id: 'a/1', task: 'other', args: [], kwargs: {}, tags: [], schedule: { in: 60 } });

  t.equal((await call(api, 'DELETE', '/v1/schedules/a%2F1')).status, 204);
  t.equal((await call(api, 'GET', '/v1/schedules/a%2F1')).status, 404);
  t.equal((await call(api, 'DELETE', '/v1/schedules/a%2F1')).status, 404);
});

t.test('a schedule created without an id is given one', async (t) => {
  const api = await startApi(t);
  const { json } = await call(api, 'POST', '/v1/schedules', { json: EVERY_10 });
  t.match(json.id, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  t.equal((await call(api, 'GET', schedulePath(json.id))).status, 200);
});

t.test('creating what exists is refused and changes nothing', async (t) => {
  const api = await startApi(t);
  const first = await call(api, 'POST', '/v1/schedules', { json: { id: 'a', ...EVERY_10 } });
  const second = await call(api, 'POST', '/v1/schedules', { json: { id: 'a', task: 'other', schedule: { every: 5 } } });
  t.equal(second.status, 409);
  t.strictSame((await call(api, 'GET', '/v1/schedules/a')).json.task, first.json.task);
});

t.test('PUT creates what is not there, and takes no other id', async (t) => {
  const api = await startApi(t);
  t.equal((await call(api, 'PUT', '/v1/schedules/a', { json: EVERY_10 })).status, 201);
  t.equal((await call(api, 'PUT', '/v1/schedules/a', { json: { id: 'a', ...EVERY_10 } })).status, 200);
  const other = await call(api, 'PUT', '/v1/schedules/a', { json: { id: 'b', ...EVERY_10 } });
  t.match(other, { status: 400, json: { errors: [{ path: 'id' }] } });
  t.equal((await call(api, 'GET', '/v1/schedules/b')).status, 404);
});

t.test('a merge patch removes with null, merges objects, replaces lists', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/a', {
    json: {
      ...EVERY_10,
      queue: 'video',
      args: [1, 2],
      kwargs: { keep: 1, drop: 2 },
      end: '2999-01-01T00:00:00Z',
      options: { priority: 3, expires: 60 },
    },
  });
  const patch = {
    queue: null,
    args: [9],
    kwargs: { drop: null, add: { deep: [1] } },
    end: null,
    options: { priority: 6 },
  };
  const { status, json } = await call(api, 'PATCH', '/v1/schedules/a', { json: patch });
  t.equal(status, 200);
  t.match(json, {
    queue: 'celery',
    args: [9],
    kwargs: { keep: 1, add: { deep: [1] } },
    end: null,
    options: { priority: 6, expires: 60 },
  });
  t.notOk('drop' in json.kwargs);
  const kinds = await call(api, 'PATCH', '/v1/schedules/a', {
    json: { schedule: { every: null, phase: null, at: '2999-01-01T00:00:00Z' } },
  });
  t.strictSame(kinds.json.schedule, { at: '2999-01-01T00:00:00.000Z' });
});

t.test('a patch that makes no valid spec is refused and changes nothing', async (t) => {
  const api = await startApi(t);
  const before = await call(api, 'PUT', '/v1/schedules/a', { json: EVERY_10 });
  for (const [patch, path] of [
    [{ id: 'b' }, 'id'],
    [{ id: null }, 'id'],
    [{ task: null }, 'task'],
    [{ schedule: { every: 1 } }, 'schedule.phase'],
    [{ schedule: { in: 1 } }, 'schedule'],
    [{ schedule: null }, 'schedule'],
    [{ args: { 0: 1 } }, 'args'],
    [{ state: 'paused' }, 'state'],
    [{ options: { priority: 11 } }, 'options.priority'],
  ] as const) {
    const reply = await call(api, 'PATCH', '/v1/schedules/a', { json: patch });
    t.match(reply, { status: 400, json: { status: 400, errors: [{ path }] } }, JSON.stringify(patch));
  }
  t.equal((await call(api, 'PATCH', '/v1/schedules/a', { json: [] })).status, 400);
  t.equal((await call(api, 'PATCH', '/v1/schedules/none', { json: {} })).status, 404);
  t.strictSame((await call(api, 'GET', '/v1/schedules/a')).json.schedule, before.json.schedule);
  const large = await call(api, 'PATCH', '/v1/schedules/a', { json: { args: ['x'.repeat(65_000)] } });
  t.equal(large.status, 200);
  const tooLarge = await call(api, 'PATCH', '/v1/schedules/a', { json: { kwargs: { x: 'x'.repeat(1_000) } } });
  t.equal(tooLarge.status, 413);
});

t.test('editing other things than the timing keeps the next run', async (t) => {
  const api = await startApi(t);
  const before = await call(api, 'PUT', '/v1/schedules/a', { json: { task: 't', schedule: { in: 1_000 } } });
  const after = await call(api, 'PUT', '/v1/schedules/a', {
    json: { task: 't', schedule: { in: 1_000 }, args: [1], tags: ['x'], queue: 'q' },
  });
  t.equal(after.json.next_run_at, before.json.next_run_at);
});

t.test('numbers for the task come back as they were sent', async (t) => {
  const api = await startApi(t);
  const values = '[1.0,12345678901234567890,1e3,-0,0.10]';
  const body = `{"id":"a","task":"t","schedule":{"every":1e1},"args":${values},"kwargs":{"x":${values}},"options":{"headers":{"y":${values}}}}`;
  await call(api, 'POST', '/v1/schedules', { body, type: 'application/json' });
  for (const path of ['/v1/schedules/a', '/v1/schedules']) {
    const { text } = await call(api, 'GET', path);
    t.equal(text.split(values).length - 1, 3, path);
  }
  const patched = await call(api, 'PATCH', '/v1/schedules/a', { json: { queue: 'q' } });
  t.equal(patched.text.split(values).length - 1, 3, 'and through a patch of something else');
});

const ODD_IDS = [
  'pause',
  'resume',
  'delete',
  'next',
  'runs',
  '.',
  '..',
  '...',
  '%',
  '%2F',
  '%25',
  '/',
  '//',
  'a/b',
  'a/../b',
  '?',
  '#',
  'a?b=c',
  ';',
  ':id',
  '{id}',
  '*',
  '&',
  '=',
  '+',
  ' ',
  'a b',
  '"',
  "'",
  '\\',
  '<b>',
  'é',
  '日本',
  '😀',
  'e\u0301',
  '\u00a0',
  '\u200b',
  '\u202e',
  '__proto__',
  'constructor',
  'null',
  '0',
  '-1',
  'a\u2028b',
  '@',
  ',',
  '[',
  ']',
  '^',
  '|',
  '~',
  '`',
  'x'.repeat(200),
  'é'.repeat(100),
  '😀'.repeat(50),
  '%'.repeat(200),
  '/'.repeat(200),
];

t.test('any id works on every route', async (t) => {
  const api = await startApi(t);
  const exercise = async (id: string) => {
    const path = schedulePath(id);
    const steps: [string, string, object | undefined, number][] = [
      ['PUT', path, EVERY_10, 201],
      ['GET', path, undefined, 200],
      ['PATCH', path, { args: [1] }, 200],
      ['POST', `${path}/pause`, undefined, 200],
      ['POST', `${path}/resume`, undefined, 200],
      ['GET', `${path}/next?count=1`, undefined, 200],
      ['GET', `${path}/runs?limit=1`, undefined, 200],
      ['POST', `${path}/trigger`, undefined, 202],
      ['POST', `${path}/backfill`, { from: '2027-01-01T00:00:00Z', to: '2027-01-01T00:00:20Z' }, 202],
      ['HEAD', path, undefined, 200],
      ['GET', `/v1/schedules?prefix=${encodeURIComponent(id)}`, undefined, 200],
      ['DELETE', path, undefined, 204],
      ['GET', path, undefined, 404],
    ];
    for (const [method, url, json, status] of steps) {
      const reply = await call(api, method, url, { json });
      if (reply.status !== status)
        throw new Error(`${method} ${url} (${JSON.stringify(id)}): ${reply.status} ${reply.text}`);
      if (
        method === 'GET' &&
        status === 200 &&
        !/\/(next|runs)\?/.test(url) &&
        !reply.text.includes(JSON.stringify(id))
      )
        throw new Error(`${url} shows another id: ${reply.text}`);
    }
  };
  for (const id of ODD_IDS) await exercise(id);
  t.pass(`${ODD_IDS.length} chosen ids`);
  const anyId = fc
    .string({ unit: 'binary', minLength: 1, maxLength: 60 })
    .filter((id) => Buffer.byteLength(id) <= 200 && !/\p{Cc}/u.test(id));
  await fc.assert(fc.asyncProperty(anyId, exercise), { seed: 20_261_121, numRuns: 100 });
});

t.test('an id of more than 200 bytes names nothing', async (t) => {
  const api = await startApi(t);
  t.match(await call(api, 'GET', schedulePath('x'.repeat(201))), {
    status: 404,
    headers: { 'content-type': /problem/ },
  });
  t.match(await call(api, 'GET', schedulePath('é'.repeat(300))), {
    status: 404,
    headers: { 'content-type': /problem/ },
  });
  t.match(await call(api, 'PUT', schedulePath('x'.repeat(201)), { json: EVERY_10 }), {
    status: 400,
    json: { errors: [{ path: 'id' }] },
  });
});

t.test('next occurrences follow the grid', async (t) => {
  const api = await startApi(t);
  await importLines(api, [
    { id: 'offset', task: 't', schedule: { every: 10, phase: 3 } },
    { id: 'spread', task: 't', schedule: { every: 3_600 } },
    { id: 'now', task: 't', schedule: { every: 60, phase: 'now' } },
    {
      id: 'ends',
      task: 't',
      schedule: { every: 10, phase: 3 },
      start: '2999-01-01T00:00:05Z',
      end: '2999-01-01T00:00:25Z',
    },
    { id: 'at', task: 't', schedule: { at: '2999-01-01T00:00:00Z' } },
    { id: 'in', task: 't', schedule: { in: 1_000 } },
    { id: 'paused', task: 't', schedule: { every: 10 }, enabled: false },
  ]);
  const next = async (id: string, query = '') => (await call(api, 'GET', `/v1/schedules/${id}/next${query}`)).json.next;
  t.strictSame(await next('offset', '?after=2027-01-01T00:00:03Z&count=2'), [
    '2027-01-01T00:00:13.000Z',
    '2027-01-01T00:00:23.000Z',
  ]);
  t.equal((await next('offset')).length, 10);
  t.strictSame(await next('ends', '?after=2027-01-01T00:00:00Z'), [
    '2999-01-01T00:00:13.000Z',
    '2999-01-01T00:00:23.000Z',
  ]);
  t.strictSame(await next('at'), ['2999-01-01T00:00:00.000Z']);
  t.strictSame(await next('at', '?after=2999-01-01T00:00:00Z'), []);
  t.strictSame(await next('paused'), []);
  for (const id of ['spread', 'now', 'in']) {
    const { json } = await call(api, 'GET', `/v1/schedules/${id}`);
    const before = new Date(Date.parse(json.next_run_at) - 1).toISOString();
    t.equal(
      (await next(id, `?after=${before}&count=1`))[0],
      json.next_run_at,
      `${id}: the first is the next run that the resource tells`,
    );
  }
  for (const query of [
    '?count=0',
    '?count=1001',
    '?count=x',
    '?after=yesterday',
    '?after=2027-01-01',
    '?until=1',
    '?count=1&count=2',
  ]) {
    t.equal((await call(api, 'GET', `/v1/schedules/at/next${query}`)).status, 400, query);
  }
  t.equal((await call(api, 'GET', '/v1/schedules/none/next')).status, 404);
});

t.test('a patch that takes the kind of schedule away may give another', async (t) => {
  const api = await startApi(t);
  const patch = async (schedule: object, more: object = {}) =>
    call(api, 'PATCH', '/v1/schedules/a', { json: { schedule, ...more } });
  await call(api, 'PUT', '/v1/schedules/a', { json: EVERY_10 });
  const cron = await patch({ every: null, cron: '0 9 * * *', tz: 'Europe/Berlin' });
  t.strictSame(cron.json.schedule, { cron: '0 9 * * *', tz: 'Europe/Berlin', dialect: 'unix' });
  t.match(cron.json.next_run_at, /T0[78]:00:00\.000Z$/);
  const rrule = await patch({ cron: null, rrule: 'DTSTART:20270101T090000\nRRULE:FREQ=DAILY' });
  t.equal(rrule.json.schedule.tz, 'Europe/Berlin', 'what both kinds have stays');
  const loop = await patch({ rrule: null, after: 60 });
  t.match(loop.json, { schedule: { after: 60, retry: null }, options: { ignore_result: false, time_limit: 300 } });
  const at = await patch({ every: null, cron: null, after: null, at: '2999-01-01T00:00:00Z' });
  t.match(at.json, {
    schedule: { at: '2999-01-01T00:00:00.000Z' },
    options: { ignore_result: true, time_limit: null },
  });
  t.match(await patch({ at: null, every: 5, phase: 'now' }), {
    status: 200,
    json: { schedule: { every: 5, phase: 'now' } },
  });
  t.match(await patch({ phase: null }), { status: 200, json: { schedule: { every: 5, phase: 'spread' } } });
});

t.test('a patch that leaves two kinds of schedule says which one to take away', async (t) => {
  const api = await startApi(t);
  const before = (await call(api, 'PUT', '/v1/schedules/a', { json: EVERY_10 })).json;
  const reply = await call(api, 'PATCH', '/v1/schedules/a', { json: { schedule: { cron: '* * * * *' } } });
  t.match(reply, {
    status: 400,
    json: { errors: [{ path: 'schedule', message: /every and cron; set every to null/ }] },
  });
  t.strictSame((await call(api, 'GET', '/v1/schedules/a')).json, before);
});

t.test('a schedule tells how many runs it had of max_runs, and how many were dropped', async (t) => {
  const api = await startApi(t);
  const { json } = await call(api, 'PUT', '/v1/schedules/a', {
    json: { task: 't', schedule: { every: 60, phase: 'now' }, max_runs: 2 },
  });
  t.match(json, { runs: 0, misfired: 0 });
  await api.dispatch();
  t.match((await call(api, 'GET', '/v1/schedules/a')).json, { runs: 1, max_runs: 2 });
  const expired = { task: 't', schedule: { at: '2026-01-01T00:00:00Z' }, options: { expires: '2026-01-02T00:00:00Z' } };
  await call(api, 'PUT', '/v1/schedules/b', { json: expired });
  await api.dispatch();
  t.match((await call(api, 'GET', '/v1/schedules/b')).json, { runs: null, misfired: 1, state: 'completed' });
});
