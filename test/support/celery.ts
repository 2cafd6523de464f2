import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Test } from 'tap';
import { until } from './eventually.ts';
import { type Spawned, spawnProcess } from './processes.ts';

const run = promisify(execFile);

/** A Python that has Celery and redis-py. */
export interface CeleryPython {
  /** The oldest supported Celery, Debian's, and the newest that can be had. */
  readonly name: '5.2' | 'newest';
  readonly python: string;
  /** Celery's own version, such as `5.2.6`. */
  readonly version: string;
}

/** Debian's packages python3-celery and python3-redis belong to this one; another `python3` may come first on PATH. */
const DEBIAN_PYTHON = '/usr/bin/python3';

/**
 * Every Celery to test with. Debian's must be there (`npm run setup redis celery` installs it). The newest is kept in
 * a virtual environment under ~/.cache/ringbeat-test (or $RINGBEAT_TEST_CACHE), made once where pip can reach PyPI; where
 * it cannot, or with RINGBEAT_TEST_NEWEST_CELERY=0, the list holds one, and the reason is written as a comment of `t`.
 */
export async function celeryPythons(t: Test): Promise<CeleryPython[]> {
  const pythons: CeleryPython[] = [{ name: '5.2', python: DEBIAN_PYTHON, version: await celeryVersion(DEBIAN_PYTHON) }];
  try {
    const python = await newestCelery();
    pythons.push({ name: 'newest', python, version: await celeryVersion(python) });
  } catch (error) {
    t.comment(`Newest Celery is left out: ${error instanceof Error ? error.message.trim().split('\n').at(-1) : error}`);
  }
  return pythons;
}

async function celeryVersion(python: string): Promise<string> {
  const { stdout } = await run(python, ['-c', 'import celery, redis; print(celery.__version__)'], {
    env: pythonEnvironment(),
  });
  return stdout.trim();
}

async function newestCelery(): Promise<string> {
  if (process.env.RINGBEAT_TEST_NEWEST_CELERY === '0') throw new Error('RINGBEAT_TEST_NEWEST_CELERY=0');
  return virtualEnvironment('celery', ['celery[redis]']);
}

/**
 * A Python that has these packages from PyPI, in a virtual environment of this name that is kept and made once. Throws where
 * pip cannot get them.
 */
export async function virtualEnvironment(name: string, packages: readonly string[]): Promise<string> {
  const cache = process.env.RINGBEAT_TEST_CACHE ?? join(homedir(), '.cache', 'ringbeat-test');
  const environment = join(cache, name);
  const python = join(environment, 'bin', 'python');
  if (existsSync(python)) return python;
  mkdirSync(cache, { recursive: true });
  const failed = join(cache, `${name}-failed`);
  refuseAfterFailure(failed);
  // Test files run side by side: each builds a copy of its own and the first to finish puts it in place. Moving it is
  // sound because it is only ever run as `bin/python -m celery`.
  const building = mkdtempSync(join(cache, 'building-'));
  try {
    await makeEnvironment(building, packages);
    renameSync(building, environment);
  } catch (error) {
    rmSync(building, { recursive: true, force: true });
    if (existsSync(python)) return python;
    writeFileSync(failed, error instanceof Error ? error.message : String(error));
    throw error;
  }
  return python;
}

async function makeEnvironment(folder: string, packages: readonly string[]): Promise<void> {
  // Debian's own python3 may lack venv, while another on PATH has it, and the other way round.
  await run('python3', ['-m', 'venv', folder]).catch(() => run(DEBIAN_PYTHON, ['-m', 'venv', '--clear', folder]));
  const pip = ['-m', 'pip', '--disable-pip-version-check', '--retries', '1', '--timeout', '10'];
  await run(join(folder, 'bin', 'python'), [...pip, 'install', '--quiet', ...packages], { timeout: 150_000 });
}

/** Without a network each test file would wait for pip's timeouts again. */
const FAILURE_HOLDS_MS = 10 * 60_000;

