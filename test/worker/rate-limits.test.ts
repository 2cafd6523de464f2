import t from 'tap';
import { type TaskContext, task } from '../../index.ts';
import { PidboxClient } from '../../lua/pidbox-client.ts';
import { takeTokens } from '../../lua/take-tokens.ts';
import { LogicalClock } from '../../protocol/control-message.ts';
import { until } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';
import { send } from './messages.ts';
import { recordIn, startRig } from './worker-rig.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());

/** When each task started, ms. */
let starts: number[] = [];

t.beforeEach(async () => {
  await redis.flushall();
  starts = [];
});

const note = (ctx: TaskContext) => {
  starts.push(performance.now());
  return ctx.hostname;
};

task('limited', note, { rateLimit: '20/s' });
task('limited-hour', note, { rateLimit: '1/h' });
task('limited-globally', note, { globalRateLimit: '20/s' });
task('limited-twice', note, { rateLimit: 1_000, globalRateLimit: '1/h' });
task('limited-globally-hour', note, { globalRateLimit: '1/h' });
task('limited-later', note);
task('limited-late', note, { globalRateLimit: '1/h', acksLate: true });
task('free', () => 'free');

/** The most starts within any second. */
function mostInASecond(): number {
  return Math.max(...starts.map((from) => starts.filter((at) => at >= from && at < from + 1_000).length));
}

const ids = (count: number) => Array.from({ length: count }, (_, number) => `id-${number}`);

for (const [name, workers, most] of [
  ['limited', 1, 21],
  ['limited', 2, 42],
  ['limited-globally', 1, 21],
  ['limited-globally', 3, 21],
] as const) {
  t.test(`${workers} workers start at most ${most} of ${name} within any second, and all in the end`, async (t) => {
    for (let number = 0; number < workers; number++) await startRig(t, redisServer, { hostname: `w${number}@here` });
    await send(redis, ...ids(50).map((id) => ({ task: name, id })));
    for (const id of ids(50)) await recordIn(redis, id);
    t.equal(starts.length, 50);
    // Timers, and the way from the token to the function, may squeeze two into one second's edge.
    t.ok(mostInASecond() <= most + 2, `${mostInASecond()} starts`);
  });
}

for (const name of ['limited-hour', 'limited-twice', 'limited-late']) {
  t.test(
    `what a limit holds back keeps no other task waiting, and goes back when the worker stops: ${name}`,
    async (t) => {
      const { worker } = await startRig(t, redisServer, { concurrency: 2, prefetch: 4 });
      await send(redis, ...ids(20).map((id) => ({ task: name, id })));
      await send(redis, ...ids(20).map((id) => ({ task: 'free', id: `free-${id}` })));
      for (const id of ids(20)) await recordIn(redis, `free-${id}`);
      await until(() => starts.length === 1, 'the first token is used');
      await worker.stop();
      t.equal(starts.length, 1);
      t.equal(await redis.llen('celery'), 19);
      t.equal(await redis.hlen('unacked'), 0);
    },
  );
}

t.test('limits of a task that is defined while a worker runs hold from then on', async (t) => {
  await startRig(t, redisServer);
  await send(redis, ...ids(3).map((id) => ({ task: 'free', id: `free-${id}` })));
  for (const id of ids(3)) await recordIn(redis, `free-${id}`);
  task('defined-later', note, { rateLimit: '1/h' });
  task('defined-later-globally', note, { globalRateLimit: '1/h' });
  await send(redis, ...ids(3).map((id) => ({ task: 'defined-later', id })));
  await send(redis, ...ids(3).map((id) => ({ task: 'defined-later-globally', id: `global-${id}` })));
  await until(
    async () => (await redis.llen('celery')) === 0 && (await redis.zcard('unacked_index')) === 4 && starts.length === 2,
    'all but the first of each are held',
  );

  t.comment('another task takes the name, and its limits');
  task('defined-later-globally', note);
  await send(redis, { task: 'defined-later-globally', id: 'another' });
  for (const id of [...ids(3).map((id) => `global-${id}`), 'another']) await recordIn(redis, id);
  t.equal(starts.length, 5);
});

