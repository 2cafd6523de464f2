import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { celeryPythons, runPython, spawnCelery } from '../support/celery.ts';
import { eventually } from '../support/eventually.ts';
import { spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));

/** Sends three tasks and prints what became of them. */
const PRODUCER = `
from ringbeat_test_app import app
app.send_task('add', (2, 3), task_id='sum').get(timeout=30)
app.send_task('boom', ('bang',), task_id='broken').get(timeout=30, propagate=False)
app.send_task('nobody.knows', task_id='unknown').get(timeout=30, propagate=False)
`;

/** Builds Celery's own picture of the cluster, as flower and its curses monitor do, until both tasks have ended. */
const MONITOR = `
import json, threading
from ringbeat_test_app import app
state = app.events.State()
ended = threading.Event()
def work():
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={'*': seen})
        ready.set()
        receiver.capture(limit=None, timeout=60, wakeup=True)
def seen(event):
    state.event(event)
    if event['type'] == 'task-succeeded' and event['uuid'] == 'last':
        ended.set()
        raise SystemExit
ready = threading.Event()
threading.Thread(target=work, daemon=True).start()
ready.wait(30)
import time
for probe in range(300):
    if state.workers: break
    time.sleep(0.1)
app.send_task('boom', ('bang',), task_id='broken').get(timeout=30, propagate=False)
app.send_task('add', (2, 3), task_id='last').get(timeout=30)
ended.wait(30)
worker = state.workers['ours@here']
tasks = {id: {'state': task.state, 'name': task.name, 'args': task.args, 'worker': task.worker.hostname,
              'result': task.result, 'exception': task.exception, 'runtime': task.runtime is not None}
         for id, task in state.tasks.items()}
print(json.dumps({'alive': worker.alive, 'freq': worker.freq, 'sw': [worker.sw_ident, worker.sw_sys],
                  'processed': worker.processed, 'tasks': tasks}))
`;

for (const celery of await celeryPythons(t)) {
  t.test(`celery events of ${celery.version} prints the life of the bundled worker and its tasks`, async (t) => {
    const server = await withRedis(t);
    const env = { RINGBEAT_TEST_REDIS: server.url };
    const worker = await spawnWorker(t, server.url, ['--tasks', TASKS, '-n', 'ours@here', '-E'], { env });
    const dump = await spawnCelery(t, celery, server.url, ['events', '--dump']);
    // What it hears first is the heartbeat that it asks for.
    await eventually(() => assert.match(dump.stdout, /ours@here \[.*\] heartbeat: /), { deadlineMs: 60_000 });
    await runPython(t, celery, server.url, PRODUCER);
    const lines = [
      /task received: add\(sum\) args=\(2, 3\) kwargs=\{\}/,
      /task started: add\(sum\)/,
      /task succeeded: add\(sum\) .*result=5/,
      /task failed: boom\(broken\) .*exception=ValueError\('bang'\)/,
      /task failed: {2}.*exception=NotRegistered\('nobody\.knows'\)/,
    ];
    await eventually(() => {
      for (const line of lines) assert.match(dump.stdout, line);
    });
    await worker.stop();
    await eventually(() => assert.match(dump.stdout, /ours@here \[.*\] shutdown: /));
    t.notMatch(dump.stderr, /Traceback/);
  });

  t.test(`Celery ${celery.version} pictures the bundled worker from its events`, async (t) => {
    const server = await withRedis(t);
    const env = { RINGBEAT_TEST_REDIS: server.url };
    await spawnWorker(t, server.url, ['--tasks', TASKS, '-n', 'ours@here', '-E', '--heartbeat-interval', '1'], { env });
    const picture = JSON.parse(await runPython(t, celery, server.url, MONITOR));
    t.match(picture, { alive: true, sw: ['ringbeat', 'Linux'] });
    t.match(picture.tasks.broken, { state: 'FAILURE', name: 'boom', exception: "ValueError('bang')" });
    t.match(picture.tasks.last, {
      state: 'SUCCESS',
      name: 'add',
      args: '(2, 3)',
      worker: 'ours@here',
      result: '5',
      runtime: true,
    });
  });

  t.test(`celery result of ${celery.version} reads what the bundled worker stored`, async (t) => {
    const server = await withRedis(t);
    await spawnWorker(t, server.url, ['--tasks', TASKS], { env: { RINGBEAT_TEST_REDIS: server.url } });
    await runPython(t, celery, server.url, PRODUCER);
    const resultOf = async (...args: string[]) => {
      const command = await spawnCelery(t, celery, server.url, ['result', ...args]);
      const { code } = await command.exited;
      return { code, stdout: command.stdout.trim(), stderr: command.stderr };
    };
    t.match(await resultOf('sum'), { code: 0, stdout: '5' });
    t.match(await resultOf('--traceback', 'broken'), { code: 0, stdout: /^ValueError: bang\n +at / });
    t.match(await resultOf('broken'), { code: 1, stderr: /ValueError: bang/ });
  });
}
