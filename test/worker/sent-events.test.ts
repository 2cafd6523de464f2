import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { eventually } from '../support/eventually.ts';
import { spawnBeat, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { type HeardEvent, listenToEvents } from './events-listener.ts';
import { type MessageParts, send } from './messages.ts';
import { recordIn } from './worker-rig.ts';

const TASKS = fileURLToPath(new URL('./workflow-tasks.js', import.meta.url));

function signature(task: string, id: string, args: readonly number[] = []) {
  return { task, args, kwargs: {}, options: { task_id: id }, subtask_type: null, immutable: false };
}

const MESSAGES: readonly MessageParts[] = [
  { task: 'parent', id: 'parent', headers: { root_id: 'root' } },
  {
    task: 'add',
    id: 'first',
    args: [1, 2],
    embed: { callbacks: [signature('echo', 'callback')], chain: [signature('add', 'next', [3])] },
  },
  { task: 'boom', id: 'failed', args: ['bang'], embed: { errbacks: [signature('failed', 'errback')] } },
  { task: 'parent that ends badly', id: 'retried', args: ['retry'] },
  {
    task: 'add',
    id: 'member',
    args: [1, 2],
    embed: { chord: signature('echo', 'body') },
    headers: { group: 'g', group_index: 0 },
  },
];

for (const pool of ['async', 'threads', 'processes']) {
  t.test(`--pool ${pool} --task-send-sent-event tells of all that a worker sends, and of nothing else`, async (t) => {
    const server = await withRedis(t);
    await spawnBeat(t, server.url);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const { events } = await listenToEvents(t, server);
    const args = ['--tasks', TASKS, '--pool', pool, '--task-send-sent-event', '--without-heartbeat'];
    await spawnWorker(t, server.url, args, { env: { RINGBEAT_TEST_REDIS: server.url } });
    await redis.set('celery-taskset-meta-g.s', 1);
    await send(redis, ...MESSAGES);
    for (const id of ['parent', 'next', 'callback', 'errback', 'body']) await recordIn(redis, id);
    await recordIn(redis, 'retried', 'RETRY');

    const heard = (count: number, isWanted: (event: HeardEvent) => boolean) =>
      eventually(() => {
        const found = events.filter(isWanted);
        assert.equal(found.length, count, JSON.stringify(events));
        return found;
      });
    for (const child of await heard(3, ({ parent_id }) => parent_id === 'parent'))
      t.match(child, { type: 'task-sent', name: 'child', root_id: 'root', queue: 'celery', exchange: '' });
    const [retry] = await heard(1, ({ uuid }) => uuid === 'retried');
    t.match(retry, { type: 'task-sent', parent_id: 'retried', retries: 1, eta: /^\d{4}-/ });
    for (const [id, parentId] of [
      ['callback', 'first'],
      ['next', 'first'],
      ['errback', 'failed'],
      ['body', 'member'],
    ] as const)
      t.match(await heard(1, ({ uuid }) => uuid === id), [{ type: 'task-sent', parent_id: parentId, retries: 0 }], id);
    t.equal(events.length, 3 + 2 + 1 + 4, 'those of the task that is tried again sent two more');
  });
}

t.test('a worker tells of nothing that it sends unless it is asked to', async (t) => {
  const server = await withRedis(t);
  await spawnBeat(t, server.url);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const { events, heard } = await listenToEvents(t, server);
  await spawnWorker(t, server.url, ['--tasks', TASKS, '-E'], { env: { RINGBEAT_TEST_REDIS: server.url } });
  await send(redis, ...MESSAGES.slice(0, 3));
  for (const id of ['parent', 'next', 'callback', 'errback']) await recordIn(redis, id);
  await send(redis, { task: 'add', id: 'last', args: [1, 2] });
  await heard(({ type, uuid }) => type === 'task-succeeded' && uuid === 'last');
  t.same(
    events.filter(({ type }) => type === 'task-sent'),
    [],
  );
});
