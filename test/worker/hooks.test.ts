import t from 'tap';
import { z } from 'zod';
import { Ignore, Reject, type Signals, signals, type TaskContext, type TaskOptions, task } from '../../index.ts';
import { until } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';
import { send } from './messages.ts';
import { recordIn, startRig } from './worker-rig.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

/** What was called, in order. */
let calls: unknown[] = [];

t.beforeEach(async () => {
  await redis.flushall();
  calls = [];
});

/** Hooks that note what they are given. */
const noting: TaskOptions = {
  beforeStart: (ctx) => void calls.push(['beforeStart', ctx.id]),
  onSuccess: (ctx, result) => void calls.push(['onSuccess', ctx.id, result]),
  onFailure: (ctx, error) => void calls.push(['onFailure', ctx.id, String(error)]),
  onRetry: (ctx, error) => void calls.push(['onRetry', ctx.id, String(error)]),
  afterReturn: (ctx, state, value) => void calls.push(['afterReturn', ctx.id, state, String(value)]),
};

const RUNNING = ['taskPrerun', 'taskPostrun', 'taskSuccess', 'taskFailure', 'taskRetry'] as const;

function noteSignals(t: { teardown(fn: () => void): void }, names: readonly (keyof Signals)[] = RUNNING): void {
  for (const name of names) {
    const note = () => void calls.push(name);
    signals[name].connect(note);
    t.teardown(() => signals[name].disconnect(note));
  }
}

const run = (_ctx: TaskContext, how: string): unknown => {
  calls.push('run');
  if (how === 'throw') throw new Error('no');
  if (how === 'ignore') throw new Ignore('no matter');
  if (how === 'reject') throw new Reject('not mine');
  if (how === 'unwritable') return () => 1;
  return how;
};

task('noting', run, noting);
task(
  'retrying',
  (ctx) => {
    calls.push('run');
    return ctx.retry({ exc: new Error('again'), countdown: 3_600 });
  },
  noting,
);

t.test('hooks and signals of a success come in the order of Celery', async (t) => {
  noteSignals(t);
  await startRig(t, redisServer);
  await send(redis, { task: 'noting', id: 'a', args: ['done'] });
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: 'done' });
  t.same(calls, [
    'taskPrerun',
    ['beforeStart', 'a'],
    'run',
    ['onSuccess', 'a', 'done'],
    'taskSuccess',
    ['afterReturn', 'a', 'SUCCESS', 'done'],
    'taskPostrun',
  ]);
});

for (const [how, error] of [
  ['throw', 'Error: no'],
  ['unwritable', 'EncodeError: a function is no JSON value'],
] as const) {
  t.test(`hooks and signals of a failure come in the order of Celery: ${how}`, async (t) => {
    noteSignals(t);
    await startRig(t, redisServer);
    await send(redis, { task: 'noting', id: 'a', args: [how] });
    t.match(await recordIn(redis, 'a'), { status: 'FAILURE' });
    t.same(calls, [
      'taskPrerun',
      ['beforeStart', 'a'],
      'run',
      ['onFailure', 'a', error],
      'taskFailure',
      ['afterReturn', 'a', 'FAILURE', error],
      'taskPostrun',
    ]);
  });
}

t.test('hooks and signals of a retry come in the order of Celery', async (t) => {
  noteSignals(t);
  await startRig(t, redisServer);
  await send(redis, { task: 'retrying', id: 'a' });
  t.match(await recordIn(redis, 'a', 'RETRY'), { result: { exc_type: 'Error', exc_message: ['again'] } });
  t.same(calls, [
    'taskPrerun',
    ['beforeStart', 'a'],
    'run',
    ['onRetry', 'a', 'Error: again'],
    'taskRetry',
    ['afterReturn', 'a', 'RETRY', 'Retry: Retry: Error: again'],
    'taskPostrun',
  ]);
});

for (const [how, signalled] of [
  ['ignore', ['taskPrerun', ['beforeStart', 'a'], 'run', 'taskPostrun']],
  ['reject', ['taskPrerun', ['beforeStart', 'a'], 'run', 'taskFailure', 'taskPostrun']],
] as const) {
  t.test(`a task that wants no result has no hooks after it: ${how}`, async (t) => {
    noteSignals(t);
    await startRig(t, redisServer);
    await send(redis, { task: 'noting', id: 'a', args: [how] });
    await until(() => calls.includes('taskPostrun'), 'the task has ended');
    t.same(calls, signalled);
  });
}

t.test('Ignore leaves no result; Reject leaves a failure, as of the newest Celery', async (t) => {
  await startRig(t, redisServer);
  await send(
    redis,
    { task: 'noting', id: 'a', args: ['ignore'] },
    { task: 'noting', id: 'b', args: ['reject'] },
    { task: 'noting', id: 'c', args: ['done'] },
  );
  t.match(await recordIn(redis, 'b'), {
    status: 'FAILURE',
    result: { exc_type: 'Reject', exc_module: 'celery.exceptions', exc_message: ['not mine', false] },
    traceback: null,
  });
  await recordIn(redis, 'c');
  t.equal(await redis.exists('celery-task-meta-a'), 0);
});

task('before-throws', run, {
  ...noting,
  beforeStart: () => {
    throw new Error('not now');
  },
});

t.test('what beforeStart throws the task has thrown, without having been entered', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'before-throws', id: 'a', args: ['done'] });
  t.match(await recordIn(redis, 'a'), { status: 'FAILURE', result: { exc_message: ['not now'] } });
  t.same(calls, [
    ['onFailure', 'a', 'Error: not now'],
    ['afterReturn', 'a', 'FAILURE', 'Error: not now'],
  ]);
});

task('success-throws', run, {
  ...noting,
  onSuccess: () => {
    throw new Error('broken hook');
  },
});

