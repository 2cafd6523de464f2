import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { eventually, until } from '../support/eventually.ts';
import { type Spawned, type SpawnedBeat, spawnBeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { type LedgerLine, problemsOfOverlap, readLedger } from './history-account.ts';
import { ask, put } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 4;

const TASKS = fileURLToPath(new URL('./loop-tasks.js', import.meta.url));

interface Stage {
  readonly server: RedisServer;
  readonly redis: Redis;
  readonly beat: SpawnedBeat;
}

async function setUp(t: Test): Promise<Stage> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { server, redis, beat: await spawnBeat(t, server.url, ['--create-at-once']) };
}

function startWorker(t: Test, { server }: Stage): Promise<Spawned> {
  return spawnWorker(t, server.url, ['--tasks', TASKS], { env: { RINGBEAT_TEST_LEDGER: server.url } });
}

function loop(schedule: object, task: string, ...args: readonly unknown[]): object {
  return { task, args, schedule, options: { worker: 'ringbeat' } };
}

async function starts(redis: Redis, from = 0): Promise<LedgerLine[]> {
  return (await readLedger(redis, from)).filter((line): line is LedgerLine => line.is === 'start');
}

async function noteLost(redis: Redis, { pid }: Spawned): Promise<void> {
  await redis.rpush('ledger', JSON.stringify({ is: 'lost', pid }));
}

/** Whether a worker that is suspended has runs that have begun and not ended. */
async function hasRuns(redis: Redis, { pid }: Spawned): Promise<boolean> {
  const own = (await readLedger(redis)).filter((line): line is LedgerLine => line.is !== 'lost' && line.pid === pid);
  const ended = new Set(own.filter(({ is }) => is === 'end').map(({ id, attempt }) => `${id} ${attempt}`));
  return own.some(({ id, attempt }) => !ended.has(`${id} ${attempt}`));
}

t.test('a worker is killed: each loop runs again once its lease has ended, none twice at once', async (t) => {
  const stage = await setUp(t);
  const { redis, beat } = stage;
  const ids = Array.from({ length: 40 }, (_, i) => `loop${i}`);
  for (const id of ids) await put(beat, id, loop({ after: 0.2 }, 'tick', 0.3));
  const [killed] = await Promise.all([startWorker(t, stage), startWorker(t, stage)]);
  const allRan = async (from: number) => {
    const ran = new Set((await starts(redis, from)).map(({ schedule }) => schedule));
    assert.deepEqual(
      ids.filter((id) => !ran.has(id)),
      [],
    );
  };
  await eventually(() => allRan(0));
  await until(
    async () => (await starts(redis)).filter(({ pid }) => pid === killed.pid).length > 20,
    'the worker has its share',
  );
  await until(
    async () => {
      killed.kill('SIGSTOP');
      if (await hasRuns(redis, killed)) return true;
      killed.kill('SIGCONT');
      return false;
    },
    'it has some in hand',
    { everyMs: 50 },
  );
  killed.kill('SIGKILL');
  const killedAtMs = performance.now();
  await killed.exited;
  const before = await redis.llen('ledger');
  await noteLost(redis, killed);
  await eventually(() => allRan(before), { everyMs: 50 });
  t.comment(`the last of them ran again ${Math.round(performance.now() - killedAtMs)} ms after the worker was killed`);
  const lines = await readLedger(redis);
  t.same(problemsOfOverlap(lines, new Set()), []);
  const again = (await starts(redis)).filter(({ attempt }) => attempt > 1);
  t.ok(again.length > 0, 'some were running');
  t.ok(again.every(({ attempt }) => attempt === 2));
});

t.test(
  'a worker is suspended beyond its lease: on waking its tasks are told, and what they did does not count',
  async (t) => {
    const stage = await setUp(t);
    const { redis, beat } = stage;
    const ids = Array.from({ length: 5 }, (_, i) => `loop${i}`);
    for (const id of ids) await put(beat, id, loop({ after: 0.2 }, 'hold'));
    const sleeper = await startWorker(t, stage);
    await until(async () => (await starts(redis)).length === ids.length, 'all run');
    await noteLost(redis, sleeper);
    sleeper.kill('SIGSTOP');
    const other = await startWorker(t, stage);
    const taken = async () => (await starts(redis)).filter(({ pid }) => pid === other.pid);
    await until(async () => (await taken()).length === ids.length, 'the other worker has them all', { everyMs: 50 });
    t.ok((await taken()).every(({ attempt }) => attempt === 2));

    sleeper.kill('SIGCONT');
    const ended = async () => (await readLedger(redis)).filter((line): line is LedgerLine => line.is === 'end');
    await until(async () => (await ended()).length === ids.length, 'the first tasks have ended');
    t.ok(
      (await ended()).every(({ pid, aborted }) => pid === sleeper.pid && aborted),
      'their signals were aborted',
    );
    t.match(await sleeper.logged('settled_late'), { messages: Number });
    // Nothing was set by them: the runs of the other worker are still in flight.
    for (const id of ids) t.equal((await ask(beat, `/v1/schedules/${id}`)).state, 'running');

    await redis.set('go', '1');
    const next = async () => (await starts(redis)).filter(({ attempt }) => attempt === 1).length;
    await until(async () => (await next()) >= 3 * ids.length, 'the loops go on');
    t.same(problemsOfOverlap(await readLedger(redis), new Set()), []);
  },
);

