import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { spawnBeat, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { type CommandResult, ringbeat } from './ringbeat.ts';

// All use the same node and worker, with tasks of their own.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));

/** `add`, `boom` and others run in a worker of the test's own; what is for another queue stays there. */
async function setUp(t: Test): Promise<(args: readonly string[], input?: string) => Promise<CommandResult>> {
  const server = await withRedis(t);
  const beat = await spawnBeat(t, server.url, ['--create-at-once']);
  await spawnWorker(t, server.url, ['--tasks', TASKS], { env: { RINGBEAT_TEST_REDIS: server.url } });
  return (args, input = '') => ringbeat(args, { input, env: { RINGBEAT_API: beat.api } });
}

const run = await setUp(t);

const FAR = '2098-01-01T00:00:00.000Z';

t.test('a task is sent, and its result is waited for', async (t) => {
  const sent = await run(['tasks', 'send', 'add', '-a', '[2, 3]']);
  t.match(sent, { code: 0, stdout: /^[0-9a-f-]{36}\n$/, stderr: '' });
  const result = await run(['tasks', 'result', sent.stdout.trim(), '--wait', '20', '--json']);
  t.equal(result.code, 0, result.stderr);
  t.match(JSON.parse(result.stdout), { task_id: sent.stdout.trim(), state: 'SUCCESS', result: 5 });

  const failing = await run(['tasks', 'send', 'boom', '-a', '["no"]', '--task-id', 'mine', '--json']);
  t.same(JSON.parse(failing.stdout), { task_id: 'mine' });
  const failed = await run(['tasks', 'result', 'mine', '--wait', '20']);
  t.equal(failed.code, 1, 'a task that failed is a failure');
  t.match(JSON.parse(failed.stdout), { state: 'FAILURE', result: { exc_type: 'ValueError' } });
});

t.test('a task may be sent for later, and is cancelled until then', async (t) => {
  const soon = await run(['tasks', 'send', 'add', '-a', '[1, 1]', '--countdown', '0.5']);
  t.match(JSON.parse((await run(['tasks', 'result', soon.stdout.trim(), '--wait', '20'])).stdout), { result: 2 });

  for (const when of [
    ['--countdown', '3600'],
    ['--eta', FAR],
  ]) {
    const id = (await run(['tasks', 'send', 'add', '-a', '[1, 1]', ...when])).stdout.trim();
    const waiting = await run(['tasks', 'result', id, '--json']);
    t.match(JSON.parse(waiting.stdout), { state: 'SCHEDULED', result: null });
    t.equal(waiting.code, 0, 'it has not failed');
    t.equal((await run(['tasks', 'result', id, '--wait', '0.2'])).code, 1, 'it has not ended in time');
    t.same(await run(['tasks', 'revoke', id]), { code: 0, stdout: `revoked ${id}\n`, stderr: '' });
    t.match(JSON.parse((await run(['tasks', 'result', id])).stdout), { state: 'REVOKED', eta: null });
  }
});

t.test('many tasks are sent from lines of JSON', async (t) => {
  const lines = ['{"task": "add", "args": [1, 2], "options": {"task_id": "one"}}', '{"task": 5}', ''];
  const sent = await run(['tasks', 'send', '-f', '-'], lines.join('\n'));
  t.match(sent, { code: 1, stdout: 'accepted 1, failed 1\n', stderr: /^ringbeat: -:2: task must be a string/ });
  t.match(JSON.parse((await run(['tasks', 'result', 'one', '--wait', '20'])).stdout), { result: 3 });
});

t.test('options are those of the message', async (t) => {
  const options = ['--priority', '12', '--expires', '60', '--time-limit', '5', '--ignore-result', 'true'];
  t.equal((await run(['tasks', 'send', 'add', ...options])).code, 2, 'there is no priority 12');
  t.equal((await run(['tasks', 'send', 'add', '-Q', 'elsewhere', ...options.with(1, '9')])).code, 0);
  t.equal((await run(['tasks', 'send'])).code, 2);
  t.equal((await run(['tasks', 'send', 'add', '--eta', FAR, '--countdown', '1'])).code, 2);
});
