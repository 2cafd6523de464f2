import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { type CeleryPython, celeryPythons, runPython, startCeleryWorker } from '../support/celery.ts';
import { until } from '../support/eventually.ts';
import { put, setUp } from './scheduler-stage.ts';

interface Call {
  readonly id: string;
  readonly args: readonly unknown[];
  readonly kwargs: Readonly<Record<string, unknown>>;
  readonly ringbeat: { schedule: string; due: number; run: number; attempt: number };
}

/** What the task `ledger` was called with, in order, once it was called so often. */
async function calls(redis: Redis, count: number): Promise<Call[]> {
  await until(async () => (await redis.llen('ledger')) >= count, `${count} calls`);
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

const ODD = 'héllo "世界" \\ \u{1f600}\n';

async function main(t: Test, celery: CeleryPython): Promise<void> {
  // Each test has a Redis of its own, and mostly waits.
  t.jobs = 3;
  t.test('a worker runs what is scheduled, with all that was given', async (t) => {
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

  t.test('a worker runs an interval schedule again and again, each run once', async (t) => {
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

  t.test('results are kept where AsyncResult finds them, when they are asked for', async (t) => {
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

  t.test('urgent messages are taken first, and expired ones are not run', async (t) => {
    const { url, redis, beat } = await setUp(t);
    for (const priority of [9, 0, 6, 3])
      await put(beat, `p${priority}`, { task: 'ledger', args: [priority], schedule: { in: 0 }, options: { priority } });
    await put(beat, 'expires', { task: 'ledger', args: ['late'], schedule: { in: 0 }, options: { expires: 2 } });
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

  t.test("Celery's tools see the queue and all its messages", async (t) => {
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
  await t.test(`Celery ${celery.version}`, { timeout: 600_000 }, (t) => main(t, celery));
}
