import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { eventually } from '../support/eventually.ts';
import { spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { type CommandResult, ringbeat } from './ringbeat.ts';

// Most use the same node, with schedules of their own.
t.jobs = 3;

type Run = (...args: string[]) => Promise<CommandResult>;

/** A beat node, and the command line that talks to it. */
async function setUp(t: Test): Promise<Run> {
  const server = await withRedis(t);
  const beat = await spawnBeat(t, server.url, ['--create-at-once']);
  return (...args) => ringbeat(args, { env: { RINGBEAT_API: beat.api } });
}

const FAR = '2098-01-01T00:00:00.000Z';

const ALL_OPTIONS = [
  ...['-k', '{"a": [1]}', '-Q', 'q', '--cron', '*/5 9-17 * * *', '--tz', 'Europe/Berlin', '--dialect', 'celery'],
  ...['--start', '2097-01-01T00:00:00Z', '--end', FAR, '--max-runs', '3', '--jitter', '1.5'],
  ...['--exclude', '2097-12-25', '--exclude', '2097-06-01/2097-06-30', '--exclude', '0 12 * * *'],
  ...['--misfire', 'all', '--grace', '60', '--overlap', 'skip', '--max-queue-length', '7', '--priority', '9'],
  ...['--expires', '30', '--time-limit', '20', '--soft-time-limit', '10', '--ignore-result', 'true'],
  ...['--headers', '{"h": "v"}', '--worker', 'ringbeat', '--tags', 't1,t2', '--paused'],
];

const run = await setUp(t);

t.test('a schedule is added, read, listed, paused, resumed and removed', async (t) => {
  const added = await run('schedules', 'add', 'a/1', '--task', 'x.y', '--at', FAR, '-a', '[1.0, 12345678901234567890]');
  t.same(added, { code: 0, stdout: `created a/1, next run ${FAR}\n`, stderr: '' });
  const got = await run('schedules', 'get', 'a/1', '--json');
  t.match(got.stdout, '"args":[1.0,12345678901234567890]', 'numbers stay as they were written');
  t.match((await run('schedules', 'get', 'a/1')).stdout, /^\{\n {2}"id": "a\/1",\n/);

  t.match((await run('schedules', 'list', '--task', 'x.y')).stdout, /^ID +TASK +SCHEDULE.*\na\/1 +x\.y +at 2098-/);
  t.equal((await run('schedules', 'list', '--prefix', 'b')).stdout, '');

  t.same(await run('schedules', 'pause', 'a/1'), { code: 0, stdout: 'paused a/1\n', stderr: '' });
  t.equal(JSON.parse((await run('schedules', 'get', 'a/1')).stdout).state, 'paused');
  t.same(await run('schedules', 'resume', 'a/1'), { code: 0, stdout: 'resumed a/1\n', stderr: '' });
  t.equal((await run('schedules', 'next', 'a/1')).stdout, `${FAR}\n`);

  t.same(await run('schedules', 'remove', 'a/1'), { code: 0, stdout: 'removed a/1\n', stderr: '' });
  const again = await run('schedules', 'remove', 'a/1');
  t.equal(again.code, 1);
  t.match(again.stderr, 'There is no schedule "a/1"');
});

t.test('every field of a spec has an option', async (t) => {
  const base = ['--task', 'x', '--json'];
  const add = async (...args: string[]) => {
    const { code, stdout, stderr } = await run('schedules', 'add', ...base, ...args);
    t.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };
  t.match(await add('all', ...ALL_OPTIONS), {
    id: 'all',
    kwargs: { a: [1] },
    queue: 'q',
    schedule: { cron: '*/5 9-17 * * *', tz: 'Europe/Berlin', dialect: 'celery' },
    start: '2097-01-01T00:00:00.000Z',
    end: FAR,
    max_runs: 3,
    jitter: 1.5,
    exclude: ['2097-12-25', { from: '2097-06-01', to: '2097-06-30' }, { cron: '0 12 * * *' }],
    misfire: { policy: 'all', grace: 60 },
    overlap: 'skip',
    queue_cap: 7,
    options: {
      priority: 9,
      expires: 30,
      time_limit: 20,
      soft_time_limit: 10,
      ignore_result: true,
      headers: { h: 'v' },
      worker: 'ringbeat',
    },
    enabled: false,
    tags: ['t1', 't2'],
  });
  t.match((await add('every', '--every', '10', '--phase', '2.5')).schedule, { every: 10, phase: 2.5 });
  t.match((await add('in', '--in', '100')).schedule, { in: 100 });
  t.match((await add('after', '--after', '100', '--retry-delay', '1', '--retry-max-delay', '5')).schedule, {
    after: 100,
    retry: { delay: 1, max_delay: 5 },
  });
  const solar = await add('solar', '--solar', 'sunset', '--lat', '-33.9', '--lon', '151.2');
  t.match(solar.schedule, { solar: 'sunset', lat: -33.9, lon: 151.2 });
  const rrule = await add('rrule', '--rrule', 'FREQ=DAILY;BYHOUR=9', '--tz', 'Asia/Kolkata');
  t.match(rrule.schedule, { rrule: 'FREQ=DAILY;BYHOUR=9', tz: 'Asia/Kolkata' });
  t.match((await add('expires', '--in', '5', '--expires', FAR)).options, { expires: FAR });
});

t.test('a spec may come from a file, with fields replaced by options', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-cli-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'spec.json');
  const spec = { id: 'f', task: 'x', schedule: { every: 10 }, options: { priority: 3, headers: { h: 1 } } };
  writeFileSync(file, JSON.stringify(spec));
  t.match(JSON.parse((await run('schedules', 'add', '-f', file, '--priority', '6', '--json')).stdout), {
    id: 'f',
    options: { priority: 6, headers: { h: 1 } },
  });
  const exists = await run('schedules', 'add', '-f', file);
  t.equal(exists.code, 1);
  t.match(exists.stderr, 'There is a schedule "f" already');
  t.match((await run('schedules', 'add', '-f', file, '--every', '20', '--replace')).stdout, /^updated f, next run /);

  const missing = await run('schedules', 'add', '-f', join(folder, 'none.json'));
  t.match(missing, { code: 1, stderr: /Cannot use .*none\.json: ENOENT/ });
});

