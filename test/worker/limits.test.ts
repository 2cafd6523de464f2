import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { isTaskError, type TaskContext, task } from '../../index.ts';
import { broadcast } from '../../lua/pidbox.ts';
import { LogicalClock } from '../../protocol/control-message.ts';
import { eventually, until } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';
import { send } from './messages.ts';
import { recordIn, startRig } from './worker-rig.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

let said: unknown[] = [];
let release = (): void => {};
let late: Promise<unknown> = Promise.resolve();

t.beforeEach(async () => {
  await redis.flushall();
  said = [];
});

/** Ends when it is aborted, as far as timers tell. */
const waits = (ctx: TaskContext) => sleep(600_000, 'slept', { signal: ctx.signal });
/** Goes on whatever happens, until it is released. */
const stubborn = (ctx: TaskContext) =>
  new Promise((resolve) => {
    said.push(ctx.id);
    release = () => {
      late = ctx.updateState('PROGRESS', 'still here').catch((error: Error) => error.message);
      resolve('too late');
    };
  });

/** Ends when it is released. */
const holds = (ctx: TaskContext) =>
  new Promise<void>((resolve) => {
    said.push(ctx.id);
    release = resolve;
  });

task('waits', waits);
task('waits-soft', waits, { softTimeLimit: 0.05 });
task(
  'waits-throws',
  async (ctx) => {
    for (;;) {
      ctx.signal.throwIfAborted();
      await sleep(5);
    }
  },
  { softTimeLimit: 0.05 },
);
task(
  'cleans-up',
  async (ctx) => {
    try {
      return await waits(ctx);
    } catch {
      return isTaskError(ctx.signal.reason, 'SoftTimeLimitExceeded') ? 'cleaned up' : 'something else';
    }
  },
  { softTimeLimit: 0.05 },
);
task('stubborn', stubborn, { timeLimit: 0.05 });
task('stubborn-late', stubborn, { timeLimit: 0.05, acksLate: true });
task('stubborn-told', stubborn, {
  timeLimit: 0.05,
  onFailure: (_ctx, error) => void said.push((error as Error).name),
  afterReturn: (_ctx, state) => void said.push(state),
});
task('holds', holds);
task('quick', () => 'quick');

const SOFT = {
  status: 'FAILURE',
  result: { exc_type: 'SoftTimeLimitExceeded', exc_module: 'billiard.exceptions', exc_message: [] },
};

for (const name of ['waits-soft', 'waits-throws']) {
  t.test(
    `at its soft limit a task's signal is aborted with SoftTimeLimitExceeded, which it fails with: ${name}`,
    async (t) => {
      await startRig(t, redisServer);
      await send(redis, { task: name, id: 'a' });
      t.match(await recordIn(redis, 'a'), SOFT);
    },
  );
}

t.test('a task may end well after its soft limit', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'cleans-up', id: 'a' });
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: 'cleaned up' });
});

for (const name of ['stubborn', 'stubborn-late']) {
  t.test(
    `at its hard limit a task is recorded as failed, its slot is free, and what it does later is dropped: ${name}`,
    async (t) => {
      const { worker, lines } = await startRig(t, redisServer, { concurrency: 1 });
      await send(redis, { task: name, id: 'a' });
      const HARD = {
        status: 'FAILURE',
        traceback: null,
        result: { exc_type: 'TimeLimitExceeded', exc_module: 'billiard.exceptions', exc_message: [0.05] },
      };
      t.match(await recordIn(redis, 'a'), HARD);
      await send(redis, { task: 'quick', id: 'b' });
      t.match(await recordIn(redis, 'b'), { result: 'quick' });
      release();
      await until(() => worker.metrics.counts.abandoned === 1, 'the late outcome is counted');
      t.equal(await late, `Task ${name}[a] has ended.`);
      t.match(
        lines.find(({ event }) => event === 'outcome_dropped'),
        { task: name, id: 'a', state: 'success' },
      );
      t.match(await recordIn(redis, 'a'), HARD);
      t.equal(await redis.hlen('unacked'), 0);
    },
  );
}

t.test('hooks of a task hear of its hard limit', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'stubborn-told', id: 'a' });
  await recordIn(redis, 'a');
  await eventually(() => assert.deepEqual(said, ['a', 'TimeLimitExceeded', 'FAILURE']));
  release();
});

t.test("a message's own limits go before those of the task", async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'waits-soft', id: 'a', headers: { timelimit: [0.1, 3_600] } });
  t.match(await recordIn(redis, 'a'), { result: { exc_type: 'TimeLimitExceeded', exc_message: [0.1] } });
});

t.test('tasks without limits have those of the worker', async (t) => {
  await startRig(t, redisServer, { softTimeLimit: 0.05, timeLimit: 3_600 });
  await send(redis, { task: 'waits', id: 'a' });
  t.match(await recordIn(redis, 'a'), SOFT);
});

t.test('limits that are changed while the worker runs hold from the next run on', async (t) => {
  await startRig(t, redisServer);
  await broadcast(redis, new LogicalClock(), 'time_limit', { task_name: 'waits', soft: 0.05, hard: null });
  await eventually(async () => {
    await send(redis, { task: 'waits', id: 'a' });
    const text = await redis.get('celery-task-meta-a');
    assert.match(String(text), /SoftTimeLimitExceeded/);
  });
});

task('starts', holds, { trackStarted: true });
task('starts-ignored', holds, { trackStarted: true, ignoreResult: true });

t.test('with trackStarted a task is STARTED while it runs, with the process that runs it', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'starts', id: 'a' });
  t.match(await recordIn(redis, 'a', 'STARTED'), {
    result: { pid: process.pid, hostname: 'test@here' },
    date_done: null,
    traceback: null,
  });
  release();
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS' });
});

t.test('the worker may track them all, but not those whose result is ignored', async (t) => {
  await startRig(t, redisServer, { trackStarted: true });
  await send(redis, { task: 'starts-ignored', id: 'a' });
  await until(() => said.length === 1, 'it runs');
  release();
  await send(redis, { task: 'holds', id: 'b' });
  await recordIn(redis, 'b', 'STARTED');
  await until(() => said.length === 2, 'the other runs');
  release();
  await recordIn(redis, 'b', 'SUCCESS');
  t.equal(await redis.exists('celery-task-meta-a'), 0);
});

task('states', async (ctx) => {
  await ctx.updateState('PROGRESS', { done: 1, of: 3 });
  said.push(JSON.parse((await redis.get(`celery-task-meta-${ctx.id}`)) ?? 'null'));
  await ctx.updateState('', 1).catch((error: Error) => said.push(error.message));
  return 'ok';
});

t.test('a task stores states of its own', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'states', id: 'a' });
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: 'ok' });
  t.match(said, [{ status: 'PROGRESS', result: { done: 1, of: 3 }, task_id: 'a' }, /A state is a text/]);
});
