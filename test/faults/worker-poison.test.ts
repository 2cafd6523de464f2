import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { KOMBU, namespaceKeys, resultKey } from '../../lua/keys.ts';
import { eventually, until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat, spawnRingbeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { allSettled, LEDGER_TASKS, Ledger, sendPlan, stateOf, unsettled } from './worker-ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 4;

const TIMEOUT_MS = 240_000;
t.setTimeout(2 * TIMEOUT_MS);

interface Stage {
  readonly server: RedisServer;
  readonly redis: Redis;
  readonly ledger: Ledger;
  readonly beat: SpawnedBeat;
}

async function setUp(t: Test): Promise<Stage> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { server, redis, ledger: Ledger.open(t), beat: await spawnBeat(t, server.url, ['--create-at-once']) };
}

const DEAD_ONE = { [namespaceKeys('rb').workerDeadLetters]: 1 };

/** One line of `ringbeat dead-letters list --json`. */
interface Listed {
  readonly id: string;
  readonly kind: string;
  readonly queue: string;
  readonly task_id: string;
  readonly reason: string;
}

async function listed(t: Test, { beat }: Stage): Promise<Listed[]> {
  const list = await spawnRingbeat(t, ['dead-letters', 'list', '--json', '--api', beat.api]);
  assert.deepEqual(await list.exited, { code: 0, signal: null }, list.stderr);
  return list.stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line): Listed => JSON.parse(line));
}

/** What was given up is sent again, by the command line, and now succeeds. */
async function replayCured(t: Test, stage: Stage, letter: Listed): Promise<void> {
  const { redis, ledger, beat } = stage;
  ledger.openGate('cured');
  const replay = await spawnRingbeat(t, ['dead-letters', 'replay', letter.id, '--api', beat.api]);
  t.same(await replay.exited, { code: 0, signal: null });
  await allSettled(redis);
  t.equal(await stateOf(redis, letter.task_id), 'SUCCESS');
}

t.test(
  'a message whose task ends the whole worker is given up at the third time; what was merely reserved beside it is not',
  { timeout: TIMEOUT_MS },
  async (t) => {
    const stage = await setUp(t);
    const { server, redis, ledger } = stage;
    await sendPlan(redis, ledger, { id: 'poison', task: 'effect-late', tag: 'poison' }, { dies: 'exit' });
    const innocents = ['innocent-1', 'innocent-2', 'innocent-3'];
    // What is given back is in no order, so it is their priority that keeps them behind the poison.
    for (const id of innocents)
      await sendPlan(redis, ledger, { id, task: 'effect-late', tag: id, priority: 9 }, { gate: 'late' });
    for (let deaths = 1; deaths <= 3; deaths++) {
      // The poison gets the one slot; the others are reserved.
      const args = ['worker', '--redis', server.url, '--tasks', LEDGER_TASKS, '-c', '1', '--prefetch', '20'];
      const dying = await spawnRingbeat(t, args);
      await dying.exited;
      t.equal(ledger.entered('poison'), deaths);
      await until(async () => (await redis.hlen(KOMBU.unacked)) === 0, 'its messages are given back');
      const wanted = deaths < 3 ? { poison: String(deaths) } : {};
      t.same(await redis.hgetall(namespaceKeys('rb').crashes), wanted, 'only the poison is counted');
    }
    await eventually(async () => assert.equal(await redis.xlen(namespaceKeys('rb').workerDeadLetters), 1));
    await eventually(async () => assert.equal(await stateOf(redis, 'poison'), 'FAILURE'));
    t.match(JSON.parse((await redis.get(resultKey('poison')))!), { result: { exc_type: 'WorkerLostError' } });
    t.same(
      innocents.map((id) => ledger.entered(id)),
      [0, 0, 0],
    );

    const survivor = await spawnWorker(t, server.url, ['--tasks', LEDGER_TASKS]);
    ledger.openGate('late');
    await eventually(async () => assert.deepEqual(await unsettled(redis), DEAD_ONE));
    for (const id of innocents) t.same([ledger.entered(id), await stateOf(redis, id)], [1, 'SUCCESS'], id);
    const letters = await listed(t, stage);
    t.match(letters, [
      { kind: 'message', queue: 'celery', task_id: 'poison', reason: /its worker died in each of 3 runs/ },
    ]);
    await replayCured(t, stage, letters[0]!);
    t.equal(ledger.entered('poison'), 4);
    t.notOk(survivor.hasExited());
  },
);

