import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { resultKey } from '../../lua/keys.ts';
import { eventually, until } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { type Spawned, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { send, whereabouts } from './messages.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const TASKS = fileURLToPath(new URL('./pool-tasks.js', import.meta.url));
const NOWHERE = { queued: 0, unacked: 0, index: 0, dead: 0 };

async function setUp(t: Test, ...args: readonly string[]): Promise<{ redis: Redis; worker: Spawned }> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const worker = await spawnWorker(t, server.url, ['--tasks', TASKS, ...args], {
    env: { RINGBEAT_TEST_REDIS: server.url },
  });
  return { redis, worker };
}

/** The process in which a task ran that returned `<pid>/<thread>`. */
async function pidOf(redis: Redis, id: string): Promise<number> {
  const text = await eventually(async () => {
    const record = await redis.get(resultKey(id));
    assert.ok(record !== null, `no result of ${id} yet`);
    return record;
  });
  return Number.parseInt(JSON.parse(text).result, 10);
}

for (const kind of ['processes', 'threads'] as const) {
  t.test(`--pool ${kind}: SIGUSR1 says in which process each task runs`, async (t) => {
    const { redis, worker } = await setUp(t, '--pool', kind, '-c', '2', '--prefetch', '4');
    await send(redis, { task: 'hold', id: 'a' }, { task: 'hold', id: 'b' }, { task: 'add', id: 'c', args: [1, 2] });
    await eventually(async () => assert.equal(await redis.llen('ran'), 2));
    await eventually(async () => assert.equal(await redis.llen('celery'), 0));
    worker.kill('SIGUSR1');
    t.match(await worker.logged('slots'), { level: 30, pool: kind, size: 2, busy: 2, waiting: 1 });
    const slots = () => worker.log.filter(({ event }) => event === 'slot');
    await until(() => slots().length === 2, 'both slots are told');
    await redis.set('go', '1');
    for (const id of ['a', 'b']) {
      const pid = await pidOf(redis, id);
      t.match(
        slots().find((slot) => slot.id === id),
        { level: 30, task: 'hold', seconds: Number, pid },
      );
      t.equal(pid === worker.pid, kind === 'threads');
    }
    t.same(await worker.stop(), { code: 0, signal: null }, 'and it goes on as before');
  });

  t.test(`--pool ${kind}: a second SIGINT ends it and its children, and gives back what they ran`, async (t) => {
    const { redis, worker } = await setUp(t, '--pool', kind, '-c', '2', '--acks-late');
    await send(redis, { task: 'hang', id: 'a' }, { task: 'hang', id: 'b' });
    await eventually(async () => assert.equal(await redis.llen('ran'), 2));
    const pids = (await redis.lrange('ran', 0, -1)).map(Number);
    worker.kill('SIGINT');
    await worker.logged('worker_stopping');
    t.notOk(worker.hasExited());
    t.ok(pids.every(isRunning), 'the first waits for them');
    worker.kill('SIGINT');
    t.same(await worker.exited, { code: 0, signal: null });
    await eventually(() => assert.ok(!pids.some(isRunning)));
    t.same(await whereabouts(redis), { ...NOWHERE, queued: 2 });
  });
}
