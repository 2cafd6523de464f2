import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { connect } from '../../lua/connection.ts';
import { type ControlCommands, Pidbox } from '../../lua/pidbox.ts';
import { type ControlCall, PidboxClient } from '../../lua/pidbox-client.ts';
import { LogicalClock } from '../../protocol/control-message.ts';
import { withRedis } from '../support/redis-server.ts';

const server = await withRedis(t);
const redis = connect(server.url, { option: '--redis', name: 'test' });
t.teardown(() => redis.disconnect());
const clock = new LogicalClock();
const client = new PidboxClient({ redis, clock, nowMs: () => Date.now() });

async function startNode(t: Test, node: string, commands: ControlCommands): Promise<void> {
  const subscriber = connect(server.url, { option: '--redis', name: node });
  const pidbox = new Pidbox({ redis, subscriber, node, commands, clock: new LogicalClock(), onProblem: () => {} });
  await pidbox.start();
  t.teardown(async () => {
    await pidbox.stop();
    subscriber.disconnect();
  });
}

function call(method: string, options: Partial<ControlCall> = {}): ReturnType<PidboxClient['call']> {
  return client.call({ method, arguments: {}, destination: null, timeoutMs: 300, ...options });
}

async function connections(): Promise<number> {
  return String(await redis.client('LIST'))
    .trim()
    .split('\n').length;
}

t.test('replies of all nodes come, and nothing is left: no key, no binding, no connection', async (t) => {
  await startNode(t, 'a', { ping: () => 'A', late: () => sleep(200).then(() => 'late A') });
  await startNode(t, 'b', { ping: () => ({ ok: 'B' }), late: () => sleep(400).then(() => 'late B') });
  const before = await connections();
  const clockBefore = clock.value;
  const seen: string[] = [];
  const replies = await call('ping', { onReply: (node) => seen.push(node) });
  t.same(Object.fromEntries(replies), { a: 'A', b: { ok: 'B' } });
  t.same(seen.sort(), ['a', 'b']);
  t.ok(clock.value > clockBefore + 2);
  t.same(Object.fromEntries(await call('late')), { a: 'late A', b: 'late B' }, 'each reply is worth another wait');
  t.same(await call('late', { timeoutMs: 20 }), []);
  // What came too late finds nobody bound.
  await call('late', { destination: ['a', 'b'], timeoutMs: 10_000 });
  t.same(
    (await redis.keys('*')).filter((key) => key !== '_kombu.binding.celery.pidbox'),
    [],
  );
  t.equal(await connections(), before);
});

t.test('no longer is waited than for those that are meant, or than is enough', async (t) => {
  await startNode(t, 'a', { ping: () => 'A' });
  await startNode(t, 'b', { ping: () => 'B' });
  // Each of these would wait for an hour otherwise.
  const timeoutMs = 3_600_000;
  t.same(await call('ping', { destination: ['b'], timeoutMs }), [['b', 'B']]);
  t.equal((await call('ping', { isEnough: (replies) => replies.length === 2, timeoutMs })).length, 2);
  t.same(await call('ping', { isEnough: async (_, hearers) => hearers === 2, timeoutMs }), []);
});

t.test('a connection that waits for replies outlives the timeout of a command', async (t) => {
  const brief = connect(server.url, { option: '--redis', name: 'brief', commandTimeoutMs: 1_500 });
  t.teardown(() => brief.disconnect());
  await startNode(t, 'a', { slow: () => sleep(2_500).then(() => 'done') });
  const patient = new PidboxClient({ redis: brief, clock, nowMs: () => Date.now() });
  const request = { method: 'slow', arguments: {}, destination: ['a'], timeoutMs: 60_000 };
  t.same(await patient.call(request), [['a', 'done']]);
});
