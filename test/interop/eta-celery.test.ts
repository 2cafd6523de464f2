import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { resultKey, shardKeys } from '../../lua/keys.ts';
import { listParked } from '../../lua/list-parked.ts';
import { type CeleryPython, celeryPythons, runPython, startCeleryWorker } from '../support/celery.ts';
import { eventually, until } from '../support/eventually.ts';
import { type Spawned, spawnBeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { whereabouts } from '../worker/messages.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));

function startWorker(t: Test, server: RedisServer, ...args: string[]): Promise<Spawned> {
  return spawnWorker(t, server.url, ['--tasks', TASKS, ...args], { env: { RINGBEAT_TEST_REDIS: server.url } });
}

/** What Celery's command line prints. */
function celeryCommand(t: Test, celery: CeleryPython, server: RedisServer, ...args: string[]): Promise<string> {
  const code = `
import json, subprocess, sys
command = [sys.executable, '-m', 'celery', '-A', 'ringbeat_test_app', *json.loads(${JSON.stringify(JSON.stringify(args))})]
done = subprocess.run(command, capture_output=True, text=True)
if done.returncode != 0: raise SystemExit(done.stdout + done.stderr)
print(done.stdout)
`;
  return runPython(t, celery, server.url, code);
}

async function parkedCount(redis: Redis): Promise<number> {
  const shards = Array.from({ length: 16 }, (_, shard) => shardKeys('rb', shard));
  const counts = await Promise.all(shards.map(({ parked }) => redis.hlen(parked)));
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Sends this many ledger tasks, each with an eta between these times from when it is sent, s. */
function sendWithEtas(count: number, from: number, to: number, options = ''): string {
  return `
import random
from datetime import datetime, timedelta, timezone
from ringbeat_test_app import app
rng = random.Random(4711)
with app.producer_pool.acquire() as producer:
    for n in range(${count}):
        eta = datetime.now(timezone.utc) + timedelta(seconds=rng.uniform(${from}, ${to}))
        app.send_task('ledger', (n,), eta=eta, task_id='task-%05d' % n, producer=producer${options})
`;
}

const [oldest, ...others] = await celeryPythons(t);
const pythons = [oldest!, ...others];

/** Starting Celery takes seconds, more where the machine is busy. */
const TIMEOUT = { timeout: 600_000 };

t.test(
  '10,000 ETA tasks run once each though the visibility timeout is shorter than their eta and a worker is killed half way',
  TIMEOUT,
  async (t) => {
    const celery = pythons.at(-1)!;
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    await spawnBeat(t, server.url, ['--create-at-once']);
    const workerArgs = ['--visibility-timeout', '2', '--acks-late', '-c', '50'];
    const workers = [await startWorker(t, server, ...workerArgs), await startWorker(t, server, ...workerArgs)];
    const sending = runPython(t, celery, server.url, sendWithEtas(10_000, 10, 16), {
      transportOptions: { visibility_timeout: 2 },
      deadlineMs: 500_000,
    });
    // In the middle of the sending, while it holds some that are not parked yet. Where Celery is slow, the first have run.
    const parkedOrRan = async () => (await parkedCount(redis)) + (await redis.llen('ran'));
    await until(async () => (await parkedOrRan()) >= 1_000, 'some are parked', { everyMs: 50 });
    workers[0]!.kill('SIGKILL');
    await sending;
    await eventually(async () => assert.ok((await redis.llen('ran')) >= 10_000), { everyMs: 100 });
    const ids = await redis.lrange('ran', 0, -1);
    const counts = new Map<string, number>();
    for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
    t.equal(counts.size, 10_000, 'none is lost');
    t.same(
      [...counts].filter(([, count]) => count > 1),
      [],
      'none ran twice',
    );
    await eventually(async () => {
      assert.deepEqual(await whereabouts(redis), { queued: 0, unacked: 0, index: 0, dead: 0 });
      assert.equal(await parkedCount(redis), 0);
    });
  },
);

for (const celery of pythons) {
  t.test(
    `Celery ${celery.version} pings, inspects and revokes what the bundled worker has parked`,
    TIMEOUT,
    async (t) => {
      const server = await withRedis(t);
      const redis = server.connect();
      t.teardown(() => redis.disconnect());
      await spawnBeat(t, server.url, ['--create-at-once']);
      await startWorker(t, server, '-n', 'rb@host');
      await runPython(t, celery, server.url, sendWithEtas(20, 3_600, 7_200));
      await until(async () => (await listParked(redis, 'rb', 16, ['celery'], 100)).length === 20, 'all are parked');

      t.same(JSON.parse(await celeryCommand(t, celery, server, 'inspect', 'ping', '--json')), {
        'rb@host': { ok: 'pong' },
      });
      const scheduled = JSON.parse(await celeryCommand(t, celery, server, 'inspect', 'scheduled', '--json'))['rb@host'];
      t.equal(scheduled.length, 20);
      t.match(scheduled[0], { eta: /\+00:00$/, priority: 6, request: { name: 'ledger', hostname: 'rb@host' } });
      t.match(await celeryCommand(t, celery, server, 'inspect', 'scheduled'), /'name': 'ledger'/);

      const revoked = await celeryCommand(t, celery, server, 'control', 'revoke', 'task-00003', 'task-00005');
      t.match(revoked, /rb@host: OK\s+tasks task-00003, task-00005 flagged as revoked/);
      await until(async () => (await listParked(redis, 'rb', 16, ['celery'], 100)).length === 18, 'they are gone');
      const states = await runPython(
        t,
        celery,
        server.url,
        `
from ringbeat_test_app import app
print([app.AsyncResult(id).state for id in ('task-00003', 'task-00004', 'task-00005')])`,
      );
      t.equal(states.trim(), "['REVOKED', 'PENDING', 'REVOKED']");
    },
  );

  t.test(
    `beat nodes park what Celery ${celery.version} sends to a delayed queue, for its own workers`,
    TIMEOUT,
    async (t) => {
      const server = await withRedis(t);
      const redis = server.connect();
      t.teardown(() => redis.disconnect());
      await spawnBeat(t, server.url, ['--create-at-once', '--delayed-queues', 'celery']);
      await startCeleryWorker(t, celery, server.url, { args: ['--prefetch-multiplier', '1'] });
      const far = sendWithEtas(2, 3_600, 7_200, ", queue='celery.delayed'");
      const printed = await runPython(
        t,
        celery,
        server.url,
        `${far}
soon = datetime.now(timezone.utc) + timedelta(seconds=1)
app.send_task('ledger', ('soon',), eta=soon, task_id='soon', queue='celery.delayed')
app.send_task('ledger', ('now',), task_id='now', queue='celery.delayed', priority=6)
print(soon.timestamp() * 1000)
print(app.send_task('add', (2, 3), queue='celery.delayed', compression='zlib').get(timeout=60))`,
      );
      const [soonMs, sum] = printed.trim().split('\n');
      t.equal(sum, '5');
      await until(async () => (await redis.llen('ledger')) === 2, 'both ran');
      const runs = (await redis.lrange('ledger', 0, -1)).map((text) => JSON.parse(text));
      t.same(runs.map(({ id }) => id).sort(), ['now', 'soon']);
      t.ok(runs.find(({ id }) => id === 'soon').at * 1_000 >= Number(soonMs), 'not before its time');
      t.equal((await listParked(redis, 'rb', 16, ['celery'], 100)).length, 2);
      // The fleet's workers are all Celery's: the beat node takes out what they cannot reach.
      await celeryCommand(t, celery, server, 'control', 'revoke', 'task-00001');
      await until(async () => (await listParked(redis, 'rb', 16, ['celery'], 100)).length === 1, 'it is gone');
      t.match(await redis.get(resultKey('task-00001')), /"REVOKED"/);
      t.same(await whereabouts(redis, 'celery', 'celery.delayed'), { queued: 0, unacked: 0, index: 0, dead: 0 });
    },
  );
}
