import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { setImmediate as turn } from 'node:timers/promises';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { task } from '../../client/task.ts';
import { connect } from '../../lua/connection.ts';
import { broadcast } from '../../lua/pidbox.ts';
import { LogicalClock } from '../../protocol/control-message.ts';
import { Ignore, Reject } from '../../protocol/task-errors.ts';
import { VERSION } from '../../runtime/version.ts';
import type { WorkerOptions } from '../../worker/config.ts';
import { type EventCounts, Events } from '../../worker/events.ts';
import { Worker } from '../../worker/worker.ts';
import { eventually } from '../support/eventually.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { listenToEvents } from './events-listener.ts';
import { iso, redisNow, send } from './messages.ts';

const server = await withRedis(t);
const redis = server.connect();
t.teardown(() => redis.disconnect());
t.beforeEach(async () => {
  await redis.flushall();
});

let release = () => {};

task('add', (_ctx, x: number, y: number) => x + y);
task('boom', (_ctx, message: string) => {
  throw Object.assign(new Error(message), { name: 'ValueError' });
});
task('again', (ctx) => {
  if (ctx.retries === 0) ctx.retry({ countdown: 0, exc: new Error('transient') });
  return ctx.retries;
});
task('ignores', () => {
  throw new Ignore();
});
task('rejects', () => {
  throw new Reject('no');
});
task('quiet', () => 1, { sendEvents: false });
task('tells', (ctx) => {
  ctx.sendEvent('task-progress', { percent: 50 });
  ctx.sendEvent('order-shipped', { order: 'ü' });
});
task('babbles', (ctx) => ctx.sendEvent('no type', {}));
const wait = () =>
  new Promise<void>((resolve) => {
    release = resolve;
  });
task('waits', wait);
task('waits-late', wait, { acksLate: true });

async function startWorker(t: Test, options: Partial<WorkerOptions> = {}): Promise<Worker> {
  const given = { redis: server.url, hostname: 'w@here', withoutMingle: true, ...options };
  const worker = new Worker(given, pino({ level: 'silent' }));
  t.teardown(() => worker.stopNow());
  await worker.start();
  return worker;
}

t.test('a worker says that it comes, that it is there, and that it goes', async (t) => {
  const listener = await listenToEvents(t, server);
  const worker = await startWorker(t, { heartbeatInterval: 0.1 });
  const online = await listener.heard(({ type }) => type === 'worker-online');
  t.match(online, {
    hostname: 'w@here',
    pid: process.pid,
    freq: 0.1,
    active: 0,
    processed: 0,
    sw_ident: 'ringbeat',
    sw_ver: VERSION,
    sw_sys: 'Linux',
  });
  t.equal((online.loadavg as number[]).length, 3);
  t.ok(Math.abs((online.timestamp as number) * 1_000 - (await redisNow(redis))) < 60_000);
  await send(redis, { task: 'add', args: [1, 2] }, { task: 'waits' });
  await listener.heard(({ type, active, processed }) => type === 'worker-heartbeat' && active === 1 && processed === 2);
  release();
  await worker.stop();
  await listener.heard(({ type }) => type === 'worker-offline');
  t.same(
    listener.events.filter(({ type }) => type.startsWith('task-')),
    [],
    'events of tasks are off by default',
  );
  const clocks = listener.events.map(({ clock }) => clock as number);
  t.same(
    clocks,
    [...new Set(clocks)].sort((one, other) => one - other),
    'logical time goes on with each',
  );
});

t.test('a worker without heartbeats says nothing of itself, but of its tasks', async (t) => {
  const listener = await listenToEvents(t, server);
  const worker = await startWorker(t, { withoutHeartbeat: true, taskEvents: true });
  await send(redis, { task: 'add', id: 'a', args: [1, 2] });
  await listener.life('a', ['task-received', 'task-started', 'task-succeeded']);
  await worker.stop();
  t.notOk(listener.events.some(({ type }) => type.startsWith('worker-')));
});

const RECEIVED = 'task-received';
const STARTED = 'task-started';

t.test('the life of a task that succeeds is told', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { taskEvents: true });
  const headers = { argsrepr: '(2, 3)', parent_id: 'p', root_id: 'r' };
  await send(redis, { task: 'add', id: 'a', args: [2, 3], headers });
  const [received, started, succeeded] = await listener.life('a', [RECEIVED, STARTED, 'task-succeeded']);
  t.match(received, { name: 'add', args: '(2, 3)', kwargs: '{}', root_id: 'r', parent_id: 'p', retries: 0, eta: null });
  t.match(started, { hostname: 'w@here', pid: process.pid });
  t.match(succeeded, { result: '5', runtime: Number });
  t.ok(listener.messages.every(({ routingKey }) => /^(task\.multi|worker\.\w+)$/.test(routingKey)));
});

