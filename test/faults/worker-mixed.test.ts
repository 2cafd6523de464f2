import t from 'tap';
import { celeryPythons, startCeleryWorker } from '../support/celery.ts';
import { until } from '../support/eventually.ts';
import { spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { allSettled, LEDGER_TASKS, Ledger, sendPlan, stateOf } from './worker-ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const TIMEOUT_MS = 180_000;
t.setTimeout(3 * TIMEOUT_MS);

const VISIBILITY_SEC = 3;

/** How often each message is sent again; those that wait for the gate are not. */
const retriesOf = (n: number) => (n >= 20 && n % 5 === 0 ? 1 : 0);

for (const celery of await celeryPythons(t)) {
  t.test(
    `a bundled worker and one of Celery ${celery.version} share a queue and are both killed: with acks late nothing is lost`,
    { timeout: TIMEOUT_MS },
    async (t) => {
      const server = await withRedis(t);
      const redis = server.connect();
      t.teardown(() => redis.disconnect());
      const ledger = Ledger.open(t);
      const startOurs = () => {
        const args = ['--tasks', LEDGER_TASKS, '-c', '2', '--prefetch', '4'];
        return spawnWorker(t, server.url, [...args, '--visibility-timeout', String(VISIBILITY_SEC)]);
      };
      const startCelery = () =>
        startCeleryWorker(t, celery, server.url, {
          pool: 'prefork',
          concurrency: 2,
          transportOptions: { visibility_timeout: VISIBILITY_SEC },
        });

      const ids = Array.from({ length: 60 }, (_, n) => `id-${n}`);
      for (const [n, id] of ids.entries()) {
        const plan = n < 20 ? { gate: 'go' } : { seconds: 0.02, retries: retriesOf(n) };
        await sendPlan(redis, ledger, { id, task: 'effect-late' }, plan);
      }
      const [ours, celerys] = await Promise.all([startOurs(), startCelery()]);
      // Whatever either of them could take, it has taken by then: Celery loses what it is just taking.
      await until(
        () => new Set(ledger.lines().map(({ pid }) => pid)).size >= 3,
        'tasks run in ours and in both of Celery',
      );
      await until(async () => (await redis.hlen('unacked')) >= 12, 'both hold what they can');
      ours.kill('SIGKILL');
      celerys.kill('SIGKILL');
      await Promise.all([ours.exited, celerys.exited]);

      const [others] = await Promise.all([startOurs(), startCelery()]);
      const ourPids = new Set([ours.pid, others.pid]);
      ledger.openGate('go');
      await allSettled(redis, 120_000);
      const finished = ledger.lines().filter(({ is }) => is === 'finished');
      const ends = await Promise.all(
        ids.map(async (id, n) => {
          const runs = finished.filter((line) => line.id === id);
          const isDone = runs.some(({ retries }) => retries === retriesOf(n));
          // Celery reads the record, and then writes RETRY over a success that came in between.
          const isOverwritten = runs.some(({ pid, retries }) => retries < retriesOf(n) && !ourPids.has(pid));
          return { id, isDone, isOverwritten, state: await stateOf(redis, id) };
        }),
      );
      t.same(
        ends.filter(
          ({ isDone, isOverwritten, state }) =>
            !isDone || (state !== 'SUCCESS' && !(state === 'RETRY' && isOverwritten)),
        ),
        [],
        'each ran to its end, and succeeded',
      );
    },
  );
}
