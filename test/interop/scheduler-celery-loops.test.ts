import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { type LedgerLine, problemsOfOverlap } from '../faults/history-account.ts';
import { type CeleryPython, celeryPythons, startCeleryWorker } from '../support/celery.ts';
import { until } from '../support/eventually.ts';
import type { SpawnedBeat } from '../support/processes.ts';
import { put, setUp } from './scheduler-stage.ts';

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

async function main(t: Test, celery: CeleryPython): Promise<void> {
  // Each test has a Redis of its own, and mostly waits.
  t.jobs = 3;
  t.test('loops go on by the results that a worker stores, in the way that tasks say', async (t) => {
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
    await until(async () => (await echoed('plain')) >= 4 && (await echoed('after')) >= 4, 'two loops go on', {
      everyMs: 50,
    });
    await until(async () => (await failures(redis, 'no luck')) >= 4, 'the one that fails goes on', { everyMs: 50 });
    await until(async () => (await spans(redis)).length >= 10, 'the one that takes time goes on', { everyMs: 50 });
    for (const id of ['stops', 'bounded'])
      await until(async () => (await stateOf(beat, id)) === 'completed', `${id} is completed`, { everyMs: 50 });
    t.equal(await echoed('stop'), 1);
    t.equal(await echoed('bounded'), 3);
    t.same(problemsOfOverlap(await spans(redis), new Set()), []);
  });

  t.test('runs do not overlap where they must not, and what is due meanwhile is skipped or waits', async (t) => {
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
      await until(async () => (await duesOf(id)).length >= 6, `${id} runs six times`, { everyMs: 50 });
    t.same(problemsOfOverlap(await spans(redis), new Set()), []);
    const gaps = (dues: readonly number[]) => dues.slice(1).map((due, i) => due - dues[i]!);
    // A run that was skipped is gone; the earliest that was kept waiting is the one due right after the run in flight.
    const skipping = gaps(await duesOf('skips'));
    t.ok(skipping.every((gap) => gap % 200 === 0) && skipping.some((gap) => gap >= 600));
    t.ok(gaps(await duesOf('buffers')).every((gap) => gap >= 200 && gap % 200 === 0));
    t.equal(gaps(await duesOf('buffers'))[0], 200);
    t.match(await (await fetch(`${beat.api}/v1/schedules/skips/runs`)).text(), /"outcome": ?"skipped"/);
  });

  t.test('a worker is killed: its runs count as ended when they can no longer be running', async (t) => {
    const { url, redis, beat } = await setUp(t);
    const options = { expires: 1, time_limit: 2 };
    const worker = await startCeleryWorker(t, celery, url, { pool: 'threads', concurrency: 4 });
    await put(beat, 'early', { task: 'span', args: [60], schedule: { after: 0.2 }, options });
    await put(beat, 'late', { task: 'span_late', args: [60], schedule: { after: 0.2 }, options });
    await put(beat, 'skips', { task: 'span', args: [60], schedule: { every: 0.5 }, overlap: 'skip', options });
    const begun = async () => (await spans(redis)).filter(({ is }) => is === 'start');
    await until(async () => (await begun()).length === 3, 'all run', { everyMs: 50 });
    worker.kill('SIGKILL');
    await worker.exited;
    const sent = async () => (await redis.lrange('celery', 0, -1)).map((message) => JSON.parse(message).headers);
    await until(async () => (await sent()).length === 3, 'all are sent again', { everyMs: 50 });
    for (const { id, ringbeat } of await sent()) {
      const first = (await begun()).find(({ schedule }) => schedule === ringbeat.schedule)!;
      t.not(id, first.id, 'as another run');
      const { runs } = (await (await fetch(`${beat.api}/v1/schedules/${ringbeat.schedule}/runs`)).json()) as {
        readonly runs: readonly { readonly task_id: string; readonly dispatched_at: string }[];
      };
      const sentMs = Date.parse(runs.find(({ task_id }) => task_id === id)!.dispatched_at);
      t.ok(sentMs - first.due >= 13_000, `and not while the first may have been running: ${sentMs - first.due} ms`);
    }
  });
}

for (const celery of await celeryPythons(t)) {
  await t.test(`Celery ${celery.version}`, { timeout: 600_000 }, (t) => main(t, celery));
}