function refuseAfterFailure(file: string): void {
  if (!existsSync(file)) return;
  const ageMs = Date.now() - statSync(file).mtimeMs;
  if (ageMs < FAILURE_HOLDS_MS) throw new Error(readFileSync(file, 'utf8'));
  rmSync(file, { force: true });
}

/**
 * The application that workers run and producers import. `ledger` records what it was called with, as JSON, in the
 * Redis list `ledger`: {id, args, kwargs, ringbeat, redelivered, at}. `echo` returns what it is given, noted in `echoed`; `failed` is an errback that notes the failed task in `failed`;
 * `span` notes in `spans` when it begins and when it ends: {is, id, pid, schedule, due, run, attempt}.
 */
const APP = `
import json, os, time
import redis
from celery import Celery

URL = os.environ['RINGBEAT_TEST_REDIS']
app = Celery('ringbeat_test_app', broker=URL, backend=URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=True,
    broker_transport_options=json.loads(os.environ.get('RINGBEAT_TEST_TRANSPORT_OPTIONS', '{}')),
)
connection = redis.from_url(URL)

@app.task(name='add')
def add(x, y):
    return x + y

@app.task(name='boom')
def boom(message):
    raise ValueError(message)

@app.task(name='slow')
def slow(seconds):
    time.sleep(seconds)
    return seconds

@app.task(name='slow_late', acks_late=True)
def slow_late(seconds):
    connection.rpush('started', seconds)
    time.sleep(seconds)
    return seconds

@app.task(name='ledger', bind=True)
def ledger(self, *args, **kwargs):
    connection.rpush('ledger', json.dumps({
        'id': self.request.id,
        'args': args,
        'kwargs': kwargs,
        'ringbeat': self.request.__dict__.get('ringbeat'),
        'redelivered': (self.request.delivery_info or {}).get('redelivered'),
        'at': time.time(),
    }))

@app.task(name='echo')
def echo(value):
    connection.rpush('echoed', json.dumps(value, default=str))
    return value

@app.task(name='span', bind=True)
def span(self, seconds):
    header = self.request.__dict__.get('ringbeat')
    def note(what):
        connection.rpush('spans', json.dumps({'is': what, 'id': self.request.id, 'pid': os.getpid(), **header}))
    note('start')
    time.sleep(seconds)
    note('end')

@app.task(name='tsum')
def tsum(numbers):
    return sum(numbers)

@app.task(name='failed')
def failed(task_id):
    connection.rpush('failed', task_id)

@app.task(name='span_late', bind=True, acks_late=True)
def span_late(self, seconds):
    span.run.__func__(self, seconds)

# As those of worker-ledger-tasks.ts.
def run_effect(self, folder, plan):
    def note(what):
        line = json.dumps({'is': what, 'id': self.request.id, 'pid': os.getpid(), 'retries': self.request.retries})
        with open(os.path.join(folder, 'lines', str(os.getpid())), 'a') as file:
            file.write(line + '\\n')
    note('entered')
    while 'gate' in plan and not os.path.exists(os.path.join(folder, plan['gate'])):
        time.sleep(0.01)
    time.sleep(plan.get('seconds', 0))
    note('finished')
    if self.request.retries < plan.get('retries', 0):
        raise self.retry(countdown=plan.get('countdown', 0.05), max_retries=None)
    return self.request.id

@app.task(name='effect', bind=True)
def effect(self, folder, plan):
    return run_effect(self, folder, plan)

@app.task(name='effect-late', bind=True, acks_late=True)
def effect_late(self, folder, plan):
    return run_effect(self, folder, plan)
`;

function pythonEnvironment(folder?: string): NodeJS.ProcessEnv {
  return {
    ...process.env,
    PYTHONDONTWRITEBYTECODE: '1',
    // Celery warns at every start when it is root, and refuses pickle then; we use neither.
    C_FORCE_ROOT: '1',
    ...(folder === undefined ? {} : { PYTHONPATH: folder }),
  };
}

