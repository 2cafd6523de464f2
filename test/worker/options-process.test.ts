import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { hostname as machineName, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { resultKey } from '../../lua/keys.ts';
import { eventually } from '../support/eventually.ts';
import { type Spawned, spawnRingbeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { listenToEvents } from './events-listener.ts';
import { send } from './messages.ts';
import { recordIn, startRig } from './worker-rig.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('./sample-tasks.js', import.meta.url));
const POOL_TASKS = fileURLToPath(new URL('./pool-tasks.js', import.meta.url));

interface Setting {
  readonly server: RedisServer;
  readonly redis: Redis;
  start(...args: string[]): Promise<Spawned>;
}

async function setUp(t: Test): Promise<Setting> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const start = (...args: string[]) =>
    spawnWorker(t, server.url, ['--tasks', TASKS, ...args], { env: { RINGBEAT_TEST_REDIS: server.url } });
  return { server, redis, start };
}

async function ended(redis: Redis, id: string): Promise<void> {
  await eventually(async () => assert.equal(await redis.exists(resultKey(id)), 1, `${id} has no result yet`));
}

const REFUSED: readonly (readonly [readonly string[], RegExp])[] = [
  [['--soft-time-limit', '10', '--time-limit', '5'], /--soft-time-limit must not be above --time-limit, got 10 and 5/],
  [['--without-heartbeat', '--heartbeat-interval', '1'], /--without-heartbeat leaves no heartbeat .* Leave out one/],
  [['-Q', 'a,b', '-X', 'b,a'], /at least one queue: name one in --queues that --exclude-queues does not leave out/],
  [['-X', 'a"b'], /--exclude-queues: "a\\"b" is no queue name/],
  [['--default-queue', 'a"b'], /--default-queue: "a\\"b" is no queue name/],
  [['-n', ''], /--hostname must be a text/],
  [['--result-expires', '-1'], /whole number from 0/],
  [['--concurency', '5'], /unknown option '--concurency'\n.*--concurrency/],
];
for (const [args, text] of REFUSED) {
  t.test(`worker ${args.join(' ')} is refused`, async (t) => {
    const worker = await spawnRingbeat(t, ['worker', '--redis', 'redis://127.0.0.1:1/0', '--tasks', TASKS, ...args]);
    t.same(await worker.exited, { code: 2, signal: null });
    t.match(worker.stderr, text);
    t.notMatch(worker.stderr, /\n +at /, 'no stack trace');
  });
}

t.test('options are spelled as celery worker spells them', async (t) => {
  const { redis, server } = await setUp(t);
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-options-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const [pidfile, state] = [join(folder, 'w.pid'), join(folder, '%n.state')];
  // As in a unit of Celery's own documentation, but for -A.
  const common = '-n w1@%h -Q celery,video -X video -c 2 -l INFO -E --time-limit 300 --soft-time-limit 200';
  const more =
    '--heartbeat-interval 1 --without-gossip --without-mingle --max-tasks-per-child 9 --max-memory-per-child 900000';
  const args = [...`${common} ${more}`.split(' '), '-P', 'processes', `--pidfile=${pidfile}`, '-S', state];
  const env = { RINGBEAT_TEST_REDIS: server.url };
  const worker = await spawnRingbeat(t, ['worker', '--redis', server.url, '--tasks', TASKS, ...args], { env });
  t.match(await worker.logged('worker_ready'), {
    hostname: /^w1@/,
    queues: ['celery'],
    pool: 'processes',
    concurrency: 2,
  });
  t.equal(readFileSync(pidfile, 'utf8').trim(), String(worker.pid));
  await send(redis, { task: 'add', id: 'sum', args: [1, 2] });
  await ended(redis, 'sum');
  t.same(await worker.stop(), { code: 0, signal: null });
  t.same(readdirSync(folder), ['w1.state']);
});

t.test('what is refused is called what it was called: a variable of the environment by its name', async (t) => {
  const env = { RINGBEAT_CONCURRENCY: '5', RINGBEAT_POOL: 'solo' };
  const worker = await spawnRingbeat(t, ['worker', '--tasks', TASKS], { env });
  t.same(await worker.exited, { code: 2, signal: null });
  t.match(worker.stderr, /^error: RINGBEAT_POOL=solo runs one task at a time, whatever RINGBEAT_CONCURRENCY says\./);
  t.match(worker.stderr, /Use RINGBEAT_POOL=async, or leave RINGBEAT_CONCURRENCY out\./);
});

t.test('AUTOSCALE_KEEPALIVE that is no number is refused', async (t) => {
  const args = ['worker', '--tasks', TASKS, '--autoscale', '3,1'];
  const worker = await spawnRingbeat(t, args, { env: { AUTOSCALE_KEEPALIVE: 'abc' } });
  t.same(await worker.exited, { code: 2, signal: null });
  t.match(
    worker.stderr,
    /AUTOSCALE_KEEPALIVE in the environment must be a number of seconds .* got "abc"\. Correct it/,
  );
});

t.test('-X leaves a queue out, whose messages stay where they are', async (t) => {
  const { redis, start } = await setUp(t);
  const worker = await start('-Q', 'a,b,c', '-X', 'b');
  t.same((await worker.logged('worker_ready')).queues, ['a', 'c']);
  await send(redis, { id: 'left', queue: 'b' }, { id: 'first', queue: 'a' }, { id: 'second', queue: 'c' });
  for (const id of ['first', 'second']) await ended(redis, id);
  t.equal(await redis.llen('b'), 1);
  t.equal(await redis.exists('_kombu.binding.b'), 0, 'nor is it shown as one that is consumed');
});

t.test('-n %h, %n and %d are the host, its first part and the rest, in every place the name is shown', async (t) => {
  const { server, start } = await setUp(t);
  const listener = await listenToEvents(t, server);
  const host = machineName();
  const [first = '', ...rest] = host.split('.');
  const worker = await start('-n', 'w1-%n.%d%%@%h');
  const name = `w1-${first}.${rest.join('.')}%@${host}`;
  t.equal((await worker.logged('worker_ready')).hostname, name);
  await listener.heard(({ type, hostname }) => type === 'worker-online' && hostname === name);
});

t.test('--default-queue is where tasks of workflows go that name no queue', async (t) => {
  const { redis, start } = await setUp(t);
  await start('-Q', 'own', '--default-queue', 'follow-ups');
  const signature = (options: object) =>
    ({ task: 'note', args: [], kwargs: {}, options, subtask_type: null, immutable: true }) as never;
  await send(
    redis,
    { id: 'a', queue: 'own', embed: { callbacks: [signature({ task_id: 'nowhere' })] } },
    { id: 'b', queue: 'own', embed: { callbacks: [signature({ task_id: 'somewhere', queue: 'named' })] } },
  );
  for (const id of ['a', 'b']) await ended(redis, id);
  const idsIn = async (queue: string) =>
    (await redis.lrange(queue, 0, -1)).map((envelope) => JSON.parse(envelope).headers.id);
  t.same([await idsIn('follow-ups'), await idsIn('named'), await idsIn('celery')], [['nowhere'], ['somewhere'], []]);
});

t.test('--result-expires says for how long results are kept, 0 for ever', async (t) => {
  const { redis, start } = await setUp(t);
  await start('-Q', 'short', '--result-expires', '120');
  await start('-Q', 'long', '--result-expires', '0', '-n', 'other@%h');
  await start('-Q', 'plain', '-n', 'third@%h');
  for (const queue of ['short', 'long', 'plain']) {
    await send(redis, { id: `good-${queue}`, queue }, { task: 'boom', id: `bad-${queue}`, queue, args: ['x'] });
  }
  for (const [queue, most] of [
    ['short', 120],
    ['plain', 86_400],
  ] as const) {
    for (const id of [`good-${queue}`, `bad-${queue}`]) {
      await ended(redis, id);
      const seconds = await redis.ttl(resultKey(id));
      t.ok(seconds > most / 2 && seconds <= most, `${id}: ${seconds} s`);
    }
  }
  for (const id of ['good-long', 'bad-long']) {
    await ended(redis, id);
    t.equal(await redis.ttl(resultKey(id)), -1, `${id} stays`);
  }
});

t.test('--without-gossip listens to no other worker', async (t) => {
  const { redis, start } = await setUp(t);
  const deaf = await start('--without-gossip', '-n', 'deaf@%h');
  t.equal(await redis.pubsub('NUMPAT'), 0);
  const hearing = await start('-n', 'hearing@%h');
  t.equal(await redis.pubsub('NUMPAT'), 1);
  const third = await start('-n', 'third@%h');
  await eventually(() =>
    assert.ok(hearing.log.some(({ event, node }) => event === 'peer_joined' && /^third@/.test(`${node}`))),
  );
  await third.stop();
  await hearing.logged('peer_left');
  await deaf.stop();
  t.notOk(deaf.log.some(({ event }) => event?.startsWith('peer_')));
});

t.test('--without-heartbeat tells monitors nothing of the worker, but its tasks', async (t) => {
  const { server, redis, start } = await setUp(t);
  const listener = await listenToEvents(t, server);
  const worker = await start('--without-heartbeat', '-E');
  await send(redis, { task: 'note', id: 'a' });
  await listener.life('a', ['task-received', 'task-started', 'task-succeeded']);
  t.same(await worker.stop(), { code: 0, signal: null });
  t.notOk(listener.events.some(({ type }) => type.startsWith('worker-')));
});

t.test('a program that names its tasks modules need not load them itself, whatever the pool is', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  for (const pool of ['async', 'processes'] as const) {
    await startRig(t, server, { pool, concurrency: 1, tasks: [POOL_TASKS], queues: [pool], hostname: `${pool}@here` });
    await send(redis, { task: 'add', id: pool, queue: pool, args: [2, 3] });
    t.match(await recordIn(redis, pool), { status: 'SUCCESS', result: 5 });
  }
});
