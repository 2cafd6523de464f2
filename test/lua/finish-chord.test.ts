import t from 'tap';
import type { Action, PartAction } from '../../lua/actions.ts';
import { type FinishChordReply, finishChord } from '../../lua/finish-chord.ts';
import { namespaceKeys } from '../../lua/keys.ts';
import { withRedis } from '../support/redis-server.ts';

const GROUP = 'celery-taskset-meta-g';
const { chords } = namespaceKeys('rb');
const body: Action = { kind: 'push', list: 'celery', envelope: 'body' };

const server = await withRedis(t);
const redis = server.connect();
t.teardown(() => redis.disconnect());
t.beforeEach(() => redis.flushall());

function finish(token: string, actions: readonly Action[], outcome: 'sent' | 'failed' = 'sent') {
  return finishChord(redis, 'rb', { groupId: 'g', token, outcome, resultExpiresSec: 60, shards: 0, actions });
}

/** A chord of one part, counted, and claimed by `token`. */
async function complete(token: string): Promise<void> {
  await redis.set(`${GROUP}.s`, 1);
  await redis.set(`${GROUP}.c`, token);
  await redis.zadd(`${GROUP}.j`, 0, '[1, "a", "SUCCESS", 1]');
  await redis.hset(chords, 'g', '{}');
}

const NOTHING: FinishChordReply = { isFinished: false, completed: [] };

t.test('a chord is finished once', async (t) => {
  await complete('me');
  t.same(await finish('me', [body]), { isFinished: true, completed: [] });
  t.same(await finish('me', [body]), NOTHING);
  t.same(await redis.lrange('celery', 0, -1), ['body']);
  t.same(await redis.keys(`${GROUP}.[jstd]`), [], 'its keys are gone');
  t.equal(await redis.hlen(chords), 0);
});

t.test('a chord that another worker claimed is left to that, until its claim runs out', async (t) => {
  await complete('other');
  t.same(await finish('me', [body]), NOTHING);
  t.equal(await redis.hlen(chords), 1, 'it is still known as one to be finished');
  await redis.del(`${GROUP}.c`);
  t.same(await finish('me', [body]), { isFinished: true, completed: [] });
  t.same(await redis.lrange('celery', 0, -1), ['body']);
});

t.test('a chord whose keys are gone is forgotten, and nothing is sent', async (t) => {
  await redis.hset(chords, 'g', '{}');
  t.same(await finish('me', [body]), NOTHING);
  t.equal(await redis.hlen(chords), 0);
  t.equal(await redis.exists('celery'), 0);
});

t.test('of a chord whose body cannot run the parts stay, and a late one does not begin it anew', async (t) => {
  await complete('me');
  t.equal((await finish('me', [], 'failed')).isFinished, true);
  t.same(await redis.keys(`${GROUP}.[js]`), [`${GROUP}.j`]);
  t.same(await finish('other', [body]), NOTHING);
});

t.test('a body that is the last part of another chord completes that', async (t) => {
  await complete('me');
  await redis.set('celery-taskset-meta-outer.s', 1);
  const part: PartAction = { kind: 'chord', groupId: 'outer', index: 0, taskId: 'b', part: '[1]', follow: 'after' };
  t.same(await finish('me', [body, part]), { isFinished: true, completed: [part] });
  t.equal(await redis.hget(chords, 'outer'), 'after');
});
