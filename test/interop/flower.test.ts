import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { celeryPythons, startCeleryWorker } from '../support/celery.ts';
import { eventually } from '../support/eventually.ts';
import { flowerPython, startFlower } from '../support/flower.ts';
import { spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { send } from '../worker/messages.ts';

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));

/** What flower's API tells of a worker (flower/api/workers.py). */
interface WorkerInfo {
  readonly status?: boolean;
  readonly active_queues: readonly { readonly name: string }[];
  readonly registered: readonly string[];
  readonly stats: {
    readonly pool: { readonly 'max-concurrency': number };
    readonly total: Readonly<Record<string, number>>;
    readonly broker: object;
  };
  readonly conf: object;
  readonly revoked: readonly string[];
}

interface TaskInfo {
  readonly uuid: string;
  readonly name: string;
  readonly state: string;
  readonly worker?: string;
  readonly [field: string]: unknown;
}

const OURS = 'ours@here';

const python = await flowerPython(t);
const skip = python === null ? 'flower cannot be had here' : false;
const [celery] = await celeryPythons(t);

t.test('flower shows a mixed fleet and its buttons work on the bundled worker', { skip }, async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const worker = await spawnWorker(t, server.url, ['--tasks', TASKS, '-n', OURS, '-c', '4', '-Q', 'ours,celery'], {
    env: { RINGBEAT_TEST_REDIS: server.url },
  });
  await startCeleryWorker(t, celery!, server.url, { queues: ['theirs'] });
  const flower = await startFlower(t, python!, server.url);

  const workersNow = async (query: string) => (await flower.get(`/api/workers${query}`)) as Record<string, WorkerInfo>;
  const ourInfo = async () => {
    const workers = await workersNow(`?refresh=1&workername=${OURS}`);
    assert.ok(workers[OURS], `not among ${Object.keys(workers)}`);
    return workers[OURS];
  };
  const taskInfo = async (id: string) => (await flower.get(`/api/task/info/${id}`)) as TaskInfo;
  const inState = (id: string, state: string) =>
    eventually(async () => {
      const info = await taskInfo(id);
      assert.equal(info.state, state);
      return info;
    });

  await t.test('both workers are online', async (t) => {
    await eventually(async () => {
      const status = await workersNow('?status=1');
      assert.deepEqual(Object.values(status), [true, true]);
      assert.ok(OURS in status);
    });
    const dashboard = await flower.page('/workers?json=1');
    const rows: { hostname: string; status: boolean }[] = JSON.parse(dashboard.text).data;
    t.same(
      rows.map(({ status }) => status),
      [true, true],
    );
  });

  await t.test('its page shows pool, broker, queues, tasks and settings', async (t) => {
    const info = await eventually(ourInfo);
    t.equal(info.stats.pool['max-concurrency'], 4);
    t.same(info.active_queues.map(({ name }) => name).sort(), ['celery', 'ours']);
    t.ok(info.registered.includes('add'));
    t.type(info.stats.broker, 'object');
    const page = await flower.page(`/worker/${OURS}`);
    t.equal(page.status, 200);
    t.match(page.text, /ours/);
  });

  await t.test("a task's life is visible, once flower has switched events on", async (t) => {
    let probes = 0;
    await eventually(async () => {
      probes += 1;
      await send(redis, { task: 'add', id: `probe-${probes}`, queue: 'ours', args: [1, 2] });
      const tasks = (await flower.get('/api/tasks')) as Record<string, TaskInfo>;
      assert.ok(Object.keys(tasks).some((id) => id.startsWith('probe-')));
    });
    await send(
      redis,
      { task: 'add', id: 'sum', queue: 'ours', args: [2, 3], headers: { argsrepr: '(2, 3)' } },
      { task: 'boom', id: 'broken', queue: 'ours', args: ['bang'] },
    );
    const sum = await inState('sum', 'SUCCESS');
    t.match(sum, { name: 'add', args: '(2, 3)', kwargs: '{}', result: '5', runtime: Number, worker: OURS });
    t.match(await inState('broken', 'FAILURE'), { exception: "ValueError('bang')", traceback: /ValueError: bang/ });
    t.equal((await flower.page('/task/sum')).status, 200);
    const tasks = (await flower.get(`/api/tasks?workername=${OURS}&taskname=boom`)) as Record<string, TaskInfo>;
    t.same(Object.keys(tasks), ['broken']);
  });

  await t.test('the queues of both are listed with their lengths', async (t) => {
    await send(redis, { task: 'add', queue: 'nobody', args: [1, 1] });
    const { active_queues: queues } = (await flower.get('/api/queues/length')) as {
      active_queues: { name: string; messages: number }[];
    };
    t.same(queues.map(({ name }) => name).sort(), ['celery', 'ours', 'theirs']);
    t.ok(queues.every(({ messages }) => messages === 0));
  });

  await t.test('the pool grows and shrinks', async (t) => {
    t.match(await flower.post(`/api/worker/pool/grow/${OURS}?n=3`), { status: 200, text: /Growing/ });
    await eventually(async () => assert.equal((await ourInfo()).stats.pool['max-concurrency'], 7));
    t.match(await flower.post(`/api/worker/pool/shrink/${OURS}?n=2`), { status: 200, text: /Shrinking/ });
    await eventually(async () => assert.equal((await ourInfo()).stats.pool['max-concurrency'], 5));
  });

  await t.test('queues are added and taken away', async () => {
    const queues = async () => (await ourInfo()).active_queues.map(({ name }) => name).sort();
    assert.equal((await flower.post(`/api/worker/queue/add-consumer/${OURS}?queue=extra`)).status, 200);
    await eventually(async () => assert.deepEqual(await queues(), ['celery', 'extra', 'ours']));
    await send(redis, { task: 'note', id: 'from-extra', queue: 'extra' });
    await eventually(async () => assert.ok((await redis.lrange('ran', 0, -1)).includes('from-extra')));
    assert.equal((await flower.post(`/api/worker/queue/cancel-consumer/${OURS}?queue=extra`)).status, 200);
    await eventually(async () => assert.deepEqual(await queues(), ['celery', 'ours']));
  });

  await t.test('rate limits and time limits are set', async (t) => {
    const limit = await flower.post(`/api/task/rate-limit/add?workername=${OURS}&ratelimit=200`);
    t.match(limit, { status: 200, text: /new rate limit set successfully/ });
    const limits = await flower.post(`/api/task/timeout/add?workername=${OURS}&hard=100&soft=50`);
    t.match(limits, { status: 200, text: /time limits set successfully/ });
    await eventually(async () => assert.match((await ourInfo()).registered.join('\n'), /add \[.*rate_limit=200/));
  });

  await t.test('tasks are revoked and terminated', async (t) => {
    await send(redis, { task: 'hold', id: 'held', queue: 'ours' });
    await inState('held', 'STARTED');
    t.equal((await flower.post('/api/task/revoke/held?terminate=true&signal=SIGTERM')).status, 200);
    t.match(await inState('held', 'REVOKED'), { revoked: Number });
    t.equal((await flower.post('/api/task/revoke/later')).status, 200);
    await eventually(async () => assert.ok((await ourInfo()).revoked.includes('later')));
  });

  await t.test('it is shut down, and is then offline', async (t) => {
    t.equal((await flower.post(`/api/worker/shutdown/${OURS}`)).status, 200);
    t.same(await worker.exited, { code: 0, signal: null });
    await eventually(async () => assert.notEqual((await workersNow('?status=1'))[OURS], true));
  });
});