t.test(
  'tasks that run beside one that ends the whole worker are not given up with it: on their last chance they run one by one',
  { timeout: TIMEOUT_MS },
  async (t) => {
    const stage = await setUp(t);
    const { server, redis, ledger } = stage;
    const { crashes, workerDeadLetters } = namespaceKeys('rb');
    const innocents = ['innocent-1', 'innocent-2', 'innocent-3'];
    for (const id of innocents) await sendPlan(redis, ledger, { id, task: 'effect-late', tag: id }, { gate: 'late' });
    await sendPlan(redis, ledger, { id: 'poison', task: 'effect-late', tag: 'poison' }, { dies: 'exit' });
    const args = ['worker', '--redis', server.url, '--tasks', LEDGER_TASKS, '-c', '20'];
    for (const deaths of ['1', '2']) {
      const dying = await spawnRingbeat(t, args);
      await dying.exited;
      await until(async () => (await redis.hlen(KOMBU.unacked)) === 0, 'its messages are given back');
      const all = Object.fromEntries([...innocents, 'poison'].map((id) => [id, deaths]));
      t.same(await redis.hgetall(crashes), all, 'whoever ran may have been the cause');
    }
    ledger.openGate('late');
    const last = await spawnRingbeat(t, args);
    await last.exited;
    await until(async () => (await redis.xlen(workerDeadLetters)) === 1, 'the poison is given up');
    await spawnWorker(t, server.url, ['--tasks', LEDGER_TASKS]);
    await eventually(async () => assert.deepEqual(await unsettled(redis), DEAD_ONE));
    for (const id of innocents) t.equal(await stateOf(redis, id), 'SUCCESS', id);
    t.match(await listed(t, stage), [{ task_id: 'poison' }]);
  },
);

t.test(
  'a message whose task ends its process of the pool is given up at the third time, and no other task is disturbed',
  { timeout: TIMEOUT_MS },
  async (t) => {
    const stage = await setUp(t);
    const { server, redis, ledger } = stage;
    const worker = await spawnWorker(t, server.url, ['--tasks', LEDGER_TASKS, '--pool', 'processes', '-c', '2']);
    await sendPlan(redis, ledger, { id: 'innocent', task: 'effect-put-back' }, { gate: 'late' });
    await until(() => ledger.entered('innocent') === 1, 'one task runs');
    await sendPlan(redis, ledger, { id: 'poison', task: 'effect-put-back' }, { dies: 'abort' });
    await until(async () => (await redis.xlen(namespaceKeys('rb').workerDeadLetters)) === 1, 'it is given up');
    t.equal(ledger.entered('poison'), 3);
    ledger.openGate('late');
    await eventually(async () => assert.deepEqual(await unsettled(redis), DEAD_ONE));
    t.match(JSON.parse((await redis.get(resultKey('poison')))!), { result: { exc_type: 'WorkerLostError' } });
    t.same([ledger.entered('innocent'), await stateOf(redis, 'innocent')], [1, 'SUCCESS']);
    const letters = await listed(t, stage);
    t.match(letters, [
      { kind: 'message', queue: 'celery', task_id: 'poison', reason: /its process died in each of 3 runs/ },
    ]);
    await replayCured(t, stage, letters[0]!);
    t.notOk(worker.hasExited());
  },
);

