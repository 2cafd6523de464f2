import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { Client, TaskFailedError } from '../../index.ts';
import { celeryPythons, startCeleryWorker } from '../support/celery.ts';
import { spawnBeat, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));
const TIMEOUT_SEC = 60;

async function connected(t: Test, url: string): Promise<Client> {
  await spawnBeat(t, url, ['--create-at-once']);
  const client = new Client({ redis: url, default: false });
  t.teardown(() => client.close());
  return client;
}

/** What waiting for a task's value throws. */
async function failureOf(client: Client, task: string, args: readonly unknown[]): Promise<TaskFailedError> {
  const handle = await client.send(task, { args });
  try {
    await handle.get(TIMEOUT_SEC);
  } catch (error) {
    assert.ok(error instanceof TaskFailedError, String(error));
    return error;
  }
  throw new Error(`${task} has succeeded`);
}

for (const celery of await celeryPythons(t)) {
  t.test(`Python's exceptions arrive with class, module, args and traceback: Celery ${celery.version}`, async (t) => {
    const server = await withRedis(t);
    await startCeleryWorker(t, celery, server.url);
    const client = await connected(t, server.url);

    const boom = await failureOf(client, 'boom', ['bad value']);
    t.match(boom, {
      name: 'RingbeatError',
      code: 'TASK_FAILED',
      state: 'FAILURE',
      excType: 'ValueError',
      excModule: 'builtins',
      excMessage: ['bad value'],
    });
    t.match(boom.message, /ValueError/);
    t.match(
      boom.traceback,
      /^Traceback \(most recent call last\):[\s\S]*raise ValueError\(message\)[\s\S]*ValueError: bad value/,
    );

    t.match(await failureOf(client, 'add', [1, 'two']), { excType: 'TypeError', excMessage: [/unsupported operand/] });
  });
}

t.test('exceptions of a bundled worker arrive in the same way', async (t) => {
  const server = await withRedis(t);
  await spawnWorker(t, server.url, ['--tasks', TASKS], { env: { RINGBEAT_TEST_REDIS: server.url } });
  const client = await connected(t, server.url);

  const boom = await failureOf(client, 'boom', ['bad value']);
  t.match(boom, { state: 'FAILURE', excType: 'ValueError', excModule: 'builtins', excMessage: ['bad value'] });
  t.match(boom.traceback, /sample-tasks/);
  t.match(await failureOf(client, 'odd', []), { excType: 'OddError', excModule: 'ringbeat', excMessage: ['strange'] });
  t.match(await failureOf(client, 'nobody-knows-this', []), {
    excType: 'NotRegistered',
    excModule: 'celery.exceptions',
    excMessage: ['nobody-knows-this'],
  });

  const handle = await client.send('note', { countdown: 3_600 });
  await handle.revoke();
  const revoked: unknown = await handle.get(TIMEOUT_SEC).catch((error: unknown) => error);
  t.match(revoked, { state: 'REVOKED', excType: 'TaskRevokedError', excMessage: ['revoked'] });
});
