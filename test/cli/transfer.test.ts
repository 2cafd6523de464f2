import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { eventually } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { type CommandResult, ringbeat } from './ringbeat.ts';

// Each test has a Redis of its own.
t.jobs = 3;

type Run = (...args: string[]) => Promise<CommandResult>;

interface SetUp {
  readonly server: RedisServer;
  readonly beat: SpawnedBeat;
  readonly run: Run;
  /** Where commands are run. */
  readonly folder: string;
}

/** A folder, and a node of this namespace. */
async function setUp(t: Test, server: RedisServer, namespace = 'rb'): Promise<SetUp> {
  const beat = await spawnBeat(t, server.url, ['--create-at-once', '--namespace', namespace]);
  const folder = makeFolder(t);
  return { server, beat, folder, run: (...args) => ringbeat(args, { env: { RINGBEAT_API: beat.api }, cwd: folder }) };
}

function makeFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-cli-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Without any schedules. */
async function empty(t: Test): Promise<SetUp> {
  return setUp(t, await withRedis(t));
}

const FAR = '2098-01-01T00:00:00.000Z';

/** Schedules of every kind and in every state that lasts; `args` with numbers that JavaScript would change. */
const EVERY_KIND = [
  { id: 'every', schedule: { every: 3600 }, args: [1], kwargs: { k: 'ü' }, tags: ['a'] },
  { id: 'now', schedule: { every: 3600, phase: 'now' }, max_runs: 7 },
  { id: 'done', schedule: { at: '2026-01-01T00:00:00Z' }, queue: 'once' },
  { id: 'offset', schedule: { every: 3600.5, phase: 17.25 }, jitter: 60 },
  {
    id: 'cron',
    schedule: { cron: 'H 9 * * mon-fri', tz: 'Europe/Berlin' },
    exclude: ['2027-12-24', { cron: '* 12 * * *' }],
  },
  { id: 'celery', schedule: { cron: '0 22-2 * * *', dialect: 'celery' }, max_runs: 7 },
  { id: 'at', schedule: { at: FAR }, options: { priority: 9, expires: '2099-01-01T00:00:00Z', headers: { h: [1] } } },
  { id: 'in', schedule: { in: 86_400 } },
  { id: 'after', schedule: { after: 60, retry: { delay: 1 } }, start: FAR },
  { id: 'solar', schedule: { solar: 'sunrise', lat: 52.5, lon: 13.4 }, start: '2027-06-01T00:00:00Z', end: FAR },
  {
    id: 'rrule',
    schedule: { rrule: 'FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=8', tz: 'Asia/Kolkata' },
    queue: 'other',
    queue_cap: 5,
  },
  { id: 'overlap', schedule: { every: 7200 }, overlap: 'buffer_one', misfire: { policy: 'all', grace: 60 } },
  { id: 'paused', schedule: { every: 3600 }, enabled: false },
  { id: 'ended', schedule: { every: 3600 }, end: '2020-01-01T00:00:00Z' },
].map((spec) => ({ task: 'nobody.runs', ...spec }));

interface Shown {
  readonly id: string;
  readonly [field: string]: unknown;
}

/** Every schedule as the API shows it, by id, without what tells of the node and of earlier runs. */
async function everything(beat: SpawnedBeat): Promise<Map<string, unknown>> {
  const answer = (await (await fetch(`${beat.api}/v1/schedules?limit=1000`)).json()) as { schedules: Shown[] };
  return new Map(
    answer.schedules
      .map(({ owner, last_run_at, last_lateness_ms, ...schedule }): [string, unknown] => [schedule.id, schedule])
      .sort(([one], [other]) => (one < other ? -1 : 1)),
  );
}

/** How far the two that run at once have come. */
async function progress(beat: SpawnedBeat): Promise<object> {
  const get = async (id: string) => (await (await fetch(`${beat.api}/v1/schedules/${id}`)).json()) as Shown;
  return { runs: (await get('now')).runs, state: (await get('done')).state };
}

