import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import type { TaskOptions } from '../../client/task.ts';
import type { Json } from '../../protocol/json.ts';
import { readMessage, type TaskMessage } from '../../protocol/message-reader.ts';
import { JsonText } from '../../protocol/result.ts';
import { SoftTimeLimitExceeded } from '../../protocol/task-errors.ts';
import { Cancellation } from '../../worker/cancellation.ts';
import type { TaskPort } from '../../worker/context.ts';
import type { Outcome } from '../../worker/outcome.ts';
import type { ChildrenPool } from '../../worker/pools/children-pool.ts';
import type { Job } from '../../worker/pools/pool.ts';
import { ProcessesPool } from '../../worker/pools/processes-pool.ts';
import { ThreadsPool } from '../../worker/pools/threads-pool.ts';
import { eventually } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { envelope } from './messages.ts';

const TASKS = fileURLToPath(new URL('./pool-tasks.js', import.meta.url));
const KINDS = ['processes', 'threads'] as const;

interface Options {
  readonly size?: number;
  readonly tasks?: string;
  readonly maxTasks?: number;
  readonly maxMemoryKib?: number;
}

interface Started {
  readonly pool: ChildrenPool;
  readonly log: { readonly event?: string; readonly [field: string]: unknown }[];
  readonly states: [string, string, Json][];
  /** Runs a task to its end. */
  run(task: string, ...args: readonly Json[]): Promise<Outcome>;
  /** The value that it returned. */
  value(task: string, ...args: readonly Json[]): Promise<unknown>;
}

async function startPool(t: Test, kind: (typeof KINDS)[number], options: Options = {}): Promise<Started> {
  const log: Started['log'] = [];
  const states: Started['states'] = [];
  const logger = pino({ level: 'info', base: null }, { write: (line: string) => void log.push(JSON.parse(line)) });
  const port: TaskPort = {
    hostname: 'w@h',
    log: logger,
    nowMs: () => 1_000,
    storeState: async ({ id }: TaskMessage, state: string, meta: Json) => {
      if (state === 'REFUSED') throw new Error('Redis does not answer');
      states.push([id, state, meta]);
    },
    extendLease: async () => {},
    sendEvent: () => {},
  };
  const common = {
    size: options.size ?? 1,
    setup: {
      tasks: [options.tasks ?? TASKS],
      taskSendSentEvent: false,
      hostname: 'w@h',
      redis: 'redis://127.0.0.1:1/0',
      namespace: 'rb',
      logLevel: 'info',
      maxMemoryKib: options.maxMemoryKib ?? null,
    },
    maxTasks: options.maxTasks ?? null,
    port,
    log: logger,
    onUsable: () => {},
  };
  const pool = kind === 'threads' ? new ThreadsPool(common) : new ProcessesPool({ ...common, timeouts: [null, 5] });
  t.teardown(() => pool.stop(true));
  await pool.start();
  const run = (task: string, ...args: readonly Json[]) =>
    new Promise<Outcome>((resolve) => give(pool, jobOf({ task, args }), resolve));
  const value = async (task: string, ...args: readonly Json[]) => returned(await run(task, ...args));
  return { pool, log, states, run, value };
}

function give(pool: ChildrenPool, job: Job, onEnd: (outcome: Outcome) => void): void {
  const onEnter = () => {
    assert.ok(!job.isEntered, 'a job is entered once');
    job.isEntered = true;
  };
  pool.run(job, onEnter, (outcome) => {
    assert.ok(job.isEntered, 'what ends was entered');
    onEnd(outcome);
  });
}

interface JobParts {
  readonly task: string;
  readonly args?: readonly Json[];
  readonly id?: string;
  readonly options?: TaskOptions;
  readonly isLate?: boolean;
}

function jobOf({ task, args = [], id = 'id-1', options = {}, isLate = false }: JobParts): Job {
  const text = envelope({ task, args, id });
  return {
    delivery: {
      tag: id,
      list: 'celery',
      envelope: text,
      message: readMessage(text),
      task: { name: task, options, run: () => null },
      isLate,
      isLost: false,
      isAdmitted: false,
    },
    startedAtMs: 0,
    startedAt: 0,
    pid: 0,
    softLimitSec: null,
    hardLimitSec: null,
    cancellation: new Cancellation(),
    place: -1,
    isEntered: false,
    terminateBy: null,
    isOver: false,
  };
}

