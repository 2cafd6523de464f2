import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { eventually } from '../support/eventually.ts';
import { spawnBeat, spawnWorker } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { type MessageParts, send } from './messages.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TASKS = fileURLToPath(new URL('./workflow-tasks.js', import.meta.url));
const GROUP = 'celery-taskset-meta-g';

async function setUp(t: Test, hasBeat = false, args: readonly string[] = []): Promise<Redis> {
  const server = await withRedis(t);
  if (hasBeat) await spawnBeat(t, server.url, ['--create-at-once']);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  await spawnWorker(t, server.url, ['--tasks', TASKS, ...args], { env: { RINGBEAT_TEST_REDIS: server.url } });
  return redis;
}

function signature(task: string, args: readonly number[] = [], options = {}) {
  return { task, args, kwargs: {}, options, subtask_type: null, immutable: false };
}

const BODY = signature('echo', [], { task_id: 'body' });

/** A member of the header of a chord of group `g`. */
function member(index: number, parts: MessageParts): MessageParts {
  return { ...parts, embed: { chord: BODY }, headers: { group: 'g', group_index: index } };
}

async function result(redis: Redis, id: string): Promise<Record<string, unknown>> {
  const record = await eventually(async () => {
    const found = await redis.get(`celery-task-meta-${id}`);
    assert.ok(found !== null, `${id} has ended`);
    return found;
  });
  return JSON.parse(record);
}

t.test('what replaces a task ends under its id, and what was to follow the task follows it', async (t) => {
  const redis = await setUp(t);
  const chain = [signature('add', [1000], { task_id: 'last' })];
  await send(redis, { task: 'replaced', id: 'r', args: [5], embed: { chain } });
  t.match(await result(redis, 'last'), { status: 'SUCCESS', result: 1105 });
  t.match(await result(redis, 'r'), { status: 'SUCCESS', result: 105, parent_id: 'r' });

  await send(redis, { task: 'replaced by a group', id: 'g', args: [5] });
  t.match(await result(redis, 'g'), { status: 'SUCCESS', result: [6, 7] });
});

t.test('a chord waits for a part that one of its members added', async (t) => {
  const redis = await setUp(t);
  await redis.set(`${GROUP}.s`, 2);
  await send(
    redis,
    member(0, { task: 'grow', id: 'a', args: [1] }),
    member(1, { task: 'add', id: 'b', args: [10, 10] }),
  );
  const body = await result(redis, 'body');
  t.equal(body.status, 'SUCCESS');
  t.same(
    (body.result as number[]).toSorted((one, other) => one - other),
    [1, 2, 20],
  );
  await eventually(async () => assert.deepEqual(await redis.keys(`${GROUP}.[jst]`), []));
  t.equal(await redis.llen('echoed'), 1);
});

t.test('a part that comes twice counts once, and a chord that was sent is not sent again', async (t) => {
  const redis = await setUp(t);
  await redis.set(`${GROUP}.s`, 2);
  const first = member(0, { task: 'add', id: 'a', args: [1, 1] });
  await send(redis, first, first);
  await result(redis, 'a');
  await eventually(async () => assert.equal(await redis.hlen('unacked'), 0));
  t.equal(await redis.zcard(`${GROUP}.j`), 1);
  await send(redis, member(1, { task: 'add', id: 'b', args: [2, 2] }));
  t.match(await result(redis, 'body'), { result: [2, 4] });
  await send(redis, member(1, { task: 'add', id: 'b', args: [2, 2] }), { task: 'echo', id: 'z', args: ['end'] });
  await result(redis, 'z');
  t.same(await redis.lrange('echoed', 0, -1), ['[2,4]', '"end"']);
});

t.test('a chord that a worker left over as it died is sent by another', async (t) => {
  const redis = await setUp(t);
  await redis.set(`${GROUP}.s`, 1);
  await redis.zadd(`${GROUP}.j`, 0, '[1, "a", "SUCCESS", 7]');
  await redis.hset('rb:chords', 'g', JSON.stringify({ chord: BODY, taskId: 'a', rootId: 'a' }));
  t.match(await result(redis, 'body'), { status: 'SUCCESS', result: [7], parent_id: 'a' });
  t.equal(await redis.hlen('rb:chords'), 0);
});

