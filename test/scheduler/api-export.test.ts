import t from 'tap';
import { deleteNamespace } from '../../lua/delete-namespace.ts';
import { namespaceKeys, shardKeys, shardOf } from '../../lua/keys.ts';
import { parseMessage } from '../lua/store.ts';
import { call, importLines, schedulePath, startApi, storedIds, type TestApi } from './api-harness.ts';

const EVERY_KIND = [
  { id: 'spread', schedule: { every: 3_600 } },
  { id: 'now', schedule: { every: 3_600, phase: 'now' } },
  { id: 'offset', schedule: { every: 3_600, phase: 0.5 }, jitter: 60 },
  {
    id: 'cron',
    schedule: { cron: 'H 9 * * 1-5', tz: 'Europe/Berlin' },
    exclude: ['2027-12-25', { cron: '* 3 * * *' }],
  },
  { id: 'solar', schedule: { solar: 'dusk_civil', lat: 52.5, lon: 13.4 }, max_runs: 5 },
  { id: 'rrule', schedule: { rrule: 'FREQ=DAILY;INTERVAL=3', tz: 'Asia/Kolkata' }, start: '2026-01-01T00:00:00Z' },
  { id: 'at', schedule: { at: '2999-01-01T00:00:00Z' } },
  { id: 'in', schedule: { in: 86_400 } },
  { id: 'loop', schedule: { after: 60, retry: { delay: 1, max_delay: 8 } }, start: '2999-01-01T00:00:00Z' },
  { id: 'worker', schedule: { after: 60 }, options: { worker: 'ringbeat', headers: { a: [1] } } },
  { id: 'paused', schedule: { cron: '* * * * *' }, enabled: false, overlap: 'buffer_one' },
  {
    id: 'odd "\\ é \u{1f600}/%',
    schedule: { every: 60 },
    args: [1, { x: null }],
    kwargs: { k: 'ü' },
    tags: ['a', 'ü'],
  },
].map((parts) => ({ task: 'monitor.check', ...parts }));

async function exported(api: TestApi): Promise<string[]> {
  const reply = await call(api, 'GET', '/v1/export');
  t.match(reply, { status: 200, headers: { 'content-type': 'application/x-ndjson' } });
  t.ok(reply.text === '' || reply.text.endsWith('\n'));
  return reply.text.split('\n').slice(0, -1);
}

async function resources(api: TestApi) {
  const page = await call(api, 'GET', '/v1/schedules?limit=1000');
  const { schedules } = page.json as { schedules: { id: string }[] };
  return schedules.sort((one, other) => (one.id < other.id ? -1 : 1));
}

t.test('what is exported and imported elsewhere has every field and every next run', async (t) => {
  const [api, other] = [await startApi(t), await startApi(t, { shards: 5 })];
  t.match((await importLines(api, EVERY_KIND)).json, { created: EVERY_KIND.length, failed: 0 });
  const before = await resources(api);
  const lines = await exported(api);
  t.equal(lines.length, EVERY_KIND.length);
  t.match((await importLines(other, lines)).json, { created: EVERY_KIND.length, updated: 0, unchanged: 0, failed: 0 });
  const withoutShard = (list: readonly object[]) => list.map((schedule) => ({ ...schedule, shard: 0, owner: null }));
  t.strictSame(withoutShard(await resources(other)), withoutShard(before));
  t.strictSame((await exported(other)).sort(), lines.sort(), 'an export of the copy is the same');
  t.match((await importLines(other, lines)).json, { created: 0, unchanged: EVERY_KIND.length });
});

t.test('task ids go on as before where the namespace was deleted and comes back', async (t) => {
  const api = await startApi(t, { shards: 1 });
  const names = namespaceKeys('rb');
  const keys = shardKeys('rb', 0);
  // A grid that begins with the registration, so that nothing more comes due meanwhile.
  const grid = { task: 't', schedule: { every: 60, phase: 'now' } };
  await importLines(api, [
    { id: 'grid', ...grid },
    { id: 'journal', ...grid, overlap: 'skip' },
  ]);
  const dueMs = Number(await api.redis.zscore(keys.due, 'grid'));
  const sendBoth = async (redis = api.redis) => {
    await redis.zadd(keys.due, 'XX', dueMs, 'grid', dueMs, 'journal');
    await api.dispatch();
    const ids = (await redis.lrange('celery', 0, -1)).map(parseMessage).map(({ schedule, id }) => [schedule, id]);
    await redis.del('celery');
    return ids.sort();
  };
  const lines = await exported(api);
  const before = await sendBoth();
  await deleteNamespace(api.redis, names, 'rb', api.namespace.epoch);
  await api.redis.hset(names.meta, { epoch: api.namespace.epoch, format: '1', shards: '1' });
  t.match((await importLines(api, lines)).json, { created: 2 });
  t.strictSame(await sendBoth(), before);
});