t.test('many are paused, resumed and removed by tag or prefix', async (t) => {
  for (const id of ['many/a1', 'many/a2', 'many/b1'])
    await run('schedules', 'add', id, '--task', 'x', '--at', FAR, '--tags', `many-${id.at(-1)}`);
  t.equal((await run('schedules', 'pause', '--prefix', 'many/a')).stdout, 'matched 2, paused 2\n');
  t.equal((await run('schedules', 'resume', '--tag', 'many-1')).stdout, 'matched 2, resumed 1\n');
  t.equal((await run('schedules', 'remove', '--tag', 'many-1')).stdout, 'matched 2, removed 2\n');
  t.match(await run('schedules', 'remove', 'many/a2', 'many/a1'), {
    code: 1,
    stdout: 'removed many/a2\n',
    stderr: /no schedule "many\/a1"/,
  });
});

t.test('a run is triggered, and runs of the past are sent after all', async (t) => {
  await run('schedules', 'add', 'p', '--task', 'x', '--every', '3600', '--phase', '0', '--paused');
  const triggered = await run('schedules', 'trigger', 'p');
  t.match(triggered, { code: 0, stdout: /^[0-9a-f]{8}-[0-9a-f-]{27}\n$/ });
  await eventually(async () => {
    assert.match((await run('schedules', 'runs', 'p')).stdout, new RegExp(`^DUE .*\\n.* ${triggered.stdout.trim()} `));
  });
  const backfilled = await run(
    ...['schedules', 'backfill', 'p', '--from', '2026-01-01T00:00:00Z', '--to', '2026-01-01T02:00:00Z'],
  );
  t.same(backfilled, { code: 0, stdout: 'queued 2 runs\n', stderr: '' });
  t.equal((await run('schedules', 'backfill', 'p')).code, 2);
});

