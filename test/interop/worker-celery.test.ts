import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { celeryPythons, runPython, startCeleryWorker } from '../support/celery.ts';
import { eventually } from '../support/eventually.ts';
import { type Spawned, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { redisNow, send, whereabouts } from '../worker/messages.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));
const NOWHERE = { queued: 0, unacked: 0, index: 0, dead: 0 };

function startWorker(t: Test, server: RedisServer, ...args: string[]): Promise<Spawned> {
  return spawnWorker(t, server.url, ['--tasks', TASKS, ...args], { env: { RINGBEAT_TEST_REDIS: server.url } });
}

/** A Python producer that prints, per call, what `AsyncResult.get()` returned or raised. */
const PRODUCER = `
import json
from datetime import datetime, timedelta, timezone
from ringbeat_test_app import app

def outcome(result):
    try:
        return result.get(timeout=60)
    except Exception as error:
        return [type(error).__name__, type(error).__module__, str(error)]

past = datetime.now(timezone.utc) - timedelta(seconds=5)
sent = {
    'args': app.send_task('add', (2, 3)),
    'text': app.send_task('note', ('\\u00fc \\U0001F600',)),
    'nested': app.send_task('note', ({'a': [1, 2.5, None, True]},)),
    'nothing': app.send_task('note'),
    'raises': app.send_task('boom', ('bang',)),
    'raises odd': app.send_task('odd'),
    'unknown': app.send_task('nobody.knows'),
    'expired': app.send_task('note', expires=past),
    'compressed': app.send_task('add', (1, 1), compression='zlib'),
    'priority': app.send_task('add', (2, 2), priority=9),
    'countdown': app.send_task('add', (3, 3), countdown=0.5),
    'workflow': app.signature('add', (1, 1)).apply_async(link=app.signature('add', (1,))),
}
outcomes = {name: outcome(result) for name, result in sent.items()}
states = {name: result.state for name, result in sent.items()}
app.conf.task_protocol = 1
outcomes['protocol 1'] = outcome(app.send_task('add', (4, 4)))
outcomes['traceback'] = 'boom' in (sent['raises'].traceback or '') or 'ValueError' in (sent['raises'].traceback or '')
print(json.dumps({'outcomes': outcomes, 'states': states}))
`;

for (const celery of await celeryPythons(t)) {
  t.test(`Celery ${celery.version} reads every outcome of the tasks it sends to the bundled worker`, async (t) => {
    const server = await withRedis(t);
    await startWorker(t, server);
    const { outcomes, states } = JSON.parse(await runPython(t, celery, server.url, PRODUCER));
    t.match(outcomes, {
      args: 5,
      text: 'ü 😀',
      nested: { a: [1, 2.5, null, true] },
      nothing: null,
      raises: ['ValueError', 'builtins', 'bang'],
      'raises odd': ['OddError', String, 'strange'],
      unknown: ['NotRegistered', 'celery.exceptions', /nobody\.knows/],
      expired: ['TaskRevokedError', 'celery.exceptions', 'expired'],
      compressed: 2,
      priority: 4,
      countdown: 6,
      workflow: 2,
      'protocol 1': 8,
      traceback: true,
    });
    t.match(states, { args: 'SUCCESS', raises: 'FAILURE', unknown: 'FAILURE', expired: 'REVOKED' });
  });

  t.test(`a worker of Celery ${celery.version} runs what a killed bundled worker held`, async (t) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const doomed = await startWorker(t, server, '-c', '1', '--prefetch', '8');
    await send(redis, { task: 'hold', id: 'held' });
    await eventually(async () => assert.equal(await redis.llen('ran'), 1));
    await send(
      redis,
      { task: 'ledger', id: 'a', args: ['ü'] },
      { task: 'ledger', id: 'b', priority: 6 },
      { task: 'ledger', id: 'c' },
    );
    await eventually(async () => assert.equal(await redis.hlen('unacked'), 3));
    doomed.kill('SIGKILL');
    await doomed.exited;
    const killedMs = await redisNow(redis);
    // Celery looks for lost messages when it starts: so it is to start when they count as lost.
    await eventually(async () => assert.ok((await redisNow(redis)) > killedMs + 1_200));
    await startCeleryWorker(t, celery, server.url, { transportOptions: { visibility_timeout: 1 } });
    await eventually(async () => assert.equal(await redis.llen('ledger'), 3));
    const runs = (await redis.lrange('ledger', 0, -1)).map((text) => JSON.parse(text));
    t.same(runs.map(({ id }) => id).sort(), ['a', 'b', 'c']);
    t.ok(runs.every(({ redelivered }) => redelivered === true));
    await eventually(async () => assert.deepEqual(await whereabouts(redis), NOWHERE));
  });

  t.test(`the bundled worker runs what a killed worker of Celery ${celery.version} held`, async (t) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const doomed = await startCeleryWorker(t, celery, server.url);
    await runPython(
      t,
      celery,
      server.url,
      "from ringbeat_test_app import slow_late\nslow_late.apply_async((600,), task_id='a')",
    );
    await eventually(async () => assert.equal(await redis.llen('started'), 1));
    doomed.kill('SIGKILL');
    await doomed.exited;
    await startWorker(t, server, '--visibility-timeout', '1');
    await eventually(async () => assert.deepEqual(await redis.lrange('ran', 0, -1), ['a']));
    await eventually(async () => assert.deepEqual(await whereabouts(redis), NOWHERE));
  });
}
