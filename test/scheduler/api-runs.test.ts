import t from 'tap';
import { resultKey, shardKeys, shardOf } from '../../lua/keys.ts';
import { parseMessage } from '../lua/store.ts';
import { call, schedulePath, startApi, type TestApi } from './api-harness.ts';

interface Run {
  readonly due: string;
  readonly dispatched_at: string | null;
  readonly lateness_ms: number | null;
  readonly task_id: string | null;
  readonly run: number;
  readonly outcome: string | null;
  readonly count: number;
}

async function runs(api: TestApi, id: string, query = ''): Promise<Run[]> {
  const { json } = await call(api, 'GET', `${schedulePath(id)}/runs${query}`);
  t.equal(json.cursor, null);
  return json.runs;
}

/** Makes an `every` schedule due at this instant, which is on its grid. */
async function makeDue(api: TestApi, id: string, dueMs: number): Promise<void> {
  await api.redis.zadd(shardKeys('rb', shardOf(id, 16)).due, 'XX', dueMs, id);
}

async function lastSent(api: TestApi): Promise<string> {
  return parseMessage((await api.redis.lrange('celery', 0, 0))[0]!).id;
}

/** On a grid that begins with the registration, so that nothing more comes due while a test lasts. */
const EVERY_MINUTE = { task: 't', schedule: { every: 60, phase: 'now' } };

/** Registers it; the first point of its grid, ms. */
async function putOnGrid(api: TestApi, id: string, more: object = {}): Promise<number> {
  const { json } = await call(api, 'PUT', `/v1/schedules/${id}`, { json: { ...EVERY_MINUTE, ...more } });
  return Date.parse(json.next_run_at);
}

t.test('a run is listed with its due time, task id, and what its result says', async (t) => {
  const api = await startApi(t);
  const dueMs = await putOnGrid(api, 'a');
  t.strictSame(await runs(api, 'a'), []);
  await api.dispatch();
  const taskId = await lastSent(api);
  const [run, ...others] = await runs(api, 'a');
  t.strictSame(others, []);
  t.match(run, { due: new Date(dueMs).toISOString(), task_id: taskId, run: 0, outcome: 'sent', count: 1 });
  t.equal(Date.parse(run!.dispatched_at!) - dueMs, run!.lateness_ms);
  const { json } = await call(api, 'GET', '/v1/schedules/a');
  t.equal(run!.dispatched_at, json.last_run_at);
  for (const [status, outcome] of [
    ['STARTED', 'started'],
    ['RETRY', 'retry'],
    ['REVOKED', 'revoked'],
    ['FAILURE', 'failure'],
    ['SUCCESS', 'success'],
  ] as const) {
    await api.redis.set(resultKey(taskId), `{"status": "${status}", "result": "${'x'.repeat(1_000)}"}`);
    t.equal((await runs(api, 'a'))[0]?.outcome, outcome);
  }
  t.equal((await call(api, 'GET', '/v1/schedules/none/runs')).status, 404);
  t.equal((await call(api, 'GET', '/v1/schedules/a/runs?limit=0')).status, 400);
});

t.test('triggered and backfilled runs are listed with their numbers, newest first', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/a', { json: { task: 't', schedule: { cron: '0 0 1 1 *' } } });
  const range = { from: '2020-01-01T00:00:00Z', to: '2021-06-01T00:00:00Z' };
  await call(api, 'POST', '/v1/schedules/a/backfill', { json: range });
  await api.dispatch();
  const trigger = await call(api, 'POST', '/v1/schedules/a/trigger');
  await api.dispatch();
  const listed = await runs(api, 'a');
  t.equal(listed.length, 3);
  t.equal(listed[0]?.task_id, trigger.json.task_id);
  t.strictSame(
    listed
      .slice(1)
      .map(({ due }) => due)
      .sort(),
    ['2020-01-01T00:00:00.000Z', '2021-01-01T00:00:00.000Z'],
  );
  t.equal(new Set(listed.map(({ run }) => run)).size, 3);
  t.ok(listed.every(({ run, outcome }) => run > 0 && outcome === 'sent'));
  t.equal((await runs(api, 'a', '?limit=1')).length, 1);
});

