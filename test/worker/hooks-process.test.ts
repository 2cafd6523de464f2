import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { until } from '../support/eventually.ts';
import { spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { type MessageParts, send } from './messages.ts';
import { recordIn } from './worker-rig.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('./telling-tasks.js', import.meta.url));

interface Told {
  readonly where: 'worker' | 'child';
  readonly place: string;
  readonly what: string;
  readonly id: string | null;
}

/** Sends a task to a worker with one thread or child process, waits until it has ended, and `last` was told of it. */
async function tellingOf(
  t: Test,
  pool: 'threads' | 'processes',
  parts: MessageParts & { readonly id: string },
  last: string,
): Promise<Told[]> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-told-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'told');
  const args = ['--tasks', TASKS, '--pool', pool, '-c', '1'];
  const worker = await spawnWorker(t, server.url, args, { env: { RINGBEAT_TEST_TOLD: file } });
  await send(redis, parts);
  await recordIn(redis, parts.id);
  const told = () =>
    readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line): Told => {
        const [place, what, id] = JSON.parse(line);
        return { where: place === `${worker.pid}/0` ? 'worker' : 'child', place, what, id };
      });
  await until(() => told().some(({ what, id }) => what === last && id === parts.id), `${last} is told`);
  return told();
}

const inOrder = (told: readonly Told[]) =>
  told.filter(({ id }) => id !== null).map(({ where, what }) => `${where}: ${what}`);

/** Of how a task ends that ends by itself. */
const ENDS = {
  return: ['run', 'onSuccess', 'taskSuccess', 'afterReturn SUCCESS'],
  throw: ['run', 'onFailure TypeError', 'taskFailure', 'afterReturn FAILURE'],
  retry: [
    ...['run', 'onRetry', 'taskRetry', 'afterReturn RETRY', 'taskPostrun'],
    ...['taskPrerun', 'beforeStart', 'run', 'onSuccess', 'taskSuccess', 'afterReturn SUCCESS'],
  ],
};

for (const pool of ['threads', 'processes'] as const) {
  for (const [how, what] of Object.entries(ENDS)) {
    t.test(`hooks and signals come where the task runs, in the order of Celery: ${pool}, ${how}`, async (t) => {
      const told = await tellingOf(t, pool, { task: 'told', id: 'a', args: [how] }, what.at(-1)!);
      t.same(
        inOrder(told).slice(0, what.length + 2),
        ['taskPrerun', 'beforeStart', ...what].map((name) => `child: ${name}`),
      );
      const [first, ...others] = told;
      t.match(first, { where: 'child', what: 'workerProcessInit' }, 'before its first task');
      t.same(
        others.filter(({ place }) => place !== first?.place),
        [],
        'all in the same child',
      );
    });
  }

  t.test(`the worker tells of a task that its hard time limit ended: ${pool}`, async (t) => {
    const told = await tellingOf(t, pool, { task: 'told-limited', id: 'a', args: ['hang'] }, 'taskFailure');
    t.same(inOrder(told), [
      ...['child: taskPrerun', 'child: beforeStart', 'child: run'],
      ...['worker: onFailure TimeLimitExceeded', 'worker: afterReturn FAILURE', 'worker: taskFailure'],
    ]);
  });

  t.test(`the worker tells of a task that ended its thread or process, without hooks as Celery: ${pool}`, async (t) => {
    const told = await tellingOf(t, pool, { task: 'told', id: 'a', args: ['exit'] }, 'taskFailure');
    t.same(inOrder(told), ['child: taskPrerun', 'child: beforeStart', 'child: run', 'worker: taskFailure']);
  });
}
