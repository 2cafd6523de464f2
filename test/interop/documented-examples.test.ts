import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { type CeleryPython, celeryPythons } from '../support/celery.ts';
import { until } from '../support/eventually.ts';
import { spawnProcess, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

const TASKS = fileURLToPath(new URL('./documented-tasks.js', import.meta.url));

/** The examples of Celery's documentation, with what they call replaced by what tells whether it was called. */
const APP = `
import os, time
import redis
from celery import Celery, states
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

URL = os.environ['RINGBEAT_TEST_REDIS']
app = Celery('documented', broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, result_extended=True)
connection = redis.from_url(URL)

class FailWhaleError(Exception):
    pass

@app.task(name='send_twitter_status', bind=True)
def send_twitter_status(self, failures):
    try:
        if self.request.retries < failures:
            raise FailWhaleError('over capacity')
        return self.request.retries
    except FailWhaleError as exc:
        raise self.retry(exc=exc, countdown=0)

@app.task(name='custom_delay', bind=True, default_retry_delay=30 * 60)
def custom_delay(self, x, y):
    try:
        if self.request.retries == 0:
            raise FailWhaleError('something raising')
        return x + y
    except Exception as exc:
        raise self.retry(exc=exc, countdown=0)

@app.task(name='refresh_timeline', bind=True, autoretry_for=(FailWhaleError,), retry_kwargs={'max_retries': 5, 'countdown': 0})
def refresh_timeline(self, failures):
    if self.request.retries < failures:
        raise FailWhaleError('over capacity')
    return self.request.retries

@app.task(name='backs_off', bind=True, autoretry_for=(FailWhaleError,), retry_backoff=True, retry_backoff_max=1, retry_jitter=False)
def backs_off(self):
    if self.request.retries < 1:
        raise FailWhaleError('over capacity')
    return self.request.retries

@app.task(name='gives_up', bind=True)
def gives_up(self):
    raise self.retry(countdown=0, max_retries=1)

@app.task(name='mytask')
def mytask():
    try:
        time.sleep(60)
        return 'done'
    except SoftTimeLimitExceeded:
        return 'cleaned up in a hurry'

@app.task(name='crawl_the_web', track_started=True)
def crawl_the_web(seconds):
    time.sleep(seconds)
    return 'done'

@app.task(name='upload_files', bind=True)
def upload_files(self, filenames):
    for i, file in enumerate(filenames):
        if not self.request.called_directly:
            self.update_state(state='PROGRESS', meta={'current': i, 'total': len(filenames)})
        connection.blpop('go:' + self.request.id, 30)
    return 'uploaded'

@app.task(name='get_tweets', bind=True)
def get_tweets(self):
    if not self.request.called_directly:
        self.update_state(state=states.SUCCESS, meta=['tweet'])
    raise Ignore()

@app.task(name='render_scene', bind=True, acks_late=True)
def render_scene(self):
    raise Reject('out of memory', requeue=False)

@app.task(name='requeues', bind=True, acks_late=True)
def requeues(self):
    if not self.request.delivery_info['redelivered']:
        raise Reject('no reason', requeue=True)
    return 'received two times'

@app.task(name='limited', rate_limit='2/s')
def limited():
    return time.time()
`;

/** What a client sees of them. It prints {name: what its AsyncResult shows}. */
const CLIENT = `
import json, time
from celery.result import AsyncResult
from documented import *

def until(holds, what):
    deadline = time.time() + 60
    while not holds():
        if time.time() > deadline:
            raise Exception('not in time: ' + what)
        time.sleep(0.02)

def value_of(value):
    if isinstance(value, Exception):
        return [type(value).__name__, [str(argument) for argument in value.args]]
    return value

def show(result):
    until(result.ready, result.id)
    return {
        'state': result.state,
        'result': value_of(result.result),
        'info': value_of(result.info),
        'successful': result.successful(),
        'failed': result.failed(),
        'traceback': type(result.traceback).__name__,
        'done': type(result.date_done).__name__ != 'NoneType',
        'retries': result.retries,
        'name': result.name,
        'queue': result.queue,
    }

def without_request(shown):
    # Who stores it first, the command or the worker that gets the message, is left to chance.
    return {name: value for name, value in shown.items() if name not in ('retries', 'name', 'queue')}

def is_time(value):
    # JavaScript writes 12.0 as 12, which one clock reading in a thousand is.
    return isinstance(value, (int, float)) and abs(time.time() - value) < 600

def running(result):
    until(lambda: result.state == 'STARTED', result.id + ' runs')
    return result

def replies(answers):
    return [list(answer.values())[0] for answer in answers]

seen = {}
for failures in (0, 3, 4):
    seen['retry %d' % failures] = show(send_twitter_status.delay(failures))
seen['custom delay'] = show(custom_delay.delay(2, 2))
for failures in (5, 6):
    seen['autoretry %d' % failures] = show(refresh_timeline.delay(failures))
seen['backoff'] = show(backs_off.delay())
gives_up_result = gives_up.delay()
seen['max retries'] = show(gives_up_result)
seen['max retries']['result'][1] = [text.replace(gives_up_result.id, 'ID') for text in seen['max retries']['result'][1]]
seen['max retries']['info'] = None

seen['soft, caught'] = show(mytask.apply_async(soft_time_limit=1, time_limit=30))
seen['soft'] = show(crawl_the_web.apply_async((60,), soft_time_limit=1, time_limit=30))
seen['time_limit'] = replies(app.control.time_limit('crawl_the_web', soft=1, hard=30, reply=True))
app.control.time_limit('crawl_the_web', reply=True)
seen['hard'] = show(crawl_the_web.apply_async((60,), time_limit=1))

result = crawl_the_web.apply_async((0,), countdown=1)
result.revoke()
seen['revoked'] = without_request(show(result))
several = [crawl_the_web.apply_async((0,), countdown=1) for _ in range(2)]
app.control.revoke([result.id for result in several])
seen['revoked together'] = [without_request(show(result)) for result in several]
result = running(crawl_the_web.delay(60))
app.control.revoke(result.id, terminate=True)
seen['terminated'] = show(result)
result = running(crawl_the_web.delay(60))
app.control.revoke(result.id, terminate=True, signal='SIGKILL')
seen['killed'] = show(result)
seen['expired'] = show(crawl_the_web.apply_async((0,), countdown=1, expires=0.5))

result = upload_files.delay(['a', 'b'])
states_seen = []
for current in (0, 1):
    until(lambda: result.state == 'PROGRESS' and result.info['current'] == current, 'progress')
    states_seen.append([result.state, result.info, result.ready(), type(result.date_done).__name__])
    connection.rpush('go:' + result.id, 1)
seen['progress'] = [states_seen, show(result)]
seen['ignore'] = show(get_tweets.delay())
seen['requeued'] = show(requeues.delay())

results = [limited.delay() for _ in range(4)]
seen['rate limited'] = [is_time(result.get(timeout=60)) for result in results]
seen['rate_limit'] = replies(app.control.rate_limit('limited', '200/m', reply=True))
seen['bad rate_limit'] = replies(app.control.rate_limit('limited', 'often', reply=True))
seen['no such task'] = replies(app.control.rate_limit('nobody', '1/s', reply=True))
seen['rate limit lifted'] = replies(app.control.rate_limit('limited', 0, reply=True))
results = [limited.delay() for _ in range(4)]
seen['unlimited'] = [is_time(result.get(timeout=60)) for result in results]
seen['left'] = [connection.llen('celery')]
until(lambda: connection.hlen('unacked') == 0, 'everything is acknowledged')
print(json.dumps(seen))
`;

interface Stage {
  readonly url: string;
  readonly folder: string;
}

async function stage(t: Test): Promise<Stage> {
  const { url } = await withRedis(t);
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-documented-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, 'documented.py'), APP);
  return { url, folder };
}