t.test('a run that fell due on the way is missed, as after an outage', async (t) => {
  const [api, other] = [await startApi(t), await startApi(t)];
  const dueMs = Math.floor(Date.now() / 60_000) * 60_000 - 600_000;
  await importLines(api, [
    { id: 'latest', task: 't', schedule: { every: 600, phase: 0 } },
    { id: 'skip', task: 't', schedule: { every: 60, phase: 0 }, misfire: { policy: 'skip' } },
  ]);
  const lines = (await exported(api)).map((line) => {
    const spec = JSON.parse(line);
    const next_run_at = new Date(Math.floor(dueMs / 600_000) * 600_000).toISOString();
    return { ...spec, carry: { ...spec.carry, next_run_at } };
  });
  t.match((await importLines(other, lines)).json, { created: 2 });
  const dispatchedFromMs = Date.now();
  await other.dispatch({ misfireThresholdMs: 1_000 });
  const sent = (await other.redis.lrange('celery', 0, -1)).map(parseMessage);
  t.strictSame(
    sent.map(({ schedule }) => schedule),
    ['latest'],
  );
  const skipped = (await call(other, 'GET', '/v1/schedules/skip')).json;
  t.ok(skipped.misfired > 0);
  t.ok(Date.parse(skipped.next_run_at) > dispatchedFromMs);
});

t.test('states go along: completed one-shots, counted runs, stopped and running loops', async (t) => {
  const [api, other] = [await startApi(t), await startApi(t)];
  const loop = { task: 't', schedule: { after: 60 } };
  await importLines(api, [
    { id: 'done', task: 't', schedule: { in: 0 } },
    { id: 'runs', task: 't', schedule: { cron: '0 0 1 1 *' }, max_runs: 3 },
    { id: 'exhausted', task: 't', schedule: { cron: '0 0 1 1 *' }, max_runs: 1 },
    { id: 'running', ...loop },
    { id: 'stopped', ...loop, start: '2999-01-01T00:00:00Z' },
    { id: 'held', ...loop, start: '2999-01-01T00:00:00Z' },
  ]);
  const keys = (id: string) => shardKeys('rb', shardOf(id, 16));
  await api.dispatch();
  await api.redis.hset(keys('runs').runs, 'runs', 2);
  await api.redis.hset(keys('exhausted').runs, 'exhausted', 1);
  await api.redis.zrem(keys('exhausted').due, 'exhausted');
  await api.redis.zrem(keys('stopped').due, 'stopped');
  await api.redis.hset(keys('stopped').held, 'stopped', '-');
  await call(api, 'POST', '/v1/schedules/held/pause');
  t.match((await importLines(other, await exported(api))).json, { created: 6, failed: 0 });
  const show = async (id: string) => (await call(other, 'GET', schedulePath(id))).json;
  t.match(await show('done'), { state: 'completed', next_run_at: null });
  t.match(await show('runs'), { state: 'scheduled', runs: 2 });
  t.match(await show('exhausted'), { state: 'completed', runs: 1, next_run_at: null });
  t.match(await show('stopped'), { state: 'completed', next_run_at: null });
  t.match(await show('held'), { state: 'paused', next_run_at: null });
  t.match((await call(other, 'POST', '/v1/schedules/held/resume')).json, { next_run_at: '2999-01-01T00:00:00.000Z' });
  const running = await show('running');
  t.equal(running.state, 'scheduled', 'its run stayed where it was: it begins its next one');
  t.ok(Math.abs(Date.parse(running.next_run_at) - Date.now()) < 60_000);
  await other.dispatch({ misfireThresholdMs: 1_000 });
  t.same(
    (await other.redis.lrange('celery', 0, -1)).map(parseMessage).map(({ schedule }) => schedule),
    ['running'],
  );
});