function lines(values: readonly unknown[]): string {
  return values.map((value) => `${JSON.stringify(value)}\n`).join('');
}

t.test('an export brings every field and every next run to another namespace', async (t) => {
  const from = await empty(t);
  const connection = from.server.connect();
  t.teardown(() => connection.disconnect());
  const specs = join(from.folder, 'specs');
  writeFileSync(specs, lines(EVERY_KIND));
  t.same(await from.run('import', specs), {
    code: 0,
    stdout: `created ${EVERY_KIND.length}, updated 0, unchanged 0, failed 0\n`,
    stderr: '',
  });
  await eventually(async () => assert.deepEqual(await progress(from.beat), { runs: 1, state: 'completed' }));
  const exported = join(from.folder, 'exported');
  t.match(await from.run('schedules', 'export', exported), {
    code: 0,
    stdout: `exported ${EVERY_KIND.length} schedules to ${exported}\n`,
  });
  t.same(readdirSync(from.folder).sort(), ['exported', 'specs'], 'no part is left');

  const to = await setUp(t, from.server, 'other');
  t.match(await to.run('schedules', 'import', exported), { code: 0, stdout: `created ${EVERY_KIND.length}, ` });
  t.same(await everything(to.beat), await everything(from.beat));
  t.equal(await connection.llen('once'), 1, 'what has run does not run again');
  t.match(await to.run('import', exported), { stdout: `unchanged ${EVERY_KIND.length}, failed 0` });

  const piped = await to.run('export');
  const sorted = (text: string) => text.trim().split('\n').sort();
  t.same(sorted(piped.stdout), sorted(readFileSync(exported, 'utf8')), 'and can be taken on from there');
});

t.test('an import tells which lines failed, and why', async (t) => {
  const { run, folder } = await empty(t);
  const good = { id: 'good', task: 'x', schedule: { at: FAR } };
  writeFileSync(join(folder, 'f'), `${lines([good, { ...good, id: 'bad', schedule: { every: 0 } }])}\nno json\n`);
  const imported = await run('import', 'f');
  t.match(imported, { code: 1, stdout: 'created 1, updated 0, unchanged 0, failed 2\n' });
  t.match(imported.stderr, /^ringbeat: f:2 \(bad\): schedule\.every must be at least 0\.1, got 0$/m);
  t.match(imported.stderr, /^ringbeat: f:4: The spec is not JSON/m);
  t.match(JSON.parse((await run('import', 'f', '--json')).stdout), { unchanged: 1, failed: 2 });
});

t.test('an import reads standard input', async (t) => {
  const { beat } = await empty(t);
  const input = lines(EVERY_KIND.slice(0, 2));
  t.match(await ringbeat(['import', '--api', beat.api], { input }), { code: 0, stdout: /^created 2, / });
});

t.test('a file that cannot be read or written is named, and leaves what was there', async (t) => {
  const { run, folder } = await empty(t);
  t.match(await run('import', 'none'), { code: 1, stdout: '', stderr: /Cannot use none: ENOENT/ });
  t.match(await run('export', folder), { code: 1, stderr: /it is no regular file/ });
  t.match(await run('export', 'none/file'), { code: 1, stderr: /Cannot use none\/file: ENOENT/ });
  writeFileSync(join(folder, 'kept'), 'old');
  t.match(await ringbeat(['export', 'kept', '--api', 'http://127.0.0.1:1'], { cwd: folder }), { code: 1 });
  t.equal(readFileSync(join(folder, 'kept'), 'utf8'), 'old');
  t.same(readdirSync(folder), ['kept']);
});

t.test('an export that breaks off fails, and leaves no file', async (t) => {
  const folder = makeFolder(t);
  const server = createServer((_, response) => {
    response.write('{"id": "a"}\n', () => response.destroy());
  }).listen(0, '127.0.0.1');
  t.teardown(() => server.close());
  await once(server, 'listening');
  const api = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  t.match(await ringbeat(['export', 'out', '--api', api], { cwd: folder }), { code: 1, stderr: /did not answer/ });
  t.same(readdirSync(folder), []);
  t.match(await ringbeat(['export', '--api', api]), { code: 1, stdout: '{"id": "a"}\n', stderr: /did not answer/ });
});