t.test('remote control changes, lifts and sets limits on all workers together', async (t) => {
  const names = ['w1@here', 'w2@here'];
  for (const hostname of names) await startRig(t, redisServer, { hostname });
  const client = new PidboxClient({ redis, clock: new LogicalClock(), nowMs: () => Date.now() });
  const limit = async (task_name: string, rate_limit: string) => {
    const args = { task_name, rate_limit };
    const request = { method: 'global_rate_limit', arguments: args, destination: names, timeoutMs: 10_000 };
    return Object.fromEntries(await client.call(request));
  };
  const saying = (reply: unknown) => Object.fromEntries(names.map((name) => [name, reply]));
  const held = (count: number) =>
    until(async () => (await redis.zcard('unacked_index')) === count, `${count} are held`);

  await send(redis, ...ids(9).map((id) => ({ task: 'limited-globally-hour', id })));
  await held(8);
  t.same(await limit('limited-globally-hour', '20/s'), saying({ ok: 'new global rate limit set successfully' }));
  for (const id of ids(9)) await recordIn(redis, id);
  t.same(await limit('limited-later', '1/h'), saying({ ok: 'new global rate limit set successfully' }));
  await send(redis, ...ids(9).map((id) => ({ task: 'limited-later', id: `later-${id}` })));
  await held(8);
  t.equal(starts.length, 10);
  t.same(await limit('limited-later', '0'), saying({ ok: 'global rate limit disabled successfully' }));
  for (const id of ids(9)) await recordIn(redis, `later-${id}`);

  t.same(await limit('nobody', '1/s'), saying({ error: 'unknown task' }));
  const [often] = Object.values(await limit('free', 'often'));
  t.match(often, { error: /^Invalid rate limit string: ValueError/ });
});

t.test('held messages keep their lease', async (t) => {
  await startRig(t, redisServer, { visibilityTimeout: 1 });
  await send(redis, ...ids(3).map((id) => ({ task: 'limited-hour', id })));
  await until(async () => (await redis.zcard('unacked_index')) === 2, 'two are held');
  const scores = async () =>
    (await redis.zrange('unacked_index', '0', '-1', 'WITHSCORES')).map(Number).filter((score) => score > 0);
  const first = Math.max(...(await scores()));
  await until(async () => {
    const now = await scores();
    return now.length === 2 && Math.min(...now) > first + 1;
  }, 'both were refreshed for longer than the visibility timeout');
  t.equal(starts.length, 1);
});

t.test('a bucket in Redis fills by its rate up to its size, whoever takes from it', async (t) => {
  const bucket = { task: 'x', perSec: 0.001, size: 3, wanted: 2 };
  const [first] = await takeTokens(redis, 'rb', [bucket]);
  t.same(first, { taken: 2, waitMs: 0 });
  const [second] = await takeTokens(redis, 'rb', [{ ...bucket, wanted: 5 }]);
  t.equal(second?.taken, 1);
  t.ok(second !== undefined && second.waitMs > 2_900_000 && second.waitMs <= 3_000_000, String(second?.waitMs));
  t.match(await redis.hget('rb:rates', 'x'), /^0\.0\d+:\d+$/);
});

t.test('a bucket fills with the time of Redis, and not while its clock is behind', async (t) => {
  const [seconds] = await redis.time();
  const bucket = { task: 'x', perSec: 1, size: 1, wanted: 1 };
  await redis.hset('rb:rates', 'x', `0.0:${(Number(seconds) - 2) * 1_000}`);
  t.match(await takeTokens(redis, 'rb', [bucket]), [{ taken: 1 }]);
  await redis.hset('rb:rates', 'x', `0.0:${(Number(seconds) + 3_600) * 1_000}`);
  t.same(await takeTokens(redis, 'rb', [bucket]), [{ taken: 0, waitMs: 1_000 }]);
});

t.test('one call takes for many tasks', async (t) => {
  const wanted = ids(200).map((id, number) => ({ task: id, perSec: 1, size: 1, wanted: 1 + (number % 2) }));
  const taken = await takeTokens(redis, 'rb', wanted);
  t.ok(taken.every((one) => one.taken === 1));
  t.same([...new Set(taken.map(({ waitMs }) => waitMs))], [0, 1_000]);
});
