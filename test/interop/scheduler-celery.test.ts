import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { type LedgerLine, problemsOfOverlap } from '../faults/history-account.ts';
import { type CeleryPython, celeryPythons, runPython, startCeleryWorker } from '../support/celery.ts';
import { until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

interface Call {
  readonly id: string;
  readonly args: readonly unknown[];
  readonly kwargs: Readonly<Record<string, unknown>>;
  readonly ringbeat: { schedule: string; due: number; run: number; attempt: number };
}

async function put(beat: SpawnedBeat, id: string, spec: object): Promise<void> {
  const answer = await fetch(`${beat.api}/v1/schedules/${encodeURIComponent(id)}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(spec),
  });
  if (answer.status !== 201) throw new Error(await answer.text());
}

async function setUp(t: Test): Promise<{ url: string; redis: Redis; beat: SpawnedBeat }> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { url: server.url, redis, beat: await spawnBeat(t, server.url, ['--misfire-threshold', '600']) };
}

/** What the task `ledger` was called with, in order, once it was called so often. */
async function calls(redis: Redis, count: number): Promise<Call[]> {
  await until(async () => (await redis.llen('ledger')) >= count, `${count} calls`, { deadlineMs: 30_000 });
  return (await redis.lrange('ledger', 0, -1)).map((line) => JSON.parse(line));
}

async function allQueued(redis: Redis, count: number, queue = 'celery'): Promise<void> {
  const lists = [queue, ...[3, 6, 9].map((step) => `${queue}\x06\x16${step}`)];
  const queued = async () => {
    const lengths = await Promise.all(lists.map((list) => redis.llen(list)));
    return lengths.reduce((sum, length) => sum + length, 0);
  };
  await until(async () => (await queued()) === count, `${count} messages are queued`);
}

const PATIENT = { deadlineMs: 30_000, everyMs: 50 };

/** What the task `span` noted. */
async function spans(redis: Redis): Promise<LedgerLine[]> {
  return (await redis.lrange('spans', 0, -1)).map((line) => JSON.parse(line));
}

/** Results of tasks that failed with this message. */
async function failures(redis: Redis, message: string): Promise<number> {
  const keys = await redis.keys('celery-task-meta-*');
  const records = keys.length === 0 ? [] : await redis.mget(...keys);
  return records.filter((record) => record?.includes('"FAILURE"') && record.includes(message)).length;
}

async function stateOf(beat: SpawnedBeat, id: string): Promise<string> {
  return ((await (await fetch(`${beat.api}/v1/schedules/${id}`)).json()) as { readonly state: string }).state;
}

const ODD = 'héllo "世界" \\ \u{1f600}\n';

async function main(t: Test, celery: CeleryPython): Promise<void> {
  await t.test('a worker runs what is scheduled, with all that was given', async (t) => {
    const { url, redis, beat } = await setUp(t);
    await startCeleryWorker(t, celery, url, { queues: ['celery', 'video'] });
    await put(beat, `a/${ODD.trim()}`, {
      task: 'ledger',
      args: [1, 2.5, ODD, null, [true]],
      kwargs: { [ODD]: { deep: [ODD] }, plain: 'x' },
      queue: 'video',
      schedule: { in: 0 },
      options: { headers: { 'x-tenant': 'acme' }, time_limit: 30, soft_time_limit: 20, priority: 6 },
    });
    const [call] = await calls(redis, 1);
    t.same(call?.args, [1, 2.5, ODD, null, [true]]);
    t.same(call?.kwargs, { [ODD]: { deep: [ODD] }, plain: 'x' });
    t.match(call?.ringbeat, { schedule: `a/${ODD.trim()}`, run: 0, attempt: 1 });
    t.equal(Number.parseInt(call!.id.slice(-12), 16), call?.ringbeat.due);
  });

  await t.test('a worker runs an interval schedule again and again, each run once', async (t) => {
    const { url, redis, beat } = await setUp(t);
    await startCeleryWorker(t, celery, url);
    await put(beat, 'tick', { task: 'ledger', schedule: { every: 0.2 }, options: { expires: 3_600 } });
    const seen = await calls(redis, 8);
    const dues = seen.map(({ ringbeat }) => ringbeat.due);
    t.same(
      dues,
      dues.map((_, i) => dues[0]! + 200 * i),
    );
    t.equal(new Set(seen.map(({ id }) => id)).size, seen.length);
  });

  await t.test('results are kept where AsyncResult finds them, when they are asked for', async (t) => {
    const { url, redis, beat } = await setUp(t);
    await put(beat, 'sum', { task: 'add', args: [2, 3], schedule: { in: 0 }, options: { ignore_result: false } });
    await put(beat, 'ignored', { task: 'add', args: [2, 3], schedule: { in: 0 } });
    await put(beat, 'boom', {
      task: 'boom',
      args: ['no luck'],
      schedule: { in: 0 },
      options: { ignore_result: false },
    });
    await allQueued(redis, 3);
    const ids = new Map<string, string>();
    for (const message of await redis.lrange('celery', 0, -1)) {
      const { headers } = JSON.parse(message);
      ids.set(headers.ringbeat.schedule, headers.id);
    }
    await startCeleryWorker(t, celery, url);
    const answers = await runPython(
      t,
      celery,
      url,
      `import json
from ringbeat_test_app import app
from celery.result import AsyncResult
total = AsyncResult('${ids.get('sum')}', app=app).get(timeout=30)
failed = AsyncResult('${ids.get('boom')}', app=app)
try:
    failed.get(timeout=30)
except ValueError as error:
    print(json.dumps([total, failed.state, str(error)]))`,
    );
    t.same(JSON.parse(answers), [5, 'FAILURE', 'no luck']);
    await allQueued(redis, 0);
    t.equal(await redis.exists(`celery-task-meta-${ids.get('ignored')}`), 0);
  });

  await t.test('urgent messages are taken first, and expired ones are not run', async (t) => {
    const { url, redis, beat } = await setUp(t);
    for (const priority of [9, 0, 6, 3])
      await put(beat, `p${priority}`, { task: 'ledger', args: [priority], schedule: { in: 0 }, options: { priority } });
    await put(beat, 'expires', { task: 'ledger', args: ['late'], schedule: { in: 0 }, options: { expires: 0.5 } });
    await allQueued(redis, 5);
    const message = (await redis.lrange('celery', 0, -1)).find((raw) => raw.includes('"schedule": "expires"'))!;
    const expiresMs = Date.parse(JSON.parse(message).headers.expires);
    await until(() => Date.now() > expiresMs + 100, 'the message expires');
    await startCeleryWorker(t, celery, url);
    await put(beat, 'last', { task: 'ledger', args: ['last'], schedule: { in: 0 }, options: { priority: 9 } });
    t.same(
      (await calls(redis, 5)).map(({ args }) => args[0]),
      [0, 3, 6, 9, 'last'],
    );
  });

  await t.test('loops go on by the results that a worker stores, in the way that tasks say', async (t) => {
    const { url, redis, beat } = await setUp(t);
    await startCeleryWorker(t, celery, url, { pool: 'threads', concurrency: 4 });
    const retry = { delay: 0.2, max_delay: 0.2 };
    await put(beat, 'plain', { task: 'echo', args: ['plain'], schedule: { after: 0.3 } });
    await put(beat, 'wishes', { task: 'echo', args: [{ ringbeat: { after: 0.3 } }], schedule: { after: 3_600 } });
    await put(beat, 'stops', { task: 'echo', args: [{ ringbeat: { stop: true } }], schedule: { after: 0.3 } });
    await put(beat, 'fails', { task: 'boom', args: ['no luck'], schedule: { after: 3_600, retry } });
    await put(beat, 'bounded', { task: 'echo', args: ['bounded'], schedule: { after: 0.1 }, max_runs: 3 });
    await put(beat, 'spans', { task: 'span', args: [0.1], schedule: { after: 0.1 } });
    const echoed = async (text: string) =>
      (await redis.lrange('echoed', 0, -1)).filter((value) => value.includes(text)).length;
    await until(async () => (await echoed('plain')) >= 4 && (await echoed('after')) >= 4, 'two loops go on', PATIENT);
    await until(async () => (await failures(redis, 'no luck')) >= 4, 'the one that fails goes on', PATIENT);
    await until(async () => (await spans(redis)).length >= 10, 'the one that takes time goes on', PATIENT);
    for (const id of ['stops', 'bounded'])
      await until(async () => (await stateOf(beat, id)) === 'completed', `${id} is completed`, PATIENT);
    t.equal(await echoed('stop'), 1);
    t.equal(await echoed('bounded'), 3);
    t.same(problemsOfOverlap(await spans(redis), new Set()), []);
  });

  await t.test('runs do not overlap where they must not, and what is due meanwhile is skipped or waits', async (t) => {
    const { url, redis, beat } = await setUp(t);
    await startCeleryWorker(t, celery, url, { pool: 'threads', concurrency: 4 });
    const spec = { task: 'span', args: [0.5], schedule: { every: 0.2 } };
    await put(beat, 'skips', { ...spec, overlap: 'skip' });
    await put(beat, 'buffers', { ...spec, overlap: 'buffer_one' });
    const duesOf = async (id: string) => {
      const lines = (await spans(redis)).filter(({ schedule, is }) => schedule === id && is === 'start');
      return lines.map(({ due }) => due);
    };
    for (const id of ['skips', 'buffers'])
      await until(async () => (await duesOf(id)).length >= 6, `${id} runs six times`, PATIENT);
    t.same(problemsOfOverlap(await spans(redis), new Set()), []);
    const gaps = (dues: readonly number[]) => dues.slice(1).map((due, i) => due - dues[i]!);
    // A run that was skipped is gone; the earliest that was kept waiting is the one due right after the run in flight.
    t.ok(gaps(await duesOf('skips')).every((gap) => gap >= 600 && gap % 200 === 0));
    t.ok(gaps(await duesOf('buffers')).every((gap) => gap >= 200 && gap % 200 === 0));
    t.equal(gaps(await duesOf('buffers'))[0], 200);
    t.match(await (await fetch(`${beat.api}/v1/schedules/skips/runs`)).text(), /"outcome": ?"skipped"/);
  });

  await t.test('a worker is killed: its runs count as ended when they can no longer be running', async (t) => {
    const { url, redis, beat } = await setUp(t);
    const options = { expires: 1, time_limit: 2 };
    const worker = await startCeleryWorker(t, celery, url, { pool: 'threads', concurrency: 4 });
    await put(beat, 'early', { task: 'span', args: [60], schedule: { after: 0.2 }, options });
    await put(beat, 'late', { task: 'span_late', args: [60], schedule: { after: 0.2 }, options });
    await put(beat, 'skips', { task: 'span', args: [60], schedule: { every: 0.5 }, overlap: 'skip', options });
    const begun = async () => (await spans(redis)).filter(({ is }) => is === 'start');
    await until(async () => (await begun()).length === 3, 'all run', PATIENT);
    worker.kill('SIGKILL');
    await worker.exited;
    const sent = async () => (await redis.lrange('celery', 0, -1)).map((message) => JSON.parse(message).headers);
    await until(async () => (await sent()).length === 3, 'all are sent again', PATIENT);
    for (const { id, ringbeat } of await sent()) {
      const first = (await begun()).find(({ schedule }) => schedule === ringbeat.schedule)!;
      t.not(id, first.id, 'as another run');
      t.ok(ringbeat.due - first.due >= 13_000, 'and not while the first may have been running');
    }
  });

  await t.test("Celery's tools see the queue and all its messages", async (t) => {
    const { url, redis, beat } = await setUp(t);
    for (const priority of [0, 3, 9])
      await put(beat, `p${priority}`, { task: 'ledger', queue: 'video', schedule: { in: 0 }, options: { priority } });
    await allQueued(redis, 3, 'video');
    const answers = await runPython(
      t,
      celery,
      url,
      `import json
from ringbeat_test_app import app
with app.connection_for_read() as connection:
    channel = connection.default_channel
    print(json.dumps([sorted(channel.get_table('video')), channel._size('video'), channel.queue_purge('video')]))`,
    );
    t.same(JSON.parse(answers), [[['video', '', 'video']], 3, 3]);
    await allQueued(redis, 0, 'video');
  });
}

for (const celery of await celeryPythons(t)) {
  await t.test(`Celery ${celery.version}`, { timeout: 180_000 }, (t) => main(t, celery));
}