t.test('when a schedule would run is shown without creating it', async (t) => {
  const cron = ['--cron', '30 2 * * *', '--tz', 'Europe/Berlin', '--after', '2027-03-27T12:00:00Z', '--count', '2'];
  t.same(await run('schedules', 'next', ...cron), {
    code: 0,
    stdout: '2027-03-28T01:00:00.000Z\n2027-03-29T00:30:00.000Z\n',
    stderr: '',
  });
  t.equal((await run('schedules', 'get', 'preview')).code, 1);
  t.equal((await run('schedules', 'next')).code, 2);
});

t.test('what the API refuses is told with the fields that are to blame, and the command fails', async (t) => {
  t.match(await run('schedules', 'add', 'x', '--task', 'x', '--every', '0.01'), {
    code: 1,
    stdout: '',
    stderr: /^ringbeat: The API answered 400: The spec is not valid\.\n {2}schedule\.every must be at least 0\.1/,
  });
});

t.test('a command that is used wrongly fails with 2 and changes nothing', async (t) => {
  const wrong = [
    ['schedules', 'add', '--task', 'x', '--every', 'soon'],
    ['schedules', 'add', '--task', 'x', '--every', '1', '--in', '2'],
    ['schedules', 'add', '--task', 'x', '--tz', 'UTC'],
    ['schedules', 'add', '--task', 'x', '--every', '1', '--args', '{}'],
    ['schedules', 'add', '--task', 'x', '--every', '1', '--replace'],
    ['schedules', 'pause'],
    ['schedules', 'pause', 'a', '--tag', 'b'],
    ['schedules', 'apply', 'file', '--prune'],
    ['schedules', 'list', '--api', 'redis://127.0.0.1'],
    ['schedules', 'lst'],
  ];
  for (const args of wrong) {
    const { code, stdout, stderr } = await ringbeat(args);
    t.same([code, stdout], [2, ''], args.join(' '));
    t.match(stderr, /^(error|ringbeat): /, stderr);
  }
  const misspelt = await ringbeat(['schedules', 'list', '--sate', 'paused']);
  t.match(misspelt, { code: 2, stderr: 'Did you mean --state?' });
});

t.test('without an API, or with one that is none, a command says so and fails', async (t) => {
  t.match(await ringbeat(['nodes', '--api', 'http://127.0.0.1:1']), {
    code: 1,
    stderr: /The HTTP API at http:\/\/127\.0\.0\.1:1\/ did not answer: .*ECONNREFUSED.*--api/,
  });
  const other = createServer((_, response) => response.end('hello')).listen(0, '127.0.0.1');
  t.teardown(() => other.close());
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  t.match(await ringbeat(['nodes', '--api', `http://127.0.0.1:${port}`]), { code: 1, stderr: /did not answer/ });
});

t.test('a token is sent; of those that beat nodes are given, one that may write', async (t) => {
  const server = await withRedis(t);
  const beat = await spawnBeat(t, server.url, [
    '--create-at-once',
    ...['--api-token', 'looker:read', '--api-token', 'doer:write'],
  ]);
  const add = (id: string) => ['schedules', 'add', id, '--task', 'x', '--at', FAR, '--api', beat.api];
  t.match(await ringbeat(add('a')), { code: 1, stderr: /401/ });
  t.match(await ringbeat([...add('a'), '--api-token', 'looker']), { code: 1, stderr: /403: The token may only read/ });
  t.equal((await ringbeat([...add('a'), '--api-token', 'doer'])).code, 0);
  t.equal((await ringbeat(add('b'), { env: { RINGBEAT_API_TOKEN: 'looker:read,doer:write' } })).code, 0);
});

t.test('nodes, shards and stats are shown as tables, or as JSON', async (t) => {
  t.match((await run('nodes')).stdout, /^ID +HOSTNAME +PID .*\n\S+ +\S+ +\d+ /);
  t.equal(JSON.parse((await run('nodes', '--json')).stdout).shards.length, 16);
  t.equal((await run('shards')).stdout.split('\n').length, 18);
  t.match((await run('stats')).stdout, /^schedules +\d+$/m);
  t.match(JSON.parse((await run('stats', '--json')).stdout), { schedules: Number, parked: 0 });
});