t.test('--max-crashes 1: the first death is the last, and the worker goes on', async (t) => {
  const stage = await setUp(t);
  const { server, redis, ledger } = stage;
  const args = ['--tasks', LEDGER_TASKS, '--pool', 'processes', '-c', '1', '--max-crashes', '1'];
  await spawnWorker(t, server.url, args);
  await sendPlan(redis, ledger, { id: 'poison', task: 'effect-put-back' }, { dies: 'kill' });
  await sendPlan(redis, ledger, { id: 'next', task: 'effect-put-back' });
  await eventually(async () => assert.deepEqual(await unsettled(redis), DEAD_ONE));
  t.same([ledger.entered('poison'), await stateOf(redis, 'poison')], [1, 'FAILURE']);
  t.same([ledger.entered('next'), await stateOf(redis, 'next')], [1, 'SUCCESS']);
});

/** A member of a chord, with an errback: what waits for a message that is given up. */
async function sendAwaited(redis: Redis, ledger: Ledger, task: string): Promise<void> {
  const next = (id: string) => ({
    task: 'effect',
    args: ledger.args(),
    kwargs: {},
    options: { task_id: id },
    subtask_type: null,
    immutable: true,
  });
  await redis.set('celery-taskset-meta-g.s', '1');
  const embed = { errbacks: [next('errback')], chain: [next('next')], chord: next('body') };
  const headers = { group: 'g', group_index: 0 };
  await sendPlan(redis, ledger, { id: 'poison', task, embed, headers }, { dies: 'kill' });
}

/** What was told of the message's end. */
async function tellsOfTheEnd(t: Test, { redis, ledger }: Stage): Promise<void> {
  await eventually(async () => {
    assert.equal(await stateOf(redis, 'errback'), 'SUCCESS');
    assert.notEqual(await stateOf(redis, 'body'), null);
  });
  t.equal(ledger.entered('errback'), 1);
  for (const id of ['poison', 'next'])
    t.match(JSON.parse((await redis.get(resultKey(id)))!), { result: { exc_type: 'WorkerLostError' } }, id);
  t.match(JSON.parse((await redis.get(resultKey('body')))!), {
    status: 'FAILURE',
    result: { exc_type: 'ChordError', exc_message: [/^Dependency poison raised WorkerLostError/] },
  });
  t.same([ledger.entered('next'), ledger.entered('body')], [0, 0]);
  t.same(await redis.keys('rb:chords'), []);
}

t.test('what follows the failure of a message that is given up follows it: a process of the pool died', async (t) => {
  const stage = await setUp(t);
  const { server, redis, ledger } = stage;
  const args = ['--tasks', LEDGER_TASKS, '--pool', 'processes', '-c', '1', '--max-crashes', '2'];
  await spawnWorker(t, server.url, args);
  await sendAwaited(redis, ledger, 'effect-put-back');
  await tellsOfTheEnd(t, stage);
  t.equal(ledger.entered('poison'), 2);
});

t.test('what follows the failure of a message that is given up follows it: its worker died', async (t) => {
  const stage = await setUp(t);
  const { server, redis, ledger } = stage;
  const args = ['--tasks', LEDGER_TASKS, '--max-crashes', '1'];
  const worker = await spawnWorker(t, server.url, args);
  await sendAwaited(redis, ledger, 'effect-late');
  await worker.exited;
  t.equal(ledger.entered('poison'), 1);
  await spawnWorker(t, server.url, args);
  await tellsOfTheEnd(t, stage);
});

t.test(
  'beat nodes see to it where no bundled worker lives: its worker died, the others are not there yet',
  async (t) => {
    const stage = await setUp(t);
    const { server, redis, ledger } = stage;
    const args = ['--tasks', LEDGER_TASKS, '--max-crashes', '1'];
    const worker = await spawnWorker(t, server.url, args);
    await sendAwaited(redis, ledger, 'effect-late');
    await worker.exited;
    await eventually(async () => assert.deepEqual(await unsettled(redis), { ...DEAD_ONE, 'queue celery': 1 }));
    t.equal(await stateOf(redis, 'poison'), 'FAILURE');
    await spawnWorker(t, server.url, args);
    await tellsOfTheEnd(t, stage);
  },
);