t.test('a later hook that throws is logged; the result stays, and afterReturn is left out', async (t) => {
  noteSignals(t);
  const { lines } = await startRig(t, redisServer);
  await send(redis, { task: 'success-throws', id: 'a', args: ['done'] });
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: 'done' });
  t.same(calls, ['taskPrerun', ['beforeStart', 'a'], 'run', 'taskPostrun']);
  t.match(
    lines.find(({ event }) => event === 'hook_failed'),
    { task: 'success-throws', id: 'a', err: { message: 'broken hook' } },
  );
});

t.test('a receiver that throws is logged and does no harm to the task or to the other receivers', async (t) => {
  const { lines } = await startRig(t, redisServer);
  const broken = [
    signals.taskPrerun.connect(() => {
      throw new Error('at once');
    }),
    signals.taskPrerun.connect(async () => {
      throw new Error('later');
    }),
  ];
  noteSignals(t, ['taskPrerun']);
  t.teardown(() => {
    for (const disconnect of broken) disconnect();
  });
  await send(redis, { task: 'noting', id: 'a', args: ['done'] });
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS' });
  t.equal(calls[0], 'taskPrerun');
  const messages = lines.filter(({ event }) => event === 'signal_failed').map(({ err }) => (err as Error).message);
  t.same(messages, ['at once', 'later']);
});

t.test('a receiver may want to hear of one task only', async (t) => {
  const seen: string[] = [];
  t.teardown(signals.taskSuccess.connect(({ taskId }) => void seen.push(taskId), { sender: 'noting' }));
  await startRig(t, redisServer);
  await send(
    redis,
    { task: 'success-throws', id: 'a', args: ['x'] },
    { task: 'validated', id: 'b', args: [1] },
    { task: 'noting', id: 'c', args: ['x'] },
  );
  for (const id of ['a', 'b', 'c']) await recordIn(redis, id);
  t.same(seen, ['c']);
});

t.test('signals of messages say what was taken, revoked, unknown or unreadable', async (t) => {
  const seen: unknown[] = [];
  const disconnects = [
    signals.taskReceived.connect(({ taskId, sender }) => void seen.push(['received', sender, taskId])),
    signals.taskRevoked.connect(
      ({ taskId, expired, terminated, signum }) => void seen.push(['revoked', taskId, expired, terminated, signum]),
    ),
    signals.taskUnknown.connect(({ sender, name, taskId }) => void seen.push(['unknown', sender, name, taskId])),
    signals.taskRejected.connect(({ message }) => void seen.push(['rejected', message.includes('no-task')])),
  ];
  t.teardown(() => {
    for (const disconnect of disconnects) disconnect();
  });
  await startRig(t, redisServer);
  await send(redis, { task: 'noting', id: 'old', headers: { expires: '2020-01-01T00:00:00+00:00' } });
  await recordIn(redis, 'old');
  await send(redis, { task: 'nobody', id: 'b' });
  await recordIn(redis, 'b');
  await send(redis, { tag: 'no-task', headers: { task: null } }, { task: 'noting', id: 'c', args: ['x'] });
  await until(() => seen.length === 4, 'the worker has told of all four');
  t.same(seen, [
    ['revoked', 'old', true, false, null],
    ['unknown', 'test@here', 'nobody', 'b'],
    ['rejected', true],
    ['received', 'noting', 'c'],
  ]);
});

t.test('signals of the worker come in the order of its life', async (t) => {
  noteSignals(t, ['workerInit', 'workerProcessInit', 'workerReady', 'workerShuttingDown', 'workerShutdown']);
  const { worker } = await startRig(t, redisServer);
  await worker.stop();
  t.same(calls, ['workerInit', 'workerProcessInit', 'workerReady', 'workerShuttingDown', 'workerShutdown']);
});

t.test('each heartbeat that monitors are sent is signalled', async (t) => {
  noteSignals(t, ['heartbeatSent']);
  await startRig(t, redisServer, { heartbeatInterval: 1 });
  await until(() => calls.length >= 2, 'two heartbeats were sent');
});

t.test('a task waits for what the receivers before it return', async (t) => {
  t.teardown(
    signals.taskPrerun.connect(async () => {
      await redis.set('prepared', 1);
      calls.push('prepared');
    }),
  );
  await startRig(t, redisServer);
  await send(redis, { task: 'noting', id: 'a', args: ['x'] });
  await recordIn(redis, 'a');
  t.same(calls.slice(0, 2), ['prepared', ['beforeStart', 'a']]);
});

task('validated', (ctx: TaskContext, number: number) => ({ number, name: ctx.kwargs.name }), {
  schema: z.tuple([z.number().transform((number) => number * 2)]),
  kwargsSchema: z.object({ name: z.string().default('nobody') }),
  autoretryFor: [Error],
});

t.test('a task gets what its schemas make of its args and kwargs', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'validated', id: 'a', args: [21] });
  t.match(await recordIn(redis, 'a'), { result: { number: 42, name: 'nobody' } });
});

t.test('what a schema refuses fails with a typed error, is not entered, and is not tried again', async (t) => {
  await startRig(t, redisServer);
  await send(
    redis,
    { task: 'validated', id: 'a', args: ['text'] },
    { task: 'validated', id: 'b', args: [1], kwargs: { name: 5 } },
  );
  const refused = { exc_type: 'InvalidArguments', exc_module: 'ringbeat' };
  t.match(await recordIn(redis, 'a'), {
    status: 'FAILURE',
    result: { ...refused, exc_message: [/^Task validated refuses its args: args.0: .*number/] },
  });
  t.match(await recordIn(redis, 'b'), {
    status: 'FAILURE',
    result: { ...refused, exc_message: [/^Task validated refuses its kwargs: kwargs.name: .*string/] },
  });
});