t.test('what a message does not tell is shown nevertheless, and under its shadow', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { taskEvents: true });
  const headers = { argsrepr: null, kwargsrepr: null, shadow: 'shown', root_id: null };
  await send(redis, { task: 'add', id: 'a', args: ['ü', [1, true]], kwargs: { k: "it's" }, headers });
  const [received] = await listener.life('a', [RECEIVED, STARTED, 'task-succeeded']);
  t.match(received, { name: 'shown', args: "['ü', [1, True]]", kwargs: `{'k': "it's"}`, root_id: null });
});

t.test('failures are told with exception and traceback', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { taskEvents: true });
  await send(redis, { task: 'boom', id: 'a', args: ["it's"] }, { task: 'nobody.knows', id: 'b' });
  const [, , failed] = await listener.life('a', [RECEIVED, STARTED, 'task-failed']);
  t.match(failed, { exception: `ValueError("it's")`, traceback: /^ValueError: it's\n +at / });
  const [unknown] = await listener.life('b', ['task-failed']);
  t.match(unknown, { exception: "NotRegistered('nobody.knows')" });
  t.notOk(Object.hasOwn(unknown!, 'traceback'));
});

t.test('a retry is told, and what follows it', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { taskEvents: true });
  await send(redis, { task: 'again', id: 'a' });
  const once = [RECEIVED, STARTED];
  const events = await listener.life('a', [...once, 'task-retried', ...once, 'task-succeeded']);
  t.match(events[2], { exception: "Error('transient')", traceback: String });
  t.match(events[3], { retries: 1 });
});

t.test('rejected, ignored, expired and revoked tasks are told', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { taskEvents: true });
  await send(
    redis,
    { task: 'rejects', id: 'rejected' },
    { task: 'ignores', id: 'ignored' },
    { task: 'add', id: 'expired', headers: { expires: iso((await redisNow(redis)) - 1_000) } },
    { task: 'waits', id: 'terminated' },
  );
  const [, , , rejected] = await listener.life('rejected', [RECEIVED, STARTED, 'task-failed', 'task-rejected']);
  t.match(rejected, { requeue: false });
  await listener.life('ignored', [RECEIVED, STARTED]);
  const expired = await listener.heard(({ uuid, type }) => uuid === 'expired' && type === 'task-revoked');
  t.match(expired, { terminated: false, signum: null, expired: true });
  await listener.life('terminated', [RECEIVED, STARTED]);
  await broadcast(redis, new LogicalClock(), 'revoke', { task_id: 'terminated', terminate: true, signal: 'SIGTERM' });
  const [, , terminated] = await listener.life('terminated', [RECEIVED, STARTED, 'task-revoked']);
  t.match(terminated, { terminated: true, signum: 15, expired: false });
});

t.test('a late-acknowledged task that a cold shutdown leaves is told as cancelled', async (t) => {
  const listener = await listenToEvents(t, server);
  const worker = await startWorker(t, { taskEvents: true });
  await send(redis, { task: 'waits-late', id: 'a' });
  await listener.life('a', [RECEIVED, STARTED]);
  await worker.stopNow();
  await listener.life('a', [RECEIVED, STARTED, 'task-cancelled']);
  await listener.heard(({ type }) => type === 'worker-offline');
});

t.test('a task may say that nothing is to be told of it', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { taskEvents: true });
  await send(redis, { task: 'quiet', id: 'a' }, { task: 'add', id: 'b', args: [1, 2] });
  await listener.life('b', [RECEIVED, STARTED, 'task-succeeded']);
  t.same(listener.typesOf('a'), []);
});

t.test("a task's own events are sent whether task events are on or not", async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t);
  await send(redis, { task: 'tells', id: 'a' });
  const [progress, shipped] = await listener.life('a', ['task-progress', 'order-shipped']);
  t.match(progress, { percent: 50, hostname: 'w@here' });
  t.match(shipped, { order: 'ü' });
  t.ok(listener.messages.some(({ routingKey }) => routingKey === 'order.shipped'));
});

t.test('a type that is none fails the task that sends it', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { taskEvents: true });
  await send(redis, { task: 'babbles', id: 'a' });
  const [, , failed] = await listener.life('a', [RECEIVED, STARTED, 'task-failed']);
  t.match(failed, { exception: /^TypeError\('An event\\'s type|^TypeError\("An event's type/ });
});

t.test('task events are switched on and off while the worker runs', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t);
  const clock = new LogicalClock();
  const numberOf = (id: string) => listener.typesOf(id).length;
  await broadcast(redis, clock, 'enable_events', {});
  await eventually(async () => {
    await send(redis, { task: 'add', id: 'on', args: [1, 2] });
    assert.ok(numberOf('on') > 0);
  });
  await broadcast(redis, clock, 'disable_events', {});
  let probes = 0;
  await eventually(async () => {
    probes += 1;
    const id = `off-${probes}`;
    await send(redis, { task: 'add', id, args: [1, 2] });
    await eventually(async () => assert.ok(await redis.exists(`celery-task-meta-${id}`)));
    assert.equal(numberOf(id), 0);
  });
});

