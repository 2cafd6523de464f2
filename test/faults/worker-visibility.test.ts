import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { KOMBU } from '../../lua/keys.ts';
import { celeryPythons, startCeleryWorker } from '../support/celery.ts';
import { until } from '../support/eventually.ts';
import { spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { envelope, redisNow } from '../worker/messages.ts';
import { allSettled, LEDGER_TASKS, Ledger, type Plan, sendPlan, stateOf } from './worker-ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const TIMEOUT_MS = 180_000;
t.setTimeout(3 * TIMEOUT_MS);

const VISIBILITY_SEC = 2;
const POOLS = ['async', 'solo', 'threads', 'processes'];
const VISIBILITY = ['--visibility-timeout', String(VISIBILITY_SEC)];

/** A message that somebody took who is gone, beyond the visibility timeout: whoever restores messages restores it. */
async function addForgotten(redis: Redis, ledger: Ledger, id: string): Promise<void> {
  const text = envelope({ id, task: 'effect-late', tag: id, args: ledger.args() });
  await redis.hset(KOMBU.unacked, id, `[${text}, "", "celery"]`);
  await redis.zadd(KOMBU.unackedIndex, Math.floor((await redisNow(redis)) / 1_000) - 10 * VISIBILITY_SEC, id);
}

async function forgottenRuns(redis: Redis, ledger: Ledger, id: string): Promise<void> {
  await addForgotten(redis, ledger, id);
  await until(() => ledger.entered(id) === 1, `${id} is restored and run`);
}

/** Tasks that run in each pool until the gate `go` is opened, in queues of their own. */
async function startLongTasks(t: Test, url: string, redis: Redis, ledger: Ledger): Promise<string[]> {
  const idsOf = async (pool: string): Promise<string[]> => {
    const args = ['--tasks', LEDGER_TASKS, '-Q', pool, '--pool', pool, '-n', `${pool}@%h`];
    if (pool !== 'solo') args.push('-c', '2');
    await spawnWorker(t, url, [...args, ...VISIBILITY]);
    const ids = pool === 'solo' ? [pool] : [pool, `${pool} extended`];
    for (const id of ids) {
      const plan: Plan = id === pool ? { gate: 'go' } : { gate: 'go', extends: true };
      await sendPlan(redis, ledger, { id, task: 'effect-late', queue: pool }, plan);
    }
    return ids;
  };
  const ids = (await Promise.all(POOLS.map(idsOf))).flat();
  await until(() => ids.every((id) => ledger.entered(id) === 1), 'all run');
  return ids;
}

async function passes(redis: Redis, seconds: number): Promise<void> {
  const untilMs = (await redisNow(redis)) + seconds * 1_000;
  await until(async () => (await redisNow(redis)) > untilMs, `${seconds} s pass`, { everyMs: 100 });
}

for (const celery of await celeryPythons(t)) {
  t.test(
    `tasks in every pool run longer than the visibility timeout, once, beside Celery ${celery.version}`,
    { timeout: TIMEOUT_MS },
    async (t) => {
      const server = await withRedis(t);
      const redis = server.connect();
      t.teardown(() => redis.disconnect());
      const ledger = Ledger.open(t);
      const ids = await startLongTasks(t, server.url, redis, ledger);
      const beside = ['--tasks', LEDGER_TASKS, '-n', 'beside@%h', '-Q', ['celery', ...POOLS].join(',')];
      const restorer = await spawnWorker(t, server.url, [...beside, ...VISIBILITY]);
      await forgottenRuns(redis, ledger, 'forgotten-1');
      await passes(redis, 3 * VISIBILITY_SEC);
      await forgottenRuns(redis, ledger, 'forgotten-2');
      await restorer.stop();

      // Celery looks for lost messages whenever a worker starts.
      const queues = ['celery', ...POOLS];
      for (const id of ['forgotten-3', 'forgotten-4']) {
        await addForgotten(redis, ledger, id);
        const transportOptions = { visibility_timeout: VISIBILITY_SEC };
        const worker = await startCeleryWorker(t, celery, server.url, { queues, transportOptions });
        await until(() => ledger.entered(id) >= 1, `${id} is restored and run`);
        await worker.stop();
        await passes(redis, VISIBILITY_SEC);
      }

      t.same(
        ids.filter((id) => ledger.entered(id) !== 1),
        [],
        'each was entered once',
      );
      ledger.openGate('go');
      // What Celery had not acknowledged when it was stopped, it has given back.
      await spawnWorker(t, server.url, [...beside, ...VISIBILITY]);
      await allSettled(redis);
      t.same(
        ids.filter((id) => ledger.entered(id) !== 1 || ledger.finished(id) !== 1),
        [],
        'each was entered and finished once',
      );
      const states = new Set(await Promise.all(ids.map((id) => stateOf(redis, id))));
      t.same([...states], ['SUCCESS']);
    },
  );
}
