import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { Client, type ListFilter, type ScheduleInput, SpecError, setDefaultClient, task, Worker } from '../../index.ts';
import { eventually } from '../support/eventually.ts';
import { spawnBeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));

async function setUp(t: Test): Promise<{ server: RedisServer; client: Client; redis: Redis }> {
  const server = await withRedis(t);
  await spawnBeat(t, server.url);
  await spawnWorker(t, server.url, ['--tasks', TASKS], { env: { RINGBEAT_TEST_REDIS: server.url } });
  const client = new Client({ redis: server.url, default: false });
  t.teardown(() => client.close());
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { server, client, redis };
}

const { server, client, redis } = await setUp(t);
const { schedules } = client;

const FAR = new Date('2098-01-01T00:00:00Z');

const at = (id: string, more: Partial<ScheduleInput> = {}): ScheduleInput => ({
  id,
  task: 'x',
  schedule: { at: FAR },
  ...more,
});

t.test('a schedule is created, read, changed, paused, resumed and removed', async (t) => {
  const created = await schedules.create(at('a', { args: [1n, 'x', new Date(0)], start: new Date(1_000) }));
  t.match(created, { id: 'a', state: 'scheduled', nextRunAt: FAR, lastRunAt: null, runs: null });
  t.same(created.spec.args, [1, 'x', '1970-01-01T00:00:00.000Z']);
  t.equal(created.spec.start, '1970-01-01T00:00:01.000Z');
  await t.rejects(schedules.create(at('a')), { code: 'SCHEDULE_EXISTS', values: { id: 'a', namespace: 'rb' } });
  t.match(
    (await schedules.create({ task: 'x', schedule: { in: 60 } })).id,
    /^[0-9a-f-]{36}$/,
    'without an id it gets one',
  );

  t.match((await schedules.update('a', { args: [2], start: null })).spec, { args: [2], start: null, task: 'x' });
  t.same((await schedules.get('a'))?.spec.args, [2]);
  t.equal(await schedules.pause('a'), true);
  t.equal(await schedules.pause('a'), false, 'it was paused already');
  t.match(await schedules.get('a'), { state: 'paused', nextRunAt: null });
  t.equal(await schedules.resume('a'), true);
  t.equal(await schedules.remove('a'), true);
  t.equal(await schedules.remove('a'), false);
  t.equal(await schedules.get('a'), null);
});

t.test('put creates, updates, or leaves alone', async (t) => {
  t.equal(await schedules.put(at('put')), 'created');
  t.equal(await schedules.put(at('put')), 'unchanged');
  t.equal(await schedules.put(at('put', { queue: 'other' })), 'updated');
});

t.test('many are put from whatever can be iterated over, and listed again', async (t) => {
  async function* specs(): AsyncGenerator<ScheduleInput> {
    for (let n = 0; n < 2_500; n++)
      yield at(`${n % 2 === 0 ? 'even' : 'odd'}/${n}`, { queue: 'many', tags: [`t${n % 5}`] });
    yield at('even/0', { queue: 'last' });
    yield { ...at('bad'), schedule: { every: -1 } };
    yield { ...at('worse'), args: [Number.NaN] };
  }
  const summary = await schedules.putMany(specs());
  t.match(summary, { created: 2_500, updated: 1, unchanged: 0, failed: 2 });
  t.match(summary.errors, [
    { position: 2_501, id: 'bad', message: /schedule\.every/ },
    { position: 2_502, message: /NaN/ },
  ]);
  const ids = async (filter: ListFilter) => {
    const found = new Set<string>();
    for await (const { id } of schedules.list(filter)) found.add(id);
    return found;
  };
  t.equal((await ids({ queue: 'many' })).size, 2_499);
  t.equal((await ids({ prefix: 'even/', tag: 't0' })).size, 249);
  t.same([...(await ids({ queue: 'last' }))], ['even/0'], 'of several with one id the last wins');
  t.same(await schedules.putMany([]), { created: 0, updated: 0, unchanged: 0, failed: 0, errors: [] });
});

t.test('what is not valid is refused with the fields that are to blame, and nothing is stored', async (t) => {
  const error = await schedules.put({ ...at('a'), schedule: { cron: '* * *' } }).catch((error: unknown) => error);
  t.ok(error instanceof SpecError);
  t.match(error, { code: 'BAD_SPEC', errors: [{ path: 'schedule.cron' }] });
  const circular: unknown[] = [];
  circular.push(circular);
  for (const args of [[Number.POSITIVE_INFINITY], [() => 1], circular]) {
    await t.rejects(schedules.put(at('a', { args })), { code: 'BAD_SPEC' });
  }
  await schedules.put(at('b'));
  await t.rejects(schedules.update('b', { schedule: { at: 'soon' } }), {
    code: 'BAD_SPEC',
    errors: [{ path: 'schedule.at' }],
  });
  await t.rejects(schedules.update('b', { id: 'c' }), { code: 'BAD_SPEC', errors: [{ path: 'id' }] });
  t.same(await schedules.get('a'), null);
});