/** Folder of a test's own with `ringbeat_test_app.py` in it. */
function appFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-celery-'));
  writeFileSync(join(folder, 'ringbeat_test_app.py'), APP);
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface CeleryWorkerOptions {
  readonly queues?: readonly string[];
  readonly pool?: 'solo' | 'threads' | 'prefork';
  readonly concurrency?: number;
  /** Kombu's, such as `{visibility_timeout: 2}`. */
  readonly transportOptions?: Readonly<Record<string, unknown>>;
  readonly args?: readonly string[];
}

/** A `celery worker` on this Redis; resolves when it takes messages. SIGTERM is a warm shutdown. */
export async function startCeleryWorker(
  t: Test,
  celery: CeleryPython,
  redisUrl: string,
  options: CeleryWorkerOptions = {},
): Promise<Spawned> {
  const folder = appFolder(t);
  const args = [
    ...['-m', 'celery', '-A', 'ringbeat_test_app', 'worker', '-l', 'INFO', '-n', `${celery.name}@%h`],
    ...[
      '-Q',
      (options.queues ?? ['celery']).join(','),
      '-P',
      options.pool ?? 'solo',
      '-c',
      String(options.concurrency ?? 1),
    ],
    ...(options.args ?? []),
  ];
  const worker = await spawnProcess(t, celery.python, args, {
    cwd: folder,
    env: appEnvironment(folder, redisUrl, options.transportOptions),
  });
  await until(() => worker.stderr.includes(' ready.') || worker.hasExited(), 'celery worker is ready');
  if (worker.hasExited()) throw new Error(`celery worker ended:\n${worker.stdout}${worker.stderr}`);
  return worker;
}

/** Runs `celery -A ringbeat_test_app <args>` until it ends, or the test does. */
export async function spawnCelery(
  t: Test,
  celery: Pick<CeleryPython, 'python'>,
  redisUrl: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Spawned> {
  const folder = appFolder(t);
  return spawnProcess(t, celery.python, ['-m', 'celery', '-A', 'ringbeat_test_app', ...args], {
    cwd: folder,
    env: { ...appEnvironment(folder, redisUrl), PYTHONUNBUFFERED: '1', ...env },
  });
}

export interface PythonOptions {
  readonly transportOptions?: Readonly<Record<string, unknown>>;
  /** Default 120,000 ms. */
  readonly deadlineMs?: number;
}

/**
 * Runs Python in which `from ringbeat_test_app import app, add, boom, slow, slow_late, ledger, connection` works, and
 * returns what it printed. Throws with its traceback when it fails.
 */
export async function runPython(
  t: Test,
  celery: CeleryPython,
  redisUrl: string,
  code: string,
  options: PythonOptions = {},
): Promise<string> {
  const folder = appFolder(t);
  const { stdout } = await run(celery.python, ['-c', code], {
    cwd: folder,
    timeout: options.deadlineMs ?? 120_000,
    env: { ...pythonEnvironment(folder), ...appEnvironment(folder, redisUrl, options.transportOptions) },
  });
  return stdout;
}

function appEnvironment(
  folder: string,
  redisUrl: string,
  transportOptions: Readonly<Record<string, unknown>> = {},
): Record<string, string> {
  return {
    PYTHONDONTWRITEBYTECODE: '1',
    C_FORCE_ROOT: '1',
    PYTHONPATH: folder,
    RINGBEAT_TEST_REDIS: celeryUrl(redisUrl),
    RINGBEAT_TEST_TRANSPORT_OPTIONS: JSON.stringify(transportOptions),
  };
}

/** Kombu and redis-py name a Unix socket differently from everybody else; tests with Celery use TCP. */
function celeryUrl(redisUrl: string): string {
  if (redisUrl.startsWith('unix:')) throw new Error('Celery tests need a redis:// URL');
  return redisUrl;
}