t.test('what is carried along does not change a schedule that exists', async (t) => {
  const [api, other] = [await startApi(t), await startApi(t)];
  const spec = { id: 'a', task: 't', schedule: { in: 1_000 } };
  await importLines(api, [spec]);
  await importLines(other, [spec]);
  const before = (await call(other, 'GET', '/v1/schedules/a')).json;
  t.match((await importLines(other, await exported(api))).json, { unchanged: 1 });
  t.strictSame((await call(other, 'GET', '/v1/schedules/a')).json, before);
});

t.test('a line that carries what cannot be fails, naming it', async (t) => {
  const api = await startApi(t);
  const carry = {
    seed: '01234567-89ab-8cde-',
    anchor_ms: null,
    next_run_at: null,
    completed_at: null,
    runs: null,
    held: null,
    in_flight: false,
  };
  const every = { every: 60, phase: 0 };
  const cases: [object, unknown, RegExp][] = [
    [every, 5, /^carry must be a JSON object/],
    [every, {}, /carry\.seed is required/],
    [every, { ...carry, seed: 'x' }, /carry\.seed must be the first three groups/],
    [every, { ...carry, more: 1 }, /carry\.more is not a known field/],
    [every, { ...carry, next_run_at: 'soon' }, /carry\.next_run_at must be an ISO 8601 time/],
    [every, { ...carry, next_run_at: '2027-01-01T00:00:30Z' }, /carry\.next_run_at is no time at which/],
    [{ every: 60, phase: 'now' }, carry, /carry\.anchor_ms is required/],
    [{ in: 60 }, carry, /carry\.anchor_ms is required/],
    [{ at: '2027-01-01T00:00:00Z' }, { ...carry, next_run_at: '2027-01-01T00:00:01Z' }, /carry\.next_run_at/],
    [{ after: 5 }, { ...carry, held: 'maybe' }, /carry\.held must be an ISO 8601 time or "stopped"/],
    [every, { ...carry, runs: -1 }, /carry\.runs/],
  ];
  const { json } = await importLines(
    api,
    cases.map(([schedule, carry], i) => ({ id: `s${i}`, task: 't', schedule, carry })),
  );
  t.equal(json.failed, cases.length);
  cases.forEach(([, , told], i) => {
    t.match(json.errors[i], { line: i + 1, id: `s${i}`, message: told });
  });
  t.strictSame(await storedIds(api), []);
  t.equal((await call(api, 'PUT', '/v1/schedules/a', { json: { task: 't', schedule: every, carry } })).status, 400);
});

t.test('a spec of the largest size comes back, and one that is larger still fails', async (t) => {
  const [api, other] = [await startApi(t), await startApi(t)];
  const spec = { id: 'a', task: 't', schedule: { every: 60 }, args: [''] };
  spec.args = ['x'.repeat(65_536 - JSON.stringify(spec).length)];
  t.match((await importLines(api, [spec])).json, { created: 1 });
  const [line = ''] = await exported(api);
  t.ok(line.length > 65_536);
  t.match((await importLines(other, [line])).json, { created: 1, failed: 0 });
  t.match((await importLines(other, [{ ...spec, args: [`${spec.args[0]}x`] }])).json, { created: 0, failed: 1 });
  const padded = JSON.stringify({ ...JSON.parse(line), args: ['x'.repeat(70_000)] });
  t.match((await importLines(other, [padded])).json, { failed: 1, errors: [{ message: /65536 bytes/ }] });
});

t.test('an export breaks off where the namespace goes meanwhile, and is refused where there is none', async (t) => {
  const api = await startApi(t);
  await importLines(
    api,
    Array.from({ length: 3_000 }, (_, i) => ({
      id: `s${i}`,
      task: 't',
      schedule: { every: 60 },
      args: ['x'.repeat(5_000)],
    })),
  );
  const response = await fetch(`${api.url}/v1/export`);
  const reader = response.body!.getReader();
  await reader.read();
  await api.redis.hset('rb:meta', 'epoch', 'another');
  await t.rejects(async () => {
    while (!(await reader.read()).done);
  });
  t.match(await call(api, 'GET', '/v1/export'), { status: 503, json: { detail: /is not in Redis/ } });
});