t.test('a callback that is no signature fails the task', async (t) => {
  const redis = await setUp(t);
  await send(redis, { task: 'add', id: 'a', args: [1, 1], embed: { callbacks: [{ task: 'x', subtask_type: 'odd' }] } });
  t.match(await result(redis, 'a'), { status: 'FAILURE', result: { exc_type: 'BadSignature' } });
});

t.test('celery.chord_unlock sends the body once all members have ended, or fails it', async (t) => {
  const redis = await setUp(t, true);
  const unlock = (id: string, body: string, ...members: readonly string[]): MessageParts => ({
    task: 'celery.chord_unlock',
    id,
    args: ['g', signature('echo', [], { task_id: body })],
    kwargs: { interval: 0.05, result: members.map((member) => [[member, null], null]) },
    headers: { ignore_result: true },
  });
  await send(redis, unlock('u', 'body', 'a', 'b'), { task: 'add', id: 'a', args: [1, 2] });
  await result(redis, 'a');
  await send(redis, { task: 'add', id: 'b', args: [3, 4] });
  t.match(await result(redis, 'body'), { status: 'SUCCESS', result: [3, 7] });

  await send(redis, { task: 'boom', id: 'c', args: ['bang'] }, unlock('v', 'failed body', 'a', 'c'));
  t.match(await result(redis, 'failed body'), { status: 'FAILURE', result: { exc_type: 'ChordError' } });
});

t.test('what a task sends is its child, says so, and is in the record of its success', async (t) => {
  const redis = await setUp(t, true);
  await send(redis, { task: 'parent', id: 'p', headers: { root_id: 'root' } });
  const { children } = await result(redis, 'p');
  const ids = (children as [[string, null], null][]).map(([[id]]) => id);
  t.equal(ids.length, 3);
  for (const id of ids) t.match(await result(redis, id), { status: 'SUCCESS', parent_id: 'p' });
  t.same(await redis.lrange('roots', 0, -1), ['root', 'root', 'root']);
});

for (const pool of ['async', 'processes']) {
  t.test(`--pool ${pool}: what a task sent is in the record of whatever state it comes to`, async (t) => {
    const redis = await setUp(t, true, ['--pool', pool, '-c', '2']);
    const task = 'parent that ends badly';
    await send(redis, ...['bang', 'retry', 'state', 'unwritable'].map((how) => ({ task, id: how, args: [how] })));
    const idsOf = ({ children }: Record<string, unknown>) => (children as [[string, null], null][]).map(([[id]]) => id);
    const failure = await result(redis, 'bang');
    const retry = await result(redis, 'retry');
    const unwritable = await result(redis, 'unwritable');
    t.match(unwritable, { status: 'FAILURE', result: { exc_type: 'EncodeError' }, children: { length: 2 } });
    t.match(failure, { status: 'FAILURE', children: { length: 2 } });
    t.match(retry, { status: 'RETRY', children: { length: 3 } });
    t.match(await result(redis, 'state'), { status: 'HALFWAY', result: 0.5, children: { length: 2 } });
    for (const id of idsOf(failure)) t.match(await result(redis, id), { status: 'SUCCESS', parent_id: 'bang' });
    t.equal(idsOf(retry).at(-1), 'retry', 'a retry sends the task itself, as Celery has it');
  });
}

t.test('a failure is stored and counted whatever its errbacks and its chain are', async (t) => {
  const redis = await setUp(t);
  await redis.set(`${GROUP}.s`, 1);
  const odd = [{ task: 'x', subtask_type: 'odd' }];
  await send(redis, {
    task: 'add',
    id: 'a',
    args: [1, 1],
    embed: { callbacks: odd, errbacks: odd, chain: odd, chord: BODY },
    headers: { group: 'g', group_index: 0 },
  });
  t.match(await result(redis, 'a'), { status: 'FAILURE', result: { exc_type: 'BadSignature' } });
  t.match(await result(redis, 'body'), { status: 'FAILURE', result: { exc_type: 'ChordError' } });
});