t.test('what there is not is said', async (t) => {
  const acts: readonly (() => Promise<unknown>)[] = [
    () => schedules.pause('x'),
    () => schedules.resume('x'),
    () => schedules.update('x', {}),
    () => schedules.next('x'),
    () => schedules.trigger('x'),
    () => schedules.runs('x'),
    () => schedules.backfill('x', { from: new Date(0), to: new Date(1) }),
  ];
  for (const act of acts) {
    await t.rejects(act(), { code: 'NO_SCHEDULE', values: { id: 'x', namespace: 'rb' } });
  }
  const stranger = new Client({ redis: (await withRedis(t)).url, namespace: 'nobody', default: false });
  t.teardown(() => stranger.close());
  await t.rejects(stranger.schedules.get('x'), { code: 'NAMESPACE_GONE' });
  await t.rejects(stranger.send('x'), { code: 'NAMESPACE_GONE' });
  t.throws(() => new Client('http://x'), { code: 'BAD_URL' });
});

t.test('next runs are told, a run is triggered, and past ones are sent after all', async (t) => {
  await schedules.put({ id: 'p', task: 'x', schedule: { every: 3600, phase: 0 }, queue: 'q', enabled: false });
  t.same(await schedules.next('p'), [], 'none while it is paused');
  await schedules.resume('p');
  const after = new Date('2027-01-01T00:00:00Z');
  t.same(await schedules.next('p', { after, count: 2 }), [
    new Date('2027-01-01T01:00:00Z'),
    new Date('2027-01-01T02:00:00Z'),
  ]);
  const taskId = await schedules.trigger('p');
  t.match(taskId, /^[0-9a-f-]{36}$/);
  await eventually(async () => assert.equal((await schedules.runs('p'))[0]?.taskId, taskId));
  t.match(await schedules.runs('p', { limit: 1 }), [{ due: Date, dispatchedAt: Date, outcome: 'sent' }]);
  t.equal(await schedules.backfill('p', { from: after, to: new Date('2027-01-01T04:00:00Z') }), 4);
  await t.rejects(schedules.backfill('p', { from: new Date(0), to: after }), { code: 'BACKLOG_FULL' });
  await eventually(async () => assert.equal(await redis.llen('q'), 5));
});

t.test('a task is sent by name, and its result comes back', async (t) => {
  const sum = await client.send<number>('add', { args: [2, 3] });
  t.equal(await sum.get(20), 5);
  t.match(await sum.result(), { taskId: sum.id, state: 'SUCCESS', result: 5, eta: null });
  t.match(await client.waitFor(sum.id, 1), { state: 'SUCCESS', result: 5 });

  const failing = await client.send('boom', { args: ['no'] });
  await t.rejects(failing.get(20), { code: 'TASK_FAILED', values: { state: 'FAILURE', reason: /ValueError.*no/ } });
  t.match(await client.waitFor(failing.id, 1), { state: 'FAILURE', result: { exc_type: 'ValueError' } });
});

t.test('a task waits for its countdown or eta, and is revoked until then', async (t) => {
  t.equal(await (await client.send('add', { args: [1, 1], countdown: 0.3 })).get(20), 2);
  const later = await client.send('add', { args: [1, 1], eta: FAR });
  t.match(await later.result(), { state: 'SCHEDULED', eta: FAR });
  await t.rejects(later.get(0.2), { code: 'TASK_NOT_ENDED', values: { state: 'SCHEDULED' } });
  await later.revoke();
  await t.rejects(later.get(20), { code: 'TASK_FAILED', values: { state: 'REVOKED' } });
});

t.test('a task that cannot be sent is refused', async (t) => {
  const bad = { code: 'BAD_SPEC' };
  await t.rejects(client.send('', {}), bad);
  await t.rejects(client.send('x', { eta: 'soon' }), { ...bad, errors: [{ path: 'eta' }] });
  await t.rejects(client.send('x', { eta: FAR, countdown: 1 }), bad);
  await t.rejects(client.send('x', { options: { priority: 10 } }), { ...bad, errors: [{ path: 'options.priority' }] });
  await redis.set('taken', 'x');
  await t.rejects(client.send('x', { queue: 'taken' }), { code: 'BAD_QUEUE', values: { queue: 'taken' } });
  await redis.hset('rb:meta', 'queue_cap', '1');
  await eventually(async () => {
    await assert.rejects(
      async () => {
        await client.send('x', { queue: 'small' });
      },
      { code: 'QUEUE_FULL' },
    );
  });
});

