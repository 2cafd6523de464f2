import t from 'tap';
import { Ignore, isTaskError, Reject, type RetryOptions, type TaskContext, task } from '../../index.ts';
import { eventually } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';
import { redisNow, send } from './messages.ts';
import { recordIn, startRig } from './worker-rig.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

t.beforeEach(async () => {
  await redis.flushall();
});

class NetworkError extends Error {
  override readonly name = 'NetworkError';
}
class Unreachable extends NetworkError {}

const fail = (): never => {
  throw new Unreachable('no route');
};

task('flaky', (ctx, failures: number) => {
  if (ctx.retries < failures) ctx.retry({ exc: new NetworkError(`failure ${ctx.retries}`), countdown: 0 });
  return `done after ${ctx.retries} retries`;
});

t.test('a task that asks for it runs again under the same id, with one retry more', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'flaky', id: 'a', args: [3] });
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: 'done after 3 retries' });
});

t.test('a fourth retry is one too many by default: the task fails with the reason that it gave', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'flaky', id: 'a', args: [4] });
  t.match(await recordIn(redis, 'a'), {
    status: 'FAILURE',
    result: { exc_type: 'NetworkError', exc_message: ['failure 3'] },
  });
});

task('no-reason', (ctx, ..._args: unknown[]) => ctx.retry({ countdown: 0, maxRetries: 1 }));

t.test('without a reason it fails with MaxRetriesExceededError, in the words of Celery', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'no-reason', id: 'a', args: [1, 'two'], kwargs: { three: null } });
  t.match(await recordIn(redis, 'a'), {
    status: 'FAILURE',
    result: {
      exc_type: 'MaxRetriesExceededError',
      exc_module: 'celery.exceptions',
      exc_message: ["Can't retry no-reason[a] args:(1, 'two') kwargs:{'three': None}"],
    },
  });
});

task('endless', (ctx) => (ctx.retries < 12 ? ctx.retry({ countdown: 0 }) : ctx.retries), { maxRetries: null });

t.test('with maxRetries null there is no limit', async (t) => {
  await startRig(t, redisServer);
  await send(redis, { task: 'endless', id: 'a' });
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: 12 });
});

task('later', (ctx) => {
  if (ctx.retries === 0) ctx.retry({ countdown: 0.5 });
  return Math.round(ctx.eta!.getTime());
});

t.test('without a beat node a retry waits in its worker until it is due, and then runs', async (t) => {
  await startRig(t, redisServer);
  const nowMs = await redisNow(redis);
  await send(redis, { task: 'later', id: 'a' });
  const { headers } = await retried();
  t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: Date.parse(headers.eta) });
  t.ok((await redisNow(redis)) >= nowMs + 500);
  await eventually(async () => t.equal(await redis.hlen('unacked'), 0));
});

t.test('without a beat node a worker that stops gives a retry back to its queue, eta and all', async (t) => {
  const { worker } = await startRig(t, redisServer);
  await send(redis, { task: 'defaults', id: 'a', queue: 'celery', priority: 3 });
  const { headers } = await retried();
  await worker.stop();
  const { headers: back } = await retried('celery\x06\x163');
  t.match(back, { id: 'a', retries: 1, eta: headers.eta });
  t.equal(await redis.hlen('unacked'), 0);
});

interface Envelope {
  readonly body: string;
  readonly headers: { readonly [name: string]: unknown; readonly eta: string; readonly expires: string };
}

/** The message that a retry has sent, as the worker holds it. */
async function retried(queue?: string): Promise<Envelope> {
  return eventually(async () => {
    const [held] = queue === undefined ? await redis.hvals('unacked') : await redis.lrange(queue, 0, 0);
    const message = queue === undefined ? JSON.parse(held!)[0] : JSON.parse(held!);
    if (message.headers.retries !== 1) throw new Error('not retried yet');
    return message;
  });
}

const inSec = (eta: string, nowMs: number): number => Math.round((Date.parse(eta) - nowMs) / 1_000);

task('defaults', (ctx) => ctx.retry());
task('short', (ctx) => ctx.retry(), { defaultRetryDelay: 60 });

