import t from 'tap';
import { namespaceKeys, shardKeys, shardOf } from '../../lua/keys.ts';
import { readQueues, readShards, readStats } from '../../scheduler/status.ts';
import { call, importLines, startApi } from './api-harness.ts';

t.test('the figures count every schedule with runs to come once, wherever it waits', async (t) => {
  const api = await startApi(t, { shards: 3 });
  const { redis, namespace } = api;
  const stats = () => readStats(redis, namespaceKeys('rb'), namespace, Date.now());
  const far = { start: '2999-01-01T00:00:00Z' };
  await importLines(api, [
    { id: 'grid', task: 't', schedule: { every: 60 }, ...far },
    { id: 'cron', task: 't', schedule: { cron: '0 0 1 1 *' }, overlap: 'skip' },
    { id: 'paused', task: 't', schedule: { every: 60 }, enabled: false },
    { id: 'done', task: 't', schedule: { in: 0 } },
    { id: 'loop', task: 't', schedule: { after: 60 } },
    { id: 'far loop', task: 't', schedule: { after: 60 }, ...far },
  ]);
  t.match(await stats(), { schedules: 6, enabled: 5, inFlight: 0, missed: 0, dispatched: 0 });
  await api.dispatch();
  t.match(await stats(), { schedules: 6, enabled: 4, inFlight: 1, dispatched: 2, overdue: 0 }, 'the loop is in flight');
  await call(api, 'POST', '/v1/schedules/cron/trigger');
  await api.dispatch();
  t.match(await stats(), { enabled: 4, inFlight: 2 }, 'one whose run is in flight is due as well');

  const keysOf = (id: string) => shardKeys('rb', shardOf(id, 3));
  await importLines(api, [{ id: 'once', task: 't', schedule: { at: '2026-01-01T00:00:00Z' } }]);
  t.match(await stats(), { overdue: 1, missed: 0, enabled: 5 });
  // As `dispatch` leaves them while --recovery-rate lets nothing through.
  await redis.zrem(keysOf('once').due, 'once');
  await redis.zadd(keysOf('once').missed, 1_000, 'once');
  await redis.zadd(keysOf('grid').missed, 1_000, 'grid');
  t.match(await stats(), { overdue: 2, missed: 2, enabled: 5 });
  await redis.xadd(keysOf('grid').deadLetters, '*', 'kind', 'schedule');
  await redis.xadd('rb:dead-letters', '*', 'queue', 'celery');
  t.match(await stats(), { deadLetters: 2 });
  const shards = await readShards(redis, namespace, () => null);
  t.equal(
    shards.reduce((sum, { schedules }) => sum + schedules, 0),
    7,
  );
  t.equal(
    shards.reduce((sum, { overdue }) => sum + overdue, 0),
    2,
  );
});

t.test('only queues are listed as queues, whatever else schedules share', async (t) => {
  const api = await startApi(t, { shards: 3 });
  await importLines(api, [
    { id: 'a', task: 't', schedule: { cron: '0 0 1 1 *' }, exclude: ['2027-01-01'], queue: 'video' },
    { id: 'b', task: 't', schedule: { every: 60 }, queue_cap: 5 },
  ]);
  const queues = await readQueues(api.redis, api.namespace);
  t.match(queues, [
    { name: 'celery', cap: 5, length: 0 },
    { name: 'video', cap: 1_000_000 },
  ]);
  t.equal(queues.length, 2);
});
