import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { ringbeat } from '../cli/ringbeat.ts';
import { celeryPythons, runPython, startCeleryWorker } from '../support/celery.ts';
import { type Spawned, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));
const OURS = 'ours@host1';

function startOurs(t: Test, server: RedisServer, ...args: string[]): Promise<Spawned> {
  const own = ['--tasks', TASKS, '-n', OURS, '-c', '4', ...args];
  return spawnWorker(t, server.url, own, { env: { RINGBEAT_TEST_REDIS: server.url } });
}

async function nameOfTheirs(server: RedisServer): Promise<string> {
  const { stdout } = await ringbeat(['status', '--redis', server.url, '--json']);
  const name = Object.keys(JSON.parse(stdout)).find((node) => node !== OURS);
  assert.ok(name);
  return name;
}

for (const celery of await celeryPythons(t)) {
  t.test(`Celery ${celery.version}: what was revoked spreads from worker to worker`, async (t) => {
    const server = await withRedis(t);
    const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-state-'));
    t.teardown(() => rmSync(folder, { recursive: true, force: true }));
    const withState = ['--statedb', join(folder, '%n.state')];
    const first = await startOurs(t, server, ...withState);
    await ringbeat(['control', '-d', OURS, 'revoke', 'from-ours', '--redis', server.url]);
    const worker = await startCeleryWorker(t, celery, server.url);
    t.match(worker.stderr, /mingle: sync with 1 nodes/);
    t.match(worker.stderr, /mingle: sync complete/);
    const theirs = await nameOfTheirs(server);
    t.match(await first.logged('peer_joined'), { node: theirs });
    await ringbeat(['control', '-d', theirs, 'revoke', 'from-theirs', '--redis', server.url]);

    const revokedBy = async (...nodes: string[]) => {
      const { stdout } = await ringbeat(['inspect', '-d', nodes.join(','), '--json', 'revoked', '--redis', server.url]);
      const replies: Record<string, string[]> = JSON.parse(stdout);
      return nodes.map((node) => replies[node]?.sort());
    };
    t.same(await revokedBy(OURS, theirs), [['from-ours'], ['from-ours', 'from-theirs']]);
    await first.stop();
    const second = await startOurs(t, server, '--without-mingle', ...withState);
    t.same(await revokedBy(OURS), [['from-ours']], 'read from the file');
    await second.stop();
    const third = await startOurs(t, server);
    t.match(await third.logged('mingle'), { nodes: [theirs], revoked: 2 });
    t.same(await revokedBy(OURS), [['from-ours', 'from-theirs']], 'learnt from its peer');

    const code = `
from celery.exceptions import TaskRevokedError
from ringbeat_test_app import app
app.control.revoke('before')
early = app.send_task('note', task_id='before', queue='held')
running = app.send_task('hold', queue='ours')
while not app.control.inspect(destination=['${OURS}']).query_task([running.id])['${OURS}']: pass
app.control.revoke(running.id, terminate=True, signal='KILL', destination=['${OURS}'])
for result in (running, early):
    try:
        print(result.get(timeout=60))
    except TaskRevokedError as error:
        print(error)
`;
    await ringbeat(['control', '-d', OURS, 'add_consumer', 'ours', '--redis', server.url]);
    await ringbeat(['control', '-d', OURS, 'add_consumer', 'held', '--redis', server.url]);
    t.equal(await runPython(t, celery, server.url, code), 'terminated\nrevoked\n');
    await worker.stop();
    t.match(await third.logged('peer_left'), { node: theirs });
    const warnings = worker.stderr.split('\n').filter((line) => /WARNING|ERROR|Traceback/.test(line));
    t.same(
      warnings.filter((line) => !/Revok|discard|SecurityWarning|DeprecationWarning/i.test(line)),
      [],
      'Celery has nothing to complain about',
    );
  });
}
