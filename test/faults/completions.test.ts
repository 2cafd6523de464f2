import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { resultKey } from '../../lua/keys.ts';
import { until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { ask, put } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

/** Messages of loops that nobody takes: what a Celery worker would say of them is said by the tests. */
const LOOP = { task: 'loop', schedule: { after: 0.1, retry: { delay: 1_800, max_delay: 3_600 } } };

async function setUp(t: Test, beats: number): Promise<{ url: string; redis: Redis; beats: SpawnedBeat[] }> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const started = await Promise.all(
    Array.from({ length: beats }, () => spawnBeat(t, server.url, ['--create-at-once'])),
  );
  return { url: server.url, redis, beats: started };
}

/** Task ids of the messages in the queue, oldest first, once there are so many. */
async function queued(redis: Redis, count: number): Promise<string[]> {
  await until(async () => (await redis.llen('celery')) >= count, `${count} messages`);
  return (await redis.lrange('celery', 0, -1)).reverse().map((message) => JSON.parse(message).headers.id);
}

function record(taskId: string, status: string, result: unknown = null): string {
  return JSON.stringify({ status, result, traceback: null, children: [], date_done: null, task_id: taskId });
}

/** As Celery's backend does it: stores the record, and publishes it unless `isHeard` says that nobody is to hear it. */
async function tellResult(redis: Redis, taskId: string, text: string, isHeard = true): Promise<void> {
  await redis.setex(resultKey(taskId), 86_400, text);
  if (isHeard) await redis.publish(resultKey(taskId), text);
}

async function stateOf(beat: SpawnedBeat, id: string): Promise<string> {
  return (await ask(beat, `/v1/schedules/${id}`)).state;
}

async function nextInSec(beat: SpawnedBeat, id: string): Promise<number> {
  const { next_run_at } = await ask(beat, `/v1/schedules/${id}`);
  return (Date.parse(next_run_at) - Date.now()) / 1_000;
}

for (const isHeard of [true, false]) {
  const how = isHeard ? 'published' : 'stored, while nobody hears of it,';
  t.test(`a result that is ${how} ends a run, and says how its loop goes on`, async (t) => {
    const { redis, beats } = await setUp(t, 2);
    const [beat] = beats as [SpawnedBeat];
    const ids = ['succeeds', 'fails', 'revoked', 'wishes', 'stops', 'retries'];
    for (const id of ids) await put(beat, id, LOOP);
    const taskIds = new Map<string, string>();
    await queued(redis, ids.length);
    for (const message of await redis.lrange('celery', 0, -1)) {
      const { headers } = JSON.parse(message);
      taskIds.set(headers.ringbeat.schedule, headers.id);
    }
    await redis.del('celery');
    const tell = (id: string, status: string, result?: unknown) =>
      tellResult(redis, taskIds.get(id)!, record(taskIds.get(id)!, status, result), isHeard);
    await tell('retries', 'RETRY', { exc_type: 'Retry', exc_message: [], exc_module: 'celery.exceptions' });
    await tell('fails', 'FAILURE', { exc_type: 'ValueError', exc_message: ['no'], exc_module: 'builtins' });
    await tell('revoked', 'REVOKED', { exc_type: 'TaskRevokedError', exc_message: ['expired'] });
    await tell('wishes', 'SUCCESS', { ringbeat: { after: 7_200 } });
    await tell('stops', 'SUCCESS', { ringbeat: { stop: true } });
    await tell('succeeds', 'SUCCESS', 42);

    for (const id of ['fails', 'revoked', 'wishes'])
      await until(async () => (await stateOf(beat, id)) === 'scheduled', id);
    await until(async () => (await stateOf(beat, 'stops')) === 'completed', 'stops');
    const [again] = await queued(redis, 1);
    t.equal(
      again?.slice(0, 18),
      taskIds.get('succeeds')?.slice(0, 18),
      'one that succeeded runs again after its pause',
    );
    t.equal(await stateOf(beat, 'retries'), 'running', 'a retry is no end');
    t.ok(Math.abs((await nextInSec(beat, 'fails')) - 1_800) < 60, 'a failure waits as the retry policy says');
    t.ok(Math.abs((await nextInSec(beat, 'revoked')) - 1_800) < 60);
    t.ok(Math.abs((await nextInSec(beat, 'wishes')) - 7_200) < 60);
    t.equal(await redis.llen('celery'), 1);
  });
}