for (const [name, seconds] of [
  ['defaults', 180],
  ['short', 60],
] as const) {
  t.test(`a retry that says nothing waits ${seconds} s: ${name}`, async (t) => {
    await startRig(t, redisServer);
    const nowMs = await redisNow(redis);
    await send(redis, { task: name, id: 'a' });
    const { headers } = await retried();
    t.ok(Math.abs(inSec(headers.eta, nowMs) - seconds) <= 5, headers.eta);
    t.match(await recordIn(redis, 'a', 'RETRY'), {
      result: { exc_type: 'Retry', exc_module: 'celery.exceptions' },
      date_done: null,
    });
  });
}

let how: RetryOptions = {};
task('told', (ctx) => ctx.retry(how));

t.test('a retry changes what it says of the message, and keeps the rest', async (t) => {
  const eta = new Date(Date.now() + 1_000_000);
  how = {
    args: [2],
    kwargs: { b: 3 },
    queue: 'slow',
    priority: 6,
    eta,
    expires: 2_000,
    timeLimit: 20,
    softTimeLimit: 10,
    headers: { 'x-why': 'told' },
  };
  await startRig(t, redisServer);
  const nowMs = await redisNow(redis);
  await send(redis, { task: 'told', id: 'a', args: [1], headers: { 'x-tenant': 'acme', root_id: 'root' } });
  const message = await retried('slow\x06\x166');
  t.match(message, {
    headers: {
      id: 'a',
      task: 'told',
      retries: 1,
      timelimit: [20, 10],
      argsrepr: '(2,)',
      kwargsrepr: "{'b': 3}",
      root_id: 'root',
      parent_id: 'a',
      'x-tenant': 'acme',
      'x-why': 'told',
    },
    properties: { priority: 6, delivery_info: { exchange: '', routing_key: 'slow' }, correlation_id: 'a' },
  });
  t.equal(Date.parse(message.headers.eta), eta.getTime());
  t.ok(Math.abs(inSec(message.headers.expires, nowMs) - 2_000) <= 5);
  t.match(JSON.parse(Buffer.from(message.body, 'base64').toString()), [[2], { b: 3 }]);
});

const refused: readonly (readonly [Record<string, unknown>, RegExp])[] = [
  [{ countdown: -1 }, /countdown is 0 s or more, got -1/],
  [{ countdown: Number.NaN }, /countdown/],
  [{ eta: '2027-01-01' }, /eta is a Date, got 2027-01-01/],
  [{ eta: new Date(0), countdown: 1 }, /eta excludes a countdown/],
  [{ expires: 0 }, /expires/],
  [{ maxRetries: -1 }, /maxRetries/],
  [{ args: 'no' }, /args are a list/],
  [{ kwargs: [] }, /kwargs are an object/],
  [{ queue: '' }, /queue/],
  [{ priority: 10 }, /priority .* 0 to 9, got 10/],
  [{ timeLimit: 0 }, /time limits/],
];

for (const [options, reason] of refused) {
  t.test(`a retry with ${JSON.stringify(options)} is refused, and the task fails`, async (t) => {
    how = options as RetryOptions;
    await startRig(t, redisServer);
    await send(redis, { task: 'told', id: 'a' });
    t.match(await recordIn(redis, 'a'), {
      status: 'FAILURE',
      result: { exc_type: 'TypeError', exc_message: [reason] },
    });
  });
}

t.test('what JSON cannot hold is no argument of a retry: the task fails', async (t) => {
  const self: Record<string, unknown> = {};
  self.self = self;
  how = { args: [self] as unknown as NonNullable<RetryOptions['args']> };
  await startRig(t, redisServer);
  await send(redis, { task: 'told', id: 'a' });
  t.match(await recordIn(redis, 'a'), { status: 'FAILURE', result: { exc_type: 'EncodeError' } });
});

const twice = (ctx: TaskContext): unknown => (ctx.retries < 2 ? fail() : ctx.retries);
const soon = { defaultRetryDelay: 0 };
task('auto-class', twice, { ...soon, autoretryFor: [NetworkError] });
task('auto-name', twice, { ...soon, autoretryFor: ['NetworkError'] });
task('auto-subclass-name', twice, { ...soon, autoretryFor: ['Unreachable'] });
task('auto-other', twice, { ...soon, autoretryFor: [RangeError, 'OddError'] });
task('auto-except', twice, { ...soon, autoretryFor: [Error], dontAutoretryFor: [Unreachable] });
task('auto-exhausted', fail, { ...soon, autoretryFor: [Error], maxRetries: 2 });

