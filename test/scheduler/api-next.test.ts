import t from 'tap';
import { shardKeys, shardOf } from '../../lua/keys.ts';
import { call, importLines, schedulePath, startApi, type TestApi } from './api-harness.ts';

async function next(api: TestApi, id: string, query = ''): Promise<string[]> {
  return (await call(api, 'GET', `${schedulePath(id)}/next${query}`)).json.next;
}

t.test('the first of the next occurrences is the next run that the resource tells, whatever the kind', async (t) => {
  const api = await startApi(t);
  const kinds = {
    every: { every: 3_600 },
    cron: { cron: 'H * * * *', tz: 'Europe/Berlin' },
    celery: { cron: '*/7 22-2 * * fri-mon', dialect: 'celery' },
    at: { at: '2999-01-01T00:00:00Z' },
    in: { in: 1_000 },
    solar: { solar: 'sunrise', lat: 52.5, lon: 13.4 },
    rrule: { rrule: 'DTSTART:20270101T090000Z\nRRULE:FREQ=WEEKLY;BYDAY=MO', tz: 'America/New_York' },
  };
  await importLines(
    api,
    Object.entries(kinds).map(([id, schedule]) => ({ id, task: 't', schedule })),
  );
  await importLines(api, [
    { id: 'loop', task: 't', schedule: { after: 60 }, start: '2999-01-01T00:00:00Z' },
    { id: 'jitter', task: 't', schedule: { cron: '0 * * * *' }, jitter: 1_800 },
    { id: 'exclude', task: 't', schedule: { cron: '0 0 * * *' }, exclude: [{ from: '2020-01-01', to: '2030-06-01' }] },
  ]);
  for (const id of [...Object.keys(kinds), 'loop', 'jitter']) {
    const { json } = await call(api, 'GET', schedulePath(id));
    t.match(json.next_run_at, /Z$/, id);
    const [first] = await next(api, id);
    // Nobody dispatches here: one that has come due meanwhile is told no more.
    if (Date.parse(json.next_run_at) > Date.now()) t.equal(first, json.next_run_at, id);
  }
  t.strictSame(await next(api, 'exclude', '?count=1'), ['2030-06-02T00:00:00.000Z']);
  t.strictSame(await next(api, 'loop'), ['2999-01-01T00:00:00.000Z']);
});

t.test('no more occurrences are told than max_runs leaves, before end, and none of what is paused', async (t) => {
  const api = await startApi(t);
  await importLines(api, [
    { id: 'runs', task: 't', schedule: { cron: '0 0 1 1 *' }, start: '2999-01-01T00:00:00Z', max_runs: 3 },
    {
      id: 'ends',
      task: 't',
      schedule: { cron: '0 0 1 1 *' },
      start: '2999-01-01T00:00:00Z',
      end: '3001-01-01T00:00:00Z',
    },
    { id: 'paused', task: 't', schedule: { cron: '* * * * *' }, enabled: false },
  ]);
  const years = (times: readonly string[]) => times.map((time) => Number(time.slice(0, 4)));
  t.strictSame(years(await next(api, 'runs')), [2999, 3000, 3001]);
  t.strictSame(years(await next(api, 'runs', '?after=3000-06-01T00:00:00Z')), [3001], 'those before count as run');
  t.strictSame(years(await next(api, 'ends')), [2999, 3000]);
  t.strictSame(await next(api, 'paused'), []);
  const keys = shardKeys('rb', shardOf('runs', 16));
  await api.redis.hset(keys.runs, 'runs', 2);
  t.strictSame(years(await next(api, 'runs')), [2999]);
});

t.test('a loop whose run is in flight has no next occurrence', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/loop', { json: { task: 't', schedule: { after: 60 } } });
  t.equal((await next(api, 'loop', '?after=2026-01-01T00:00:00Z')).length, 1);
  t.equal(await api.dispatch(), 1);
  t.strictSame(await next(api, 'loop', '?after=2026-01-01T00:00:00Z'), []);
  t.match((await call(api, 'GET', '/v1/schedules/loop')).json, { state: 'running', next_run_at: null });
});