t.test('apply creates and updates what differs, and removes the rest only when told to', async (t) => {
  const { beat, run, folder } = await empty(t);
  const spec = (id: string, at = FAR) => ({ id, task: 'x', schedule: { at }, tags: ['team'] });
  const apply = (specs: readonly unknown[], ...args: string[]) => {
    writeFileSync(join(folder, 'f'), JSON.stringify(specs, null, 2));
    return run('schedules', 'apply', 'f', ...args);
  };
  await run('schedules', 'add', 'other', '--task', 'x', '--at', FAR);
  t.same(await apply([spec('a'), spec('b')], '--tag', 'team'), {
    code: 0,
    stdout: 'created a\ncreated b\ncreated 2, updated 0, unchanged 0, removed 0\n',
    stderr: '',
  });
  const changed = [spec('a'), spec('c'), { ...spec('b'), args: [1] }];
  const report = ['created c', 'updated b', 'created 1, updated 1, unchanged 1, removed 0'];
  const dry = await apply(changed, '--tag', 'team', '--dry-run');
  t.equal(dry.stdout, report.map((line) => `would be ${line}\n`).join(''));
  t.same([...(await everything(beat)).keys()], ['a', 'b', 'other'], 'a dry run changes nothing');
  t.equal((await apply(changed, '--tag', 'team')).stdout, report.map((line) => `${line}\n`).join(''));
  t.equal((await apply([spec('a')], '--tag', 'team')).stdout, 'created 0, updated 0, unchanged 1, removed 0\n');
  t.same([...(await everything(beat)).keys()], ['a', 'b', 'c', 'other']);
  t.match(await apply([spec('a')], '--tag', 'team', '--prune'), {
    code: 0,
    stdout: /removed [bc]\nremoved [bc]\ncreated 0, updated 0, unchanged 1, removed 2\n/,
  });
  t.same([...(await everything(beat)).keys()], ['a', 'other']);
});

t.test('apply takes schedules of every kind, as specs or as an export, and finds nothing to change then', async (t) => {
  const { run, folder } = await empty(t);
  writeFileSync(join(folder, 'specs'), lines(EVERY_KIND));
  t.match(await run('schedules', 'apply', 'specs'), { code: 0, stdout: `created ${EVERY_KIND.length}, updated 0` });
  const nothing = { code: 0, stdout: `created 0, updated 0, unchanged ${EVERY_KIND.length}, removed 0\n`, stderr: '' };
  t.same(await run('schedules', 'apply', 'specs'), nothing);
  await run('export', 'exported');
  t.same(await run('schedules', 'apply', 'exported', '--prefix', '', '--prune'), nothing);
});

t.test('apply changes nothing when anything in the file is wrong', async (t) => {
  const { beat, run, folder } = await empty(t);
  const good = { id: 'good', task: 'x', schedule: { at: FAR }, tags: ['team'] };
  const file = join(folder, 'f');
  for (const [bad, told] of [
    [{ ...good, id: 'bad', schedule: {} }, /f: schedule 2 \(bad\): schedule must be an object/],
    [{ task: 'x', schedule: { at: FAR } }, /f: schedule 2: id is required/],
    [good, /f: schedule 2 \(good\): it is in the file twice/],
    [{ ...good, id: 'bad', tags: [] }, /f: schedule 2 \(bad\): it does not have the tag team/],
  ] as const) {
    writeFileSync(file, JSON.stringify([good, bad]));
    t.match(await run('schedules', 'apply', 'f', '--tag', 'team'), { code: 1, stdout: '', stderr: told });
  }
  for (const text of ['[', '{"id": 1}\nnope\n', Buffer.from([0xff])]) {
    writeFileSync(file, text);
    t.match(await run('schedules', 'apply', 'f'), { code: 1, stdout: '', stderr: /ringbeat: Cannot use f: / });
  }
  t.equal((await everything(beat)).size, 0);
});