t.test('a result that comes while no node is there is found by the next one', async (t) => {
  const { url, redis, beats } = await setUp(t, 1);
  const [beat] = beats as [SpawnedBeat];
  await put(beat, 'loop', LOOP);
  const [first] = await queued(redis, 1);
  beat.kill('SIGKILL');
  await beat.exited;
  await tellResult(redis, first!, record(first!, 'SUCCESS'));
  await spawnBeat(t, url);
  const [, second, ...more] = await queued(redis, 2);
  t.not(second, first);
  t.same(more, []);
});

t.test('a node is killed when it hears of a result: the run ends once, whoever sees it', async (t) => {
  const { redis, beats } = await setUp(t, 3);
  const [beat, ...others] = beats as [SpawnedBeat, ...SpawnedBeat[]];
  const loops = 30;
  for (let i = 0; i < loops; i++) await put(beat, `loop${i}`, LOOP);
  const first = await queued(redis, loops);
  await Promise.all(first.map((id) => tellResult(redis, id, record(id, 'SUCCESS'))));
  others[0]!.kill('SIGKILL');
  const all = await queued(redis, 2 * loops);
  t.equal(new Set(all).size, 2 * loops);
  const lookedAt = await redis.hget('rb:{0}:counts', 'dispatched');
  await until(async () => (await redis.hget('rb:{0}:counts', 'dispatched')) === lookedAt, 'nothing more is sent');
  t.equal(await redis.llen('celery'), 2 * loops);
});

t.test('records that are not of a run, or cannot be read, change nothing', async (t) => {
  const { redis, beats } = await setUp(t, 1);
  const [beat] = beats as [SpawnedBeat];
  await put(beat, 'loop', LOOP);
  const [first] = await queued(redis, 1);
  const foreign = first!.replace(/^.{8}/, '00000000');
  for (const text of ['no json', 'null', '[]', '{"status": 5}', '{"status": "STARTED"}'])
    await tellResult(redis, first!, text);
  await tellResult(redis, foreign, record(foreign, 'SUCCESS'));
  t.equal(await stateOf(beat, 'loop'), 'running');
  await tellResult(redis, first!, record(first!, 'SUCCESS'));
  await queued(redis, 2);
  t.notOk(beat.hasExited());
});

t.test(
  'a run ends when it can no longer be running, and not before: a result that comes then changes nothing',
  async (t) => {
    const { redis, beats } = await setUp(t, 2);
    const [beat] = beats as [SpawnedBeat];
    const options = { expires: 1, time_limit: 1 };
    await put(beat, 'loop', { ...LOOP, options });
    await put(beat, 'skips', { task: 'loop', schedule: { every: 0.5 }, overlap: 'skip', options });
    const messages = async (id: string) =>
      (await redis.lrange('celery', 0, -1)).filter((message) => message.includes(`"schedule": "${id}"`)).length;
    await until(async () => (await messages('loop')) === 1 && (await messages('skips')) === 1, 'both run');
    const [first] = await queued(redis, 1);
    // 1 s until it expires, 1 s that it may run, and 10 s for clocks and signals.
    await until(async () => (await messages('loop')) === 2 && (await messages('skips')) === 2, 'both run again', {
      everyMs: 50,
    });
    for (const id of ['loop', 'skips']) {
      const [second, first] = (await ask(beat, `/v1/schedules/${id}/runs`)).runs.filter(
        ({ outcome }: { outcome: string }) => outcome === 'sent',
      );
      const waitedMs = Date.parse(second.dispatched_at) - Date.parse(first.due);
      t.ok(waitedMs >= 12_000, `${id} waited ${waitedMs} ms`);
    }
    await tellResult(redis, first!, record(first!, 'SUCCESS'));
    t.equal(await stateOf(beat, 'loop'), 'running');
  },
);