t.test('tasks are sent by the client made last, until it is closed, or by the one that is given', async (t) => {
  const add = task('add', (_ctx, x: number, y: number) => x + y);
  const ignored = task('note', () => 'x', { ignoreResult: true });

  setDefaultClient(null);
  await t.rejects(add.delay(1, 2), { code: 'NO_CLIENT', values: { task: 'add' } });
  const silent = new Client({ redis: server.url, default: false });
  await t.rejects(add.delay(1, 2), { code: 'NO_CLIENT' });
  t.equal(await (await add.applyAsync([1, 2], { client: silent })).get(20), 3);
  await silent.close();

  const client = new Client(server.url);
  t.equal(await (await add.delay(1, 2)).get(20), 3);
  t.equal(await (await add.applyAsync([3, 4], { countdown: 0.1 })).get(20), 7);
  const handle = await ignored.delay();
  await t.rejects(handle.get(0.5), { code: 'TASK_NOT_ENDED' }, 'a task that ignores its result is sent so');
  await client.close();
  await t.rejects(add.delay(1, 2), { code: 'NO_CLIENT' });
  await t.rejects(client.waitFor('x', 1), 'a client that was closed does nothing more');
});

t.test('a task that runs in a worker sends others without a client of its own', async (t) => {
  const add = task('inner.add', (_ctx, x: number, y: number) => x + y);
  const outer = task('outer', async (_ctx, x: number) => (await add.applyAsync([x, 1], { queue: 'nested' })).id);
  const worker = new Worker({ redis: server.url, queues: ['nested'] }, pino({ level: 'silent' }));
  await worker.start();
  const sent = await outer.applyAsync([41], { client, queue: 'nested' });
  t.equal(await client.handle(await sent.get(20)).get(20), 42);
  await worker.stop();
  await t.rejects(add.delay(1, 1), { code: 'NO_CLIENT' }, 'the client goes with the worker');
});

t.test('a client finds the namespace again when it was created anew', async (t) => {
  const mine = await withRedis(t);
  const beat = await spawnBeat(t, mine.url);
  const stale = new Client({ redis: mine.url, default: false });
  t.teardown(() => stale.close());
  const connection = mine.connect();
  t.teardown(() => connection.disconnect());
  await stale.schedules.put(at('a'));
  await beat.stop();
  await connection.flushall();
  await t.rejects(stale.schedules.put(at('a')), { code: 'NAMESPACE_GONE' });
  await spawnBeat(t, mine.url, ['--shards', '3']);
  t.equal(await stale.schedules.put(at('a')), 'created');
});

/** Never called: what the compiler has to say about it is the test. */
export function typesAreKept(): void {
  const check = task('check', async (_ctx, id: number, name?: string) => ({ id, name }));
  void check.delay(1);
  void check.delay(1, 'x');
  void check.applyAsync([1, 'x'], { queue: 'q', countdown: 5, options: { priority: 3 } });
  void check
    .delay(1)
    .then((handle) => handle.get(1))
    .then(({ id }) => id.toFixed());
  // @ts-expect-error an argument is missing
  void check.delay();
  // @ts-expect-error it is of another type
  void check.delay('1');
  // @ts-expect-error there is one too many
  void check.delay(1, 'x', 2);
  // @ts-expect-error args are a list
  void check.applyAsync(1);
  // @ts-expect-error there is no such option
  void check.applyAsync([1], { cuntdown: 5 });
  void client.schedules.put({ id: 'a', task: 'x', schedule: { cron: '* * * * *' }, kwargs: { a: [1] } });
  // @ts-expect-error it does not say when
  void client.schedules.put({ id: 'a', task: 'x' });
  // @ts-expect-error there is no such kind
  void client.schedules.put({ id: 'a', task: 'x', schedule: { evry: 5 } });
  // @ts-expect-error there is no such field
  void client.schedules.put({ id: 'a', task: 'x', schedule: { every: 5 }, queu: 'q' });
  // @ts-expect-error there is no such policy
  void client.schedules.put({ id: 'a', task: 'x', schedule: { every: 5 }, overlap: 'never' });
}