/** What a task does, and so often it runs within moments though its spec says an hour, or the other way round. */
const PACES: readonly (readonly [string, object, number | null])[] = [
  ['returns a shorter pause', loop({ after: 3_600 }, 'return', { ringbeat: { after: 0.1 } }), 3],
  ['sets a shorter pause', loop({ after: 3_600 }, 'set', 0.1), 3],
  ['returns a longer pause', loop({ after: 0.1 }, 'return', { ringbeat: { after: 3_600 } }), 1],
  ['sets a longer pause', loop({ after: 0.1 }, 'set', 3_600), 1],
  ['returns something else', loop({ after: 0.1 }, 'return', { ringbeat: { after: 'soon' } }), 3],
  ['fails, without a retry policy', loop({ after: 0.1 }, 'fail'), 3],
  ['fails, with a retry policy', loop({ after: 3_600, retry: { delay: 0.1, max_delay: 0.2 } }, 'fail'), 4],
  ['returns that the loop stops', loop({ after: 0.1 }, 'return', { ringbeat: { stop: true } }), null],
  ['says that the loop stops', loop({ after: 0.1 }, 'stop'), null],
];

t.test('how a loop goes on is for its task to say, and for its retry policy when it fails', async (t) => {
  const stage = await setUp(t);
  const { redis, beat } = stage;
  await redis.set('bad', '1');
  await startWorker(t, stage);
  for (const [what, spec] of PACES) await put(beat, encodeURIComponent(what), spec);
  const runs = async (id: string) => (await starts(redis)).filter(({ schedule }) => schedule === id).length;
  for (const [what, , least] of PACES) {
    await until(async () => (await runs(what)) >= (least ?? 1), `a task that ${what} runs ${least ?? 1} times`);
    const path = `/v1/schedules/${encodeURIComponent(what)}`;
    if (least === 1) {
      await eventually(async () => {
        const { next_run_at } = await ask(beat, path);
        assert.ok(Date.parse(next_run_at) > Date.now() + 3_000_000, `${next_run_at} is no hour away`);
      });
    }
    if (least !== null) continue;
    await until(async () => (await ask(beat, path)).state === 'completed', `a loop whose task ${what} completes`);
    t.equal(await runs(what), 1);
    await ask(beat, `${path}/trigger`, { method: 'POST' });
    await until(async () => (await runs(what)) === 2, 'it still can be triggered');
    await until(async () => (await ask(beat, path)).state === 'completed', 'and then is completed again');
  }
});

t.test('the pauses of a loop that fails grow to the longest, and a success begins anew', async (t) => {
  const stage = await setUp(t);
  const { redis, beat } = stage;
  await startWorker(t, stage);
  await redis.set('bad', '1');
  await put(beat, 'loop', loop({ after: 50, retry: { delay: 1_000, max_delay: 3_000 } }, 'fail'));
  const pauses: number[] = [];
  for (let runs = 1; runs <= 6; runs++) {
    if (runs > 1) await ask(beat, '/v1/schedules/loop/trigger', { method: 'POST' });
    await until(async () => (await starts(redis)).length === runs, `${runs} runs`);
    const { next_run_at } = await eventually(async () => {
      const schedule = await ask(beat, '/v1/schedules/loop');
      assert.equal(schedule.state, 'scheduled');
      return schedule;
    });
    // To the nearest 50 s, for it takes a moment to ask.
    pauses.push(Math.round((Date.parse(next_run_at) - Date.now()) / 50_000) * 50);
    if (runs === 4) await redis.del('bad');
    if (runs === 5) await redis.set('bad', '1');
  }
  t.same(pauses, [1_000, 2_000, 3_000, 3_000, 50, 1_000]);
});