function returned(outcome: Outcome): unknown {
  assert.ok(outcome.state === 'success' && outcome.value instanceof JsonText, JSON.stringify(outcome));
  return JSON.parse(outcome.value.text);
}

const lost = (how: string, number: number) => ({
  state: 'failure',
  exception: {
    type: 'WorkerLostError',
    module: 'billiard.exceptions',
    args: [`Worker exited prematurely: ${how} Job: ${number}.`],
  },
  traceback: null,
});

for (const kind of KINDS) {
  t.test(`pool ${kind}`, async (t) => {
    t.test('a task runs outside of this process or thread, and what it returns comes back', async (t) => {
      const { value, run } = await startPool(t, kind);
      t.equal(await value('add', 2, 3), 5);
      t.not(await value('where'), `${process.pid}/0`);
      t.match(await run('unwritable'), { state: 'failure', exception: { type: 'EncodeError' } });
    });

    t.test('two tasks that compute do so at the same time in two places', async (t) => {
      const { value } = await startPool(t, kind, { size: 2 });
      const [one, other] = (await Promise.all([value('compute', 400), value('compute', 400)])) as [Span, Span];
      t.not(one.where, other.where);
      t.ok(one.fromMs < other.toMs && other.fromMs < one.toMs, 'their times overlap');
    });

    t.test('one child runs one job at a time, in the order in which they came', async (t) => {
      const { value } = await startPool(t, kind);
      const spans = (await Promise.all([1, 2, 3].map(() => value('compute', 20)))) as Span[];
      for (const [index, span] of spans.slice(1).entries()) t.ok(span.fromMs >= (spans[index]?.toMs ?? Infinity));
    });

    t.test('process.exit in a task fails that task alone', async (t) => {
      const { pool, run, value, log } = await startPool(t, kind, { size: 2 });
      const other = value('compute', 500);
      t.same(await run('exit', 7), lost('exitcode 7', 1));
      t.match(await other, { where: String });
      t.equal(await value('add', 1, 1), 2);
      await eventually(() => assert.equal(placesOf(pool).length, 2));
      t.match(
        log.find(({ event }) => event === 'child_lost'),
        { how: 'exitcode 7', task: 'exit', id: 'id-1' },
      );
    });

    t.test('an error that nobody catches fails the task that ran', async (t) => {
      const { run, value } = await startPool(t, kind);
      const outcome = await run('throw-later');
      t.match(outcome, { state: 'failure', exception: { type: 'WorkerLostError' } });
      t.equal(await value('add', 1, 1), 2);
    });

    t.test('a task that rejects on a lost worker is put back, where it is acknowledged late', async (t) => {
      const { pool } = await startPool(t, kind);
      const ended = (parts: Partial<JobParts>) =>
        new Promise((resolve) => give(pool, jobOf({ task: 'exit', args: [1], ...parts }), resolve));
      const options = { rejectOnWorkerLost: true };
      t.match(await ended({ isLate: true, options }), { state: 'lost', reason: /exited prematurely: exitcode 1/ });
      t.match(await ended({ isLate: true }), { state: 'failure', exception: { type: 'WorkerLostError' } });
      t.match(await ended({ options }), { state: 'failure', exception: { type: 'WorkerLostError' } });
    });

    t.test('a task that never pauses is ended, nobody hears of it again, and its slot is used by others', async (t) => {
      const { pool, value, log } = await startPool(t, kind);
      const before = await value('where');
      const job = jobOf({ task: 'hang' });
      let isHeardOf = false;
      give(pool, job, () => {
        isHeardOf = true;
      });
      const next = value('where');
      pool.kill(job, 'SIGTERM');
      t.not(await next, before);
      t.notOk(isHeardOf);
      t.notOk(log.some(({ event }) => event === 'child_lost'));
    });

    t.test('a job that is taken back while it waits for a child never runs', async (t) => {
      const { pool, value } = await startPool(t, kind);
      const first = value('compute', 100);
      const job = jobOf({ task: 'exit', args: [1] });
      give(pool, job, () => t.fail('it has no end'));
      const other = value('where');
      t.ok(pool.takeBack(job));
      const where = ((await first) as Span).where;
      t.equal(await other, where);
      t.notOk(job.isEntered);
    });

    t.test('a job that runs cannot be taken back', async (t) => {
      const { pool } = await startPool(t, kind);
      const job = jobOf({ task: 'compute', args: [50] });
      const ended = new Promise((resolve) => give(pool, job, resolve));
      t.notOk(pool.takeBack(job));
      t.match(await ended, { state: 'success' });
    });

    t.test('jobs that wait are run by whichever child is free', async (t) => {
      const { value } = await startPool(t, kind, { size: 2 });
      const long = value('compute', 1_000) as Promise<Span>;
      const short = (await Promise.all(Array.from({ length: 8 }, () => value('compute', 10)))) as Span[];
      const { where } = await long;
      t.notOk(short.some((span) => span.where === where));
    });

    t.test('a child that dies takes none of the jobs with it that wait', async (t) => {
      const { run, value } = await startPool(t, kind);
      const died = run('exit', 7);
      const sums = [1, 2, 3].map((one) => value('add', one, 1));
      t.match(await died, { state: 'failure', exception: { type: 'WorkerLostError' } });
      t.same(await Promise.all(sums), [2, 3, 4]);
    });

    t.test('jobs that wait are run by the children that replace the present ones', async (t) => {
      const { pool, value } = await startPool(t, kind);
      const first = value('compute', 100) as Promise<Span>;
      const others = [1, 2].map(() => value('where'));
      pool.restart();
      const { where } = await first;
      t.notOk((await Promise.all(others)).includes(where));
    });

    t.test('a soft limit aborts the signal of a task that listens', async (t) => {
      const { pool } = await startPool(t, kind);
      const job = jobOf({ task: 'wait-for-signal' });
      const ended = new Promise((resolve) => give(pool, job, resolve));
      pool.interrupt(job, new SoftTimeLimitExceeded());
      t.match(await ended, {
        state: 'failure',
        exception: { type: 'SoftTimeLimitExceeded', module: 'billiard.exceptions', args: [] },
      });
    });

    t.test('what a task logs and asks for reaches the worker', async (t) => {
      const { run, log, states } = await startPool(t, kind);
      t.match(await run('speak', 'hello'), { state: 'success' });
      t.match(
        log.find(({ event }) => event === 'spoken'),
        { line: 'hello', task: 'speak', id: 'id-1' },
      );
      t.same(states, [['id-1', 'PROGRESS', { line: 'hello' }]]);
      t.match(await run('refused'), { state: 'failure', exception: { args: ['Redis does not answer'] } });
    });

    t.test('it grows at once, and shrinks when tasks have ended', async (t) => {
      const { pool, value } = await startPool(t, kind);
      pool.resize(3);
      await eventually(async () => {
        const spans = (await Promise.all([1, 2, 3].map(() => value('compute', 100)))) as Span[];
        assert.equal(new Set(spans.map(({ where }) => where)).size, 3);
      });
      const busy = value('compute', 200);
      pool.resize(1);
      await busy;
      await eventually(() => assert.equal(placesOf(pool).length, 1));
      const later = (await Promise.all([1, 2, 3].map(() => value('compute', 10)))) as Span[];
      t.equal(new Set(later.map(({ where }) => where)).size, 1);
    });

    t.test('a module that fails in the children alone keeps the pool from starting, and says why', async (t) => {
      const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-pool-'));
      t.teardown(() => rmSync(folder, { recursive: true, force: true }));
      const tasks = join(folder, 'tasks.mjs');
      writeFileSync(tasks, "throw new Error('no such host');");
      await t.rejects(startPool(t, kind, { tasks, size: 2 }), {
        code: 'TASKS_MODULE',
        message: /tasks\.mjs: no such host/,
      });
      writeFileSync(tasks, 'process.exit(3);');
      await t.rejects(startPool(t, kind, { tasks, size: 2 }), { code: 'CHILD_LOST', message: /exitcode 3/ });
    });
  });
}