t.test('a heartbeat comes when it is asked for', async (t) => {
  const listener = await listenToEvents(t, server);
  await startWorker(t, { heartbeatInterval: 3_600 });
  await broadcast(redis, new LogicalClock(), 'heartbeat', {});
  const asked = await listener.heard(({ type, freq }) => type === 'worker-heartbeat' && freq === 5);
  t.same(
    Object.keys(asked),
    [...['hostname', 'utcoffset', 'pid', 'clock', 'freq', 'sw_ident', 'sw_ver', 'sw_sys'], ...['timestamp', 'type']],
    'what Celery tells when it is asked',
  );
});

interface Unit {
  readonly events: Events;
  readonly counts: EventCounts;
  readonly lines: readonly { readonly event: string; readonly events?: number }[];
}

/** Events of no worker. */
function makeEvents(t: Test, on: RedisServer): Unit {
  const connection = connect(on.url, { option: '--redis', name: 'events' });
  const lines: { event: string }[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const counts = { sent: 0, unheard: 0, dropped: 0 };
  const events = new Events({
    redis: connection,
    hostname: hostname(),
    clock: new LogicalClock(),
    isOn: true,
    tellsSent: false,
    heartbeatSec: 2,
    log,
    counts,
    nowMs: () => performance.timeOrigin + performance.now(),
    state: () => ({ active: 0, processed: 0, loadAverage: [0, 0, 0] }),
    onHeartbeat: () => {},
  });
  t.teardown(() => {
    events.close();
    connection.disconnect();
  });
  return { events, counts, lines };
}

t.test('what is told in one turn goes in one message, and messages are bounded', async (t) => {
  const listener = await listenToEvents(t, server);
  const { events, counts } = makeEvents(t, server);
  for (let i = 0; i < 10; i++) events.started(`a${i}`);
  events.flush();
  await events.idle();
  for (let i = 0; i < 10_000; i++) events.started(`b${i}`);
  for (let i = 0; i < 100; i++) events.failed(`c${i}`, 'x', 'y'.repeat(50_000));
  await events.idle();
  await eventually(() => assert.equal(listener.events.length, 10_110));
  t.equal(listener.messages[0]?.events, 10);
  for (const { events, bytes } of listener.messages) t.ok(events <= 2_000 && bytes < 2_000_000, `${events}, ${bytes}`);
  const ids = [
    ...Array.from({ length: 10 }, (_, i) => `a${i}`),
    ...Array.from({ length: 10_000 }, (_, i) => `b${i}`),
    ...Array.from({ length: 100 }, (_, i) => `c${i}`),
  ];
  t.same(
    listener.events.map(({ uuid }) => uuid),
    ids,
    'in their order',
  );
  t.same(counts, { sent: 10_110, unheard: 0, dropped: 0 });
});

t.test('what nobody hears is not sent, and who begins to listen misses nothing', async (t) => {
  const own = await withRedis(t);
  const { events, counts } = makeEvents(t, own);
  const tell = (name: string) => {
    for (let i = 0; i < 100; i++) events.started(`${name}${i}`);
  };
  tell('a');
  await events.idle();
  tell('b');
  await events.idle();
  t.same(counts, { sent: 101, unheard: 99, dropped: 0 }, 'of the second batch its first event');
  const listener = await listenToEvents(t, own);
  tell('c');
  await events.idle();
  tell('d');
  await events.idle();
  await eventually(() => assert.equal(listener.events.length, 200));
  t.same(
    listener.events.map(({ uuid }) => uuid),
    ['c', 'd'].flatMap((name) => Array.from({ length: 100 }, (_, i) => `${name}${i}`)),
  );
  t.same(
    listener.messages.map(({ events }) => events),
    [1, 99, 100],
  );
  t.same(counts, { sent: 301, unheard: 99, dropped: 0 });
});

t.test('what is told while Redis is away is sent when it is back', async (t) => {
  const own = await withRedis(t);
  const listener = await listenToEvents(t, own);
  const { events, counts } = makeEvents(t, own);
  events.started('before');
  await events.idle();
  await own.stop();
  for (let i = 0; i < 100; i++) {
    events.started(`a${i}`);
    events.flush();
    await turn();
  }
  await own.restart();
  await events.idle();
  t.equal(counts.sent + counts.unheard, 101);
  t.equal(counts.dropped, 0);
  t.equal(listener.typesOf('before').length, 1);
});

t.test(
  'what is too much to be kept for a Redis that is away is dropped from its oldest end, and counted',
  async (t) => {
    const own = await withRedis(t);
    const { events, counts, lines } = makeEvents(t, own);
    await own.stop();
    const told = 40_000;
    for (let i = 0; i < told; i++) events.failed(String(i), 'x', 'y'.repeat(2_000));
    events.flush();
    t.ok(counts.dropped > 0 && counts.dropped < told, `${counts.dropped} dropped`);
    await own.restart();
    await events.idle();
    t.equal(counts.sent + counts.unheard + counts.dropped, told);
    t.equal(lines.find(({ event }) => event === 'events_dropped')?.events, counts.dropped);
  },
);
