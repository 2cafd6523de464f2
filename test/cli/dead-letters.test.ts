import assert from 'node:assert/strict';
import t from 'tap';
import { eventually } from '../support/eventually.ts';
import { spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { ringbeat } from './ringbeat.ts';

t.test('what was given up is listed, sent again once that is possible, or forgotten', async (t) => {
  const server = await withRedis(t);
  const beat = await spawnBeat(t, server.url, ['--create-at-once']);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const run = (...args: string[]) => ringbeat(args, { env: { RINGBEAT_API: beat.api } });
  const list = async () => {
    const { stdout } = await run('dead-letters', 'list', '--json');
    return stdout === ''
      ? []
      : stdout
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line));
  };
  await redis.set('taken', 'no list');
  for (const id of ['a', 'b'])
    await run('schedules', 'add', id, '--task', 'x', '-Q', 'taken', '--at', '2026-01-01T00:00:00Z');
  await eventually(async () => {
    const { dead_letters } = (await (await fetch(`${beat.api}/v1/dead-letters`)).json()) as { dead_letters: unknown[] };
    assert.equal(dead_letters.length, 2);
  });

  const [letters, table, messages, unknown, first] = await Promise.all([
    list(),
    run('dead-letters', 'list', '--kind', 'schedule'),
    run('dead-letters', 'list', '--kind', 'message'),
    run('dead-letters', 'list', '--kind', 'dead'),
    run('dead-letters', 'list', '--limit', '1'),
  ]);
  t.match(table.stdout, /^ID +AT +KIND +SCHEDULE .*\n.* schedule +[ab] .*\n.* schedule +[ab] /);
  t.same(messages, { code: 0, stdout: '', stderr: '' });
  t.equal(unknown.code, 2);
  t.equal(first.stdout.split('\n').length, 3);
  t.equal(letters.length, 2);
  const [{ id: forgotten }, { id: replayed, schedule }] = letters;
  t.same(await run('dead-letters', 'delete', forgotten), { code: 0, stdout: 'deleted 1\n', stderr: '' });
  await redis.del('taken');
  t.same(await run('dead-letters', 'replay', '--all'), { code: 0, stdout: 'replayed 1\n', stderr: '' });
  t.same(await list(), []);
  await eventually(async () => assert.equal(await redis.llen('taken'), 1));
  t.match(JSON.parse((await redis.lindex('taken', 0))!).headers.ringbeat, { schedule });

  const gone = await run('dead-letters', 'replay', replayed);
  t.match(gone, { code: 1, stdout: 'replayed 0\n', stderr: new RegExp(`^ringbeat: ${replayed}: `) });
  t.equal((await run('dead-letters', 'replay')).code, 2);
  t.equal((await run('dead-letters', 'replay', 'x', '--all')).code, 2);
});