interface Span {
  readonly where: string;
  readonly fromMs: number;
  readonly toMs: number;
}

/** Processes or threads of a pool. */
function placesOf(pool: ChildrenPool): readonly unknown[] {
  const { processes, threads } = pool.info();
  return typeof threads === 'number' ? Array(threads) : (processes as readonly number[]);
}

t.test('a thread that has jobs ahead tells of the ends before, and when they were', async (t) => {
  const { pool } = await startPool(t, 'threads');
  const ranMs: number[] = [];
  let isLongOver = false;
  const give = (ms: number) =>
    new Promise<void>((resolve) => {
      let enteredAtMs = 0;
      pool.run(
        jobOf({ task: 'compute', args: [ms] }),
        (agoMs) => {
          enteredAtMs = performance.now() - agoMs;
        },
        (_outcome, agoMs) => {
          ranMs.push(performance.now() - agoMs - enteredAtMs);
          resolve();
        },
      );
    });
  const short = Array.from({ length: 12 }, () => give(3));
  const long = give(2_000).then(() => {
    isLongOver = true;
  });
  await Promise.all(short);
  t.notOk(isLongOver, 'the long one behind them still runs');
  t.same(
    ranMs.filter((ms) => ms < 3 || ms > 1_000),
    [],
    'each ran for its time',
  );
  await long;
});