function environment({ url, folder }: Stage): Record<string, string> {
  return { RINGBEAT_TEST_REDIS: url, PYTHONPATH: folder, PYTHONDONTWRITEBYTECODE: '1', C_FORCE_ROOT: '1' };
}

/** What the client sees, by name. */
async function play(t: Test, celery: CeleryPython, on: Stage): Promise<Record<string, unknown>> {
  const client = await spawnProcess(t, celery.python, ['-c', CLIENT], { cwd: on.folder, env: environment(on) });
  await client.exited;
  t.match(client.stdout, /^\{/, client.stderr);
  return JSON.parse(client.stdout);
}

/** With one process: with two, Celery may store the state RETRY after that of the next run (celery/app/task.py, retry). */
async function ofCelery(t: Test, celery: CeleryPython): Promise<Record<string, unknown>> {
  const on = await stage(t);
  const args = ['-m', 'celery', '-A', 'documented', 'worker', '-l', 'INFO', '-P', 'prefork', '-c', '1'];
  const worker = await spawnProcess(t, celery.python, args, { cwd: on.folder, env: environment(on) });
  await until(() => worker.stderr.includes(' ready.') || worker.hasExited(), 'the Python worker is ready');
  const seen = await play(t, celery, on);
  await worker.stop();
  return seen;
}

async function ofRingbeat(t: Test, celery: CeleryPython, pool: string): Promise<Record<string, unknown>> {
  const on = await stage(t);
  const args = ['--tasks', TASKS, '--pool', pool, '-c', '1', '--result-extended'];
  const worker = await spawnWorker(t, on.url, args, { env: { RINGBEAT_TEST_REDIS: on.url } });
  const seen = await play(t, celery, on);
  await worker.stop();
  return seen;
}

for (const celery of await celeryPythons(t)) {
  t.test(
    `a client of Celery ${celery.version} sees the documented examples end alike, whoever's worker runs them`,
    async (t) => {
      const pools = ['async', 'processes'];
      // Each mostly waits, and has a Redis of its own.
      const playing = pools.map((pool) => ofRingbeat(t, celery, pool));
      const [expected, ...played] = await Promise.all([ofCelery(t, celery), ...playing]);
      for (const [at, pool] of pools.entries()) {
        const seen = played[at]!;
        t.same(Object.keys(seen), Object.keys(expected));
        for (const [name, outcome] of Object.entries(expected)) t.same(seen[name], outcome, `${pool}: ${name}`);
      }
    },
  );
}