for (const name of ['auto-class', 'auto-name', 'auto-subclass-name']) {
  t.test(`a task runs again after an error that autoretryFor names: ${name}`, async (t) => {
    await startRig(t, redisServer);
    await send(redis, { task: name, id: 'a' });
    t.match(await recordIn(redis, 'a'), { status: 'SUCCESS', result: 2 });
  });
}

for (const name of ['auto-other', 'auto-except', 'auto-exhausted']) {
  t.test(`a task fails with an error that is not to be retried any more: ${name}`, async (t) => {
    await startRig(t, redisServer);
    await send(redis, { task: name, id: 'a' });
    t.match(await recordIn(redis, 'a'), {
      status: 'FAILURE',
      result: { exc_type: 'NetworkError', exc_message: ['no route'] },
    });
  });
}

task(
  'auto-ignore',
  (_ctx, which: string) => {
    throw which === 'ignore' ? new Ignore() : new Reject('not mine');
  },
  { ...soon, autoretryFor: [Error] },
);

t.test('Ignore and Reject are never retried', async (t) => {
  await startRig(t, redisServer);
  await send(
    redis,
    { task: 'auto-ignore', id: 'a', args: ['ignore'] },
    { task: 'auto-ignore', id: 'b', args: ['reject'] },
  );
  t.match(await recordIn(redis, 'b'), { status: 'FAILURE', result: { exc_type: 'Reject' } });
  t.equal(await redis.exists('celery-task-meta-a'), 0);
});

task('backoff', fail, { autoretryFor: [Error], retryBackoff: true, retryJitter: false, maxRetries: null });
task('backoff-factor', fail, { autoretryFor: [Error], retryBackoff: 5, retryJitter: false, maxRetries: null });
task('backoff-max', fail, {
  autoretryFor: [Error],
  retryBackoff: true,
  retryJitter: false,
  retryBackoffMax: 100,
  maxRetries: null,
});
task('backoff-jitter', fail, { autoretryFor: [Error], retryBackoff: true, maxRetries: 9 });

for (const [name, retries, seconds] of [
  ['backoff', 5, 32],
  ['backoff', 30, 600],
  ['backoff-factor', 3, 40],
  ['backoff-max', 9, 100],
] as const) {
  t.test(`retry ${retries + 1} of ${name} waits ${seconds} s`, async (t) => {
    await startRig(t, redisServer);
    const nowMs = await redisNow(redis);
    await send(redis, { task: name, id: 'a', headers: { retries } });
    await recordIn(redis, 'a', 'RETRY');
    const eta = await eventually(async () => {
      const [held] = await redis.hvals('unacked');
      const { headers } = JSON.parse(held!)[0];
      if (headers.retries !== retries + 1) throw new Error('not retried yet');
      return headers.eta as string;
    });
    const waitSec = inSec(eta, nowMs);
    t.ok(Math.abs(waitSec - seconds) <= 5, `${waitSec} s`);
  });
}

t.test('with jitter automatic retries wait for different times, none longer than the backoff', async (t) => {
  await startRig(t, redisServer);
  const nowMs = await redisNow(redis);
  const ids = Array.from({ length: 20 }, (_, number) => `id-${number}`);
  await send(redis, ...ids.map((id) => ({ task: 'backoff-jitter', id, headers: { retries: 8 } })));
  // One that waits 0 s has failed.
  for (const id of ids) await recordIn(redis, id, 'RETRY', 'FAILURE');
  const waits = (await redis.hvals('unacked')).map((held) => inSec(JSON.parse(held)[0].headers.eta, nowMs));
  t.ok(
    waits.every((waitSec) => waitSec <= 256 + 5),
    waits.join(' '),
  );
  t.ok(new Set(waits).size > 5, waits.join(' '));
});

t.test('a typed error is known by its name, whichever copy of the package made it', async (t) => {
  t.ok(isTaskError(new Ignore(), 'Ignore'));
  t.notOk(isTaskError(new Error('Ignore'), 'Ignore'));
  t.notOk(isTaskError(Object.assign(new Error(), { name: 'Ignore' }), 'Ignore'));
});