t.test('what was dropped is listed with why, and how many at once', async (t) => {
  const api = await startApi(t);
  const missedMs = await putOnGrid(api, 'missed');
  await makeDue(api, 'missed', missedMs - 5 * 60_000);
  await api.dispatch({ misfireThresholdMs: 1_000 });
  await putOnGrid(api, 'full', { queue: 'small', queue_cap: 0 });
  const busyMs = await putOnGrid(api, 'busy', { queue: 'other', overlap: 'skip' });
  await makeDue(api, 'busy', busyMs - 60_000);
  await api.dispatch();
  const missed = await runs(api, 'missed');
  t.match(missed, [
    { outcome: 'sent', due: new Date(missedMs).toISOString() },
    {
      outcome: 'misfired',
      due: new Date(missedMs - 5 * 60_000).toISOString(),
      count: 5,
      task_id: null,
      dispatched_at: null,
    },
  ]);
  t.equal(missed.length, 2, 'those that were dropped with it are not listed again');
  t.match((await call(api, 'GET', '/v1/schedules/missed')).json, { misfired: 5 });
  t.match(await runs(api, 'full'), [{ outcome: 'refused', task_id: null, count: 1 }]);
  t.match(await runs(api, 'busy'), [
    { outcome: 'skipped', due: new Date(busyMs).toISOString() },
    { outcome: 'sent', due: new Date(busyMs - 60_000).toISOString() },
  ]);
});

t.test('runs that were not noted one by one follow from the grid, where they are beyond doubt', async (t) => {
  const api = await startApi(t);
  const lastMs = await putOnGrid(api, 'a');
  const keys = shardKeys('rb', shardOf('a', 16));
  const dues = [4, 3, 2, 1, 0].map((ago) => lastMs - ago * 60_000);
  await makeDue(api, 'a', dues[0]!);
  t.equal(await api.dispatch(), 5);
  const all = await runs(api, 'a');
  t.equal(all.length, 5);
  const ids = all.map(({ task_id }) => task_id).reverse();

  // Only the second was noted.
  const noted = (await api.redis.xrange(keys.occurrences, '-', '+'))[1]!;
  await api.redis.xtrim(keys.occurrences, 'MAXLEN', 0);
  await api.redis.xadd(keys.occurrences, '*', ...noted[1]);
  const byDue = (list: readonly Run[]) => list.toSorted((one, other) => (one.due < other.due ? -1 : 1));
  const times = (list: readonly Run[]) => byDue(list).map(({ due }) => Date.parse(due));
  const since = byDue(await runs(api, 'a'));
  t.strictSame(times(since), dues.slice(1));
  t.strictSame(
    since.map(({ task_id }) => task_id),
    ids.slice(1),
  );
  t.match(since.at(-1), { outcome: 'sent', dispatched_at: /Z$/ }, 'the last one is known');
  t.match(since.at(1), { outcome: null, dispatched_at: null, lateness_ms: null });

  await api.redis.set(resultKey(ids[0]!), '{"status": "SUCCESS", "result": null}');
  const proven = byDue(await runs(api, 'a'));
  t.strictSame(times(proven), dues, 'a result proves the first');
  t.equal(proven[0]?.outcome, 'success');

  await api.redis.del(keys.occurrences, resultKey(ids[0]!));
  t.match(await runs(api, 'a'), [{ due: new Date(lastMs).toISOString(), task_id: null, outcome: 'sent' }]);
  t.equal((await runs(api, 'a')).length, 1);
});

t.test('the runs of loops and of schedules that must not overlap have the ids of their messages', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/loop', { json: { task: 't', schedule: { after: 60 } } });
  await api.dispatch();
  const loopId = await lastSent(api);
  await call(api, 'PUT', '/v1/schedules/once', { json: { task: 't', schedule: { in: 0 } } });
  await api.dispatch();
  const onceId = await lastSent(api);
  for (const [id, taskId] of [
    ['loop', loopId],
    ['once', onceId],
  ] as const) {
    t.match(await runs(api, id), [{ task_id: taskId, outcome: 'sent' }]);
    await api.redis.del(shardKeys('rb', shardOf(id, 16)).occurrences);
    await api.redis.set(resultKey(taskId), '{"status": "SUCCESS", "result": null}');
    t.match(await runs(api, id), [{ task_id: taskId, outcome: 'success' }], `${id}: also without a note`);
  }
});