t.test('a preview tells what a schedule would do, and stores nothing', async (t) => {
  const api = await startApi(t);
  const preview = async (json: object) => (await call(api, 'POST', '/v1/preview', { json })).json.next;
  const after = '2027-01-01T00:00:00Z';
  t.strictSame(await preview({ schedule: { every: 10, phase: 3 }, after, count: 2 }), [
    '2027-01-01T00:00:03.000Z',
    '2027-01-01T00:00:13.000Z',
  ]);
  t.strictSame(
    await preview({
      schedule: { cron: '30 2 * * *', tz: 'Europe/Berlin' },
      start: '2027-03-27T00:00:00+01:00',
      end: '2027-03-30T00:00:00+02:00',
      exclude: ['2027-03-27'],
      after,
    }),
    ['2027-03-28T01:00:00.000Z', '2027-03-29T00:30:00.000Z'],
  );
  t.strictSame(await preview({ schedule: { at: after }, after }), [], 'strictly after');
  t.equal((await preview({ schedule: { cron: '* * * * *' } })).length, 10);
  t.equal((await preview({ schedule: { every: 60, phase: 'now' }, count: 1_000 })).length, 1_000);
  const now = Date.now();
  const [soon] = await preview({ schedule: { in: 100 } });
  t.ok(Math.abs(Date.parse(soon) - now - 100_000) < 50_000, 'counts from now');
  t.equal((await preview({ schedule: { after: 10 } })).length, 1, 'a loop runs at once');
  t.strictSame((await call(api, 'GET', '/v1/schedules')).json.schedules, []);
});

t.test('a preview with an id is that of the schedule with this id', async (t) => {
  const api = await startApi(t);
  const spec = { id: 'tenant/1', schedule: { cron: 'H H * * *' }, jitter: 600 };
  await call(api, 'POST', '/v1/schedules', { json: { ...spec, task: 't' } });
  const after = '2027-01-01T00:00:00Z';
  const { json } = await call(api, 'POST', '/v1/preview', { json: { ...spec, after, count: 5 } });
  t.strictSame(json.next, await next(api, spec.id, `?after=${after}&count=5`));
  const other = await call(api, 'POST', '/v1/preview', { json: { ...spec, id: 'tenant/2', after, count: 5 } });
  t.notSame(other.json.next, json.next);
});

t.test('a preview that is not valid names the field', async (t) => {
  const api = await startApi(t);
  for (const [json, path] of [
    [{}, 'schedule'],
    [{ schedule: { every: 0.01 } }, 'schedule.every'],
    [{ schedule: { cron: '61 * * * *' } }, 'schedule.cron'],
    [{ schedule: { cron: '0 0 31 2 *' } }, 'schedule.cron'],
    [{ schedule: { cron: '0 0 * * *', tz: 'Mars/Base' } }, 'schedule.tz'],
    [{ schedule: { every: 10 }, count: 0 }, 'count'],
    [{ schedule: { every: 10 }, count: 1_001 }, 'count'],
    [{ schedule: { every: 10 }, count: '5' }, 'count'],
    [{ schedule: { every: 10 }, after: 'tomorrow' }, 'after'],
    [{ schedule: { every: 10 }, id: '' }, 'id'],
    [{ schedule: { every: 10 }, task: 't' }, 'task'],
    [{ schedule: { every: 10 }, until: after(1) }, 'until'],
    [{ schedule: { every: 10 }, start: after(2), end: after(1) }, 'end'],
    [{ schedule: { every: 10 }, exclude: ['2027-02-30'] }, 'exclude.0'],
  ] as const) {
    const reply = await call(api, 'POST', '/v1/preview', { json });
    t.match(reply, { status: 400, json: { errors: [{ path }] } }, JSON.stringify(json));
    t.equal(reply.json.errors.length, 1, JSON.stringify(reply.json.errors));
  }
});

function after(day: number): string {
  return `2027-01-0${day}T00:00:00Z`;
}