t.test('a child process that is killed fails its task with the signal', async (t) => {
  const { run, value } = await startPool(t, 'processes');
  t.equal(await value('add', 1, 1), 2);
  t.same(await run('die'), lost('signal 9 (SIGKILL)', 1));
  t.equal(await value('add', 1, 1), 2);
});

t.test('a child process that is killed while it has nothing to do is replaced', async (t) => {
  const { pool, value, log } = await startPool(t, 'processes');
  const [pid] = pool.info().processes as number[];
  assert.ok(pid !== undefined);
  process.kill(pid, 'SIGKILL');
  await eventually(() => assert.ok(log.some(({ event }) => event === 'child_lost')));
  t.not(await value('where'), `${pid}/0`);
});

t.test('a child process is replaced after so many tasks', async (t) => {
  const { value } = await startPool(t, 'processes', { maxTasks: 2 });
  const places: unknown[] = [];
  for (let task = 0; task < 6; task++) places.push(await value('where'));
  t.equal(new Set(places).size, 3);
  t.same([places[0], places[2], places[4]], [places[1], places[3], places[5]]);
});

t.test('a child process that has grown too large is replaced after its task', async (t) => {
  const { value, log } = await startPool(t, 'processes', { maxMemoryKib: 400_000 });
  const before = await value('where');
  t.equal(await value('add', 1, 1), 2);
  t.equal(await value('grow', 450), before, 'the task that grew it ends well');
  t.not(await value('where'), before);
  t.match(
    log.find(({ event }) => event === 'child_too_large'),
    { mostKib: 400_000 },
  );
});

t.test('signals that a task could outlive end it nevertheless', async (t) => {
  const { pool, value } = await startPool(t, 'processes');
  const before = await value('where');
  const job = jobOf({ task: 'hang' });
  give(pool, job, () => t.fail('it has no end'));
  pool.kill(job, 'SIGUSR1');
  t.not(await value('where'), before);
});

t.test('a pool that stops leaves no process behind', async (t) => {
  for (const isCold of [false, true]) {
    const { pool, value } = await startPool(t, 'processes', { size: 2 });
    await value('add', 1, 1);
    const pids = pool.info().processes as number[];
    if (isCold) give(pool, jobOf({ task: 'hang' }), () => {});
    await pool.stop(isCold);
    t.same(pids.filter(isRunning), []);
  }
});

t.test("its part of Celery's stats", async (t) => {
  const { pool } = await startPool(t, 'processes', { size: 2, maxTasks: 10 });
  t.match(pool.info(), {
    'max-concurrency': 2,
    processes: [Number, Number],
    'max-tasks-per-child': 10,
    'put-guarded-by-semaphore': false,
    timeouts: [0, 5],
  });
});
