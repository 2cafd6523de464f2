import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { resultKey } from '../../lua/keys.ts';
import { until } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { type Spawned, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { allSettled, LEDGER_TASKS, Ledger, sendPlan, stateOf } from './worker-ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

interface Stage {
  readonly server: RedisServer;
  readonly redis: Redis;
  readonly ledger: Ledger;
}

async function setUp(t: Test): Promise<Stage> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { server, redis, ledger: Ledger.open(t) };
}

function startWorker(t: Test, { server }: Stage, ...args: readonly string[]): Promise<Spawned> {
  return spawnWorker(t, server.url, ['--tasks', LEDGER_TASKS, ...args]);
}

/** How a child that runs one task each of these kinds dies, and what is seen of them afterwards. */
const DEATHS: readonly (readonly [task: string, entered: number, state: string])[] = [
  ['effect', 1, 'FAILURE'],
  ['effect-late', 1, 'FAILURE'],
  ['effect-put-back', 2, 'SUCCESS'],
];

t.test(
  'kill -9 of a process of the pool costs the run that it had, or a second run where its task says so',
  async (t) => {
    const stage = await setUp(t);
    const { redis, ledger } = stage;
    const worker = await startWorker(t, stage, '--pool', 'processes', '-c', '4');
    await sendPlan(redis, ledger, { id: 'innocent', task: 'effect' }, { gate: 'go' });
    for (const [task] of DEATHS) await sendPlan(redis, ledger, { id: task, task }, { gate: 'go' });
    await until(() => ['innocent', ...DEATHS.map(([task]) => task)].every((id) => ledger.entered(id) === 1), 'all run');
    for (const [task] of DEATHS) process.kill(pidOf(ledger, task), 'SIGKILL');
    await until(() => ledger.entered('effect-put-back') === 2, 'it runs again');
    ledger.openGate('go');
    await allSettled(redis);
    for (const [task, entered, state] of DEATHS) {
      t.same([ledger.entered(task), await stateOf(redis, task)], [entered, state], task);
    }
    t.match(JSON.parse((await redis.get(resultKey('effect')))!), { result: { exc_type: 'WorkerLostError' } });
    t.same([ledger.entered('innocent'), await stateOf(redis, 'innocent')], [1, 'SUCCESS']);
    t.notOk(worker.hasExited());
  },
);

t.test('a thread of the pool that its task ends costs no other task', async (t) => {
  const stage = await setUp(t);
  const { redis, ledger } = stage;
  const worker = await startWorker(t, stage, '--pool', 'threads', '-c', '2');
  await sendPlan(redis, ledger, { id: 'innocent', task: 'effect' }, { gate: 'go' });
  for (const task of ['effect', 'effect-late']) await sendPlan(redis, ledger, { id: task, task }, { dies: 'exit' });
  for (const task of ['effect', 'effect-late'])
    await until(async () => (await stateOf(redis, task)) === 'FAILURE', `${task} has failed`);
  ledger.openGate('go');
  await until(async () => (await stateOf(redis, 'innocent')) === 'SUCCESS', 'the other has succeeded');
  await allSettled(redis);
  t.same([ledger.entered('effect'), ledger.entered('effect-late'), ledger.entered('innocent')], [1, 1, 1]);
  t.notOk(worker.hasExited());
});

for (const pool of ['threads', 'processes', 'solo']) {
  t.test(
    `kill -9 of a worker with pool ${pool}: acks late run again, acks early do not, and no process stays`,
    async (t) => {
      const stage = await setUp(t);
      const { redis, ledger } = stage;
      const tasks = pool === 'solo' ? ['effect-late'] : ['effect', 'effect-late'];
      const worker = await startWorker(t, stage, '--pool', pool, '-c', String(tasks.length));
      for (const task of tasks) await sendPlan(redis, ledger, { id: task, task }, { gate: 'go' });
      await until(() => tasks.every((task) => ledger.entered(task) === 1), 'they run');
      // Takes no slot: it stays reserved, and acks early or late make no difference to it.
      await sendPlan(redis, ledger, { id: 'reserved' });
      const pids = new Set(ledger.lines().map(({ pid }) => pid));
      worker.kill('SIGKILL');
      await worker.exited;
      await until(() => [...pids].every((pid) => !isRunning(pid)), 'its processes have ended');
      ledger.openGate('go');
      await startWorker(t, stage);
      await allSettled(redis);
      t.same([ledger.entered('effect-late'), await stateOf(redis, 'effect-late')], [2, 'SUCCESS']);
      t.same([ledger.entered('reserved'), await stateOf(redis, 'reserved')], [1, 'SUCCESS']);
      if (pool !== 'solo') t.same([ledger.entered('effect'), await stateOf(redis, 'effect')], [1, null]);
    },
  );
}

function pidOf(ledger: Ledger, id: string): number {
  const [line] = ledger.of(id, 'entered');
  if (line === undefined) throw new Error(`${id} has not been entered`);
  return line.pid;
}
