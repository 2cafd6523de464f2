import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { type TaskContext, task } from '../../client/task.ts';
import { PidboxClient } from '../../lua/pidbox-client.ts';
import { LogicalClock } from '../../protocol/control-message.ts';
import type { Json } from '../../protocol/json.ts';
import type { WorkerOptions } from '../../worker/config.ts';
import { until } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';
import { send } from './messages.ts';
import { recordIn, startRig } from './worker-rig.ts';

const server = await withRedis(t);
const redis = server.connect();
t.teardown(() => redis.disconnect());

const NODE = 'test@here';

/** What ends each task that runs. */
const running = new Map<string, () => void>();
/** How many ran at once when each was entered, itself among them. */
const together = new Map<string, number>();

task('wait', async ({ id }: TaskContext) => {
  await new Promise<void>((resolve) => {
    running.set(id, resolve);
    together.set(id, running.size);
  });
  running.delete(id);
});

t.beforeEach(async () => {
  await redis.flushall();
  running.clear();
  together.clear();
});

async function start(t: Test, options: Partial<WorkerOptions>): Promise<void> {
  t.teardown(() => {
    for (const end of running.values()) end();
  });
  await startRig(t, server, { hostname: NODE, ...options });
}

async function control(redis: Redis, method: string, args: { readonly [name: string]: Json }): Promise<Json> {
  const client = new PidboxClient({ redis, clock: new LogicalClock(), nowMs: () => Date.now() });
  const replies = await client.call({ method, arguments: args, destination: [NODE], timeoutMs: 30_000 });
  return replies[0]?.[1] ?? null;
}

async function sendWaiting(count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, (_, n) => `id-${n}`);
  await send(redis, ...ids.map((id) => ({ task: 'wait', id })));
  return ids;
}

function run(count: number): Promise<void> {
  return until(() => running.size === count, `${count} run`);
}

/** Ends what runs, one after the other as they come, until all have ended. */
async function endAll(ids: readonly string[]): Promise<void> {
  for (let ended = ids.length - unfinished(ids); ended < ids.length; ended++) {
    await until(() => running.size > 0, 'one runs');
    const [id = '', end] = [...running][0] ?? [];
    end?.();
    await recordIn(redis, id, 'SUCCESS');
  }
}

function unfinished(ids: readonly string[]): number {
  return ids.filter((id) => running.has(id) || !together.has(id)).length;
}

t.test('pool_grow lets more tasks run at once, pool_shrink fewer once those that run have ended', async (t) => {
  await start(t, { concurrency: 1 });
  const ids = await sendWaiting(8);
  await run(1);
  t.same(await control(redis, 'pool_grow', { n: 2 }), { ok: 'pool will grow' });
  await run(3);
  t.same([...together.values()], [1, 2, 3]);
  t.same(await control(redis, 'pool_shrink', { n: 2 }), { ok: 'pool will shrink' });
  t.equal(running.size, 3, 'what runs goes on');
  await endAll(ids);
  t.same([...together.values()], [1, 2, 3, 1, 1, 1, 1, 1]);
});

t.test('autoscale sets how many tasks may run at once while the worker runs', async (t) => {
  await start(t, { autoscale: { max: 2, min: 1 } });
  const ids = await sendWaiting(10);
  await run(2);
  t.same(await control(redis, 'autoscale', { max: 4, min: 1 }), { ok: 'autoscale now max=4 min=1' });
  await run(4);
  t.same(await control(redis, 'autoscale', { max: 1, min: 1 }), { ok: 'autoscale now max=1 min=1' });
  await endAll(ids);
  t.same([...together.values()], [1, 2, 3, 4, 1, 1, 1, 1, 1, 1]);
});

t.test('a pool that scales is neither grown nor shrunk by hand', async (t) => {
  await start(t, { autoscale: { max: 2, min: 2 } });
  await sendWaiting(3);
  await run(2);
  t.match(await control(redis, 'pool_grow', { n: 1 }), { error: /not supported with autoscale/ });
  t.equal(running.size, 2);
});
