import { fileURLToPath } from 'node:url';
import t from 'tap';
import { celeryPythons, runPython } from '../support/celery.ts';
import { spawnBeat, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const TASKS = fileURLToPath(new URL('../worker/workflow-tasks.js', import.meta.url));

const READER = `
import json
from ringbeat_test_app import app, add, boom

def shown(result):
    try:
        result.get(timeout=60)
    except ValueError:
        pass
    return [result.state, result.name, result.args, result.kwargs, result.worker, result.retries, result.queue]

failed = boom.apply_async(kwargs={}, args=['bang'], queue='other')
parent = app.send_task('parent')
parent.get(timeout=60)
print(json.dumps({
    'success': shown(add.delay(1, 2)),
    'failure': shown(failed),
    'children': [child.get(timeout=60) for child in parent.children],
}))
`;

for (const celery of await celeryPythons(t)) {
  t.test(`Celery ${celery.version} reads extended results and children`, async (t) => {
    const server = await withRedis(t);
    await spawnBeat(t, server.url, ['--create-at-once']);
    const args = ['--tasks', TASKS, '--result-extended', '-n', 'ours@here', '-Q', 'celery,other'];
    await spawnWorker(t, server.url, args, { env: { RINGBEAT_TEST_REDIS: server.url } });
    t.same(JSON.parse(await runPython(t, celery, server.url, READER)), {
      success: ['SUCCESS', 'add', [1, 2], {}, 'ours@here', 0, 'celery'],
      failure: ['FAILURE', 'boom', ['bang'], {}, 'ours@here', 0, 'other'],
      children: [null, null, null],
    });
  });
}
