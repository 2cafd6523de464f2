import t from 'tap';
import { backlogKey, shardKeys, shardOf } from '../../lua/keys.ts';
import { parseMessage } from '../lua/store.ts';
import { call, schedulePath, startApi, type TestApi } from './api-harness.ts';

/** Far enough for no run of its own while a test lasts. */
const YEARLY = { task: 't', schedule: { cron: '0 0 1 1 *' } };

async function sent(api: TestApi, list = 'celery') {
  return (await api.redis.lrange(list, 0, -1)).reverse().map(parseMessage);
}

t.test('a triggered schedule runs once, in whatever state, and keeps its next run', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/plain', { json: YEARLY });
  await call(api, 'PUT', '/v1/schedules/paused', { json: { ...YEARLY, enabled: false } });
  await call(api, 'PUT', '/v1/schedules/done', { json: { task: 't', schedule: { in: 0 } } });
  t.equal(await api.dispatch(), 1);
  for (const id of ['plain', 'paused', 'done']) {
    const before = (await call(api, 'GET', schedulePath(id))).json;
    const reply = await call(api, 'POST', `${schedulePath(id)}/trigger`);
    t.equal(reply.status, 202, id);
    await api.redis.del('celery');
    t.equal(await api.dispatch(), 1, id);
    const [message] = await sent(api);
    t.equal(message?.id, reply.json.task_id);
    t.match(message?.headers.ringbeat, { schedule: id, run: /^[1-9]/, attempt: 1 });
    const { state, next_run_at } = (await call(api, 'GET', schedulePath(id))).json;
    t.strictSame({ state, next_run_at }, { state: before.state, next_run_at: before.next_run_at });
  }
  t.equal((await call(api, 'POST', '/v1/schedules/none/trigger')).status, 404);
});

t.test('a trigger with an Idempotency-Key happens once', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/a', { json: YEARLY });
  const trigger = (key: string) =>
    call(api, 'POST', '/v1/schedules/a/trigger', { headers: { 'idempotency-key': key } });
  const [first, again, other] = [await trigger('k'), await trigger('k'), await trigger('l')];
  t.strictSame(again.json, first.json);
  t.not(other.json.task_id, first.json.task_id);
  t.equal(await api.dispatch(), 2);
});

t.test('a waiting loop that is triggered starts its next run; one in flight is refused', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/loop', {
    json: { task: 't', schedule: { after: 60 }, start: '2999-01-01T00:00:00Z' },
  });
  const first = await call(api, 'POST', '/v1/schedules/loop/trigger');
  t.equal(first.status, 202);
  t.equal(await api.dispatch(), 1);
  t.equal((await sent(api))[0]?.id, first.json.task_id);
  const second = await call(api, 'POST', '/v1/schedules/loop/trigger');
  t.match(second, { status: 409, json: { detail: /in flight|has not ended/ } });
});

t.test('a schedule with a full backlog takes no more', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/a', { json: { task: 't', schedule: { every: 60, phase: 0 } } });
  const keys = shardKeys('rb', shardOf('a', 16));
  const range = { from: '2027-01-01T00:00:00Z', to: '2027-01-07T22:40:00Z' };
  t.match(await call(api, 'POST', '/v1/schedules/a/backfill', { json: range }), {
    status: 202,
    json: { runs: 10_000 },
  });
  t.equal(await api.redis.llen(backlogKey(keys, 'a')), 10_000);
  t.match(await call(api, 'POST', '/v1/schedules/a/trigger'), { status: 409, json: { detail: /10000/ } });
  const one = { from: '2027-01-01T00:00:00Z', to: '2027-01-01T00:01:00Z' };
  t.match(await call(api, 'POST', '/v1/schedules/a/backfill', { json: one }), {
    status: 409,
    json: { detail: /10000/ },
  });
  t.equal(await api.redis.llen(backlogKey(keys, 'a')), 10_000);
});

t.test('a backfill runs each of the times from the first up to the last, that one left out', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/a', {
    json: {
      task: 't',
      schedule: { cron: '0 9 * * *', tz: 'Europe/Berlin' },
      exclude: ['2027-03-27'],
      end: '2027-03-31T00:00:00Z',
      enabled: false,
    },
  });
  const range = { from: '2027-03-26T08:00:00Z', to: '2027-03-30T07:00:00Z' };
  const headers = { 'idempotency-key': 'once' };
  const reply = await call(api, 'POST', '/v1/schedules/a/backfill', { json: range, headers });
  t.match(reply, { status: 202, json: { runs: 3 } });
  t.match((await call(api, 'POST', '/v1/schedules/a/backfill', { json: range, headers })).json, { runs: 3 });
  t.equal(await api.dispatch(), 3);
  const messages = await sent(api);
  t.strictSame(
    messages.map(({ due }) => new Date(due).toISOString()),
    ['2027-03-26T08:00:00.000Z', '2027-03-28T07:00:00.000Z', '2027-03-29T07:00:00.000Z'],
  );
  t.equal(new Set(messages.map(({ id }) => id)).size, 3);
  const none = { from: '2027-03-27T00:00:00Z', to: '2027-03-27T23:00:00Z' };
  t.match(await call(api, 'POST', '/v1/schedules/a/backfill', { json: none }), { status: 202, json: { runs: 0 } });
});

t.test('a backfill that cannot be is refused, and runs nothing', async (t) => {
  const api = await startApi(t);
  await call(api, 'PUT', '/v1/schedules/a', { json: { task: 't', schedule: { every: 60 } } });
  await call(api, 'PUT', '/v1/schedules/loop', {
    json: { task: 't', schedule: { after: 60 }, start: '2999-01-01T00:00:00Z' },
  });
  const day = (n: number) => `2027-01-0${n}T00:00:00Z`;
  for (const [id, json, status, told] of [
    ['a', { from: day(2), to: day(1) }, 400, 'to'],
    ['a', { from: day(1), to: day(1) }, 400, 'to'],
    ['a', { from: day(1) }, 400, 'to'],
    ['a', { from: 'monday', to: day(1) }, 400, 'from'],
    ['a', { from: day(1), to: day(2), count: 5 }, 400, 'count'],
    ['a', { from: '2020-01-01T00:00:00Z', to: day(1) }, 400, 'to'],
    ['loop', { from: day(1), to: day(2) }, 400, null],
    ['none', { from: day(1), to: day(2) }, 404, null],
  ] as const) {
    const reply = await call(api, 'POST', `/v1/schedules/${id}/backfill`, { json });
    t.equal(reply.status, status, `${id} ${JSON.stringify(json)}: ${reply.text}`);
    if (told !== null) t.match(reply.json.errors, [{ path: told }]);
  }
  const tooMany = await call(api, 'POST', '/v1/schedules/a/backfill', {
    json: { from: '2020-01-01T00:00:00Z', to: day(1) },
  });
  t.match(tooMany.json.errors[0].message, /at most 10000/);
  t.equal(await api.redis.exists(backlogKey(shardKeys('rb', shardOf('a', 16)), 'a')), 0);
});
