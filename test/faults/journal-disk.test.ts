import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { shardOf } from '../../lua/keys.ts';
import { until } from '../support/eventually.ts';
import { type SpawnedBeat, spawnBeat, spawnRingbeat } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { areReady, folderIn, isCopied, journalIn, linesOf, schedulesOf } from './journal-nodes.ts';
import { ask, put } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 4;

const HOURLY = { schedule: { every: 3_600 } };

/** A node that registered schedules a, b and c, one after the other, and was killed; Redis is empty again. */
async function lostWithAll(t: Test): Promise<{ server: RedisServer; dir: string }> {
  const server = await withRedis(t);
  const dir = t.testdir();
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  for (const id of ['a', 'b', 'c']) await isCopied(beat, [dir], id);
  beat.kill('SIGKILL');
  await beat.exited;
  const redis = server.connect();
  await redis.flushall();
  redis.disconnect();
  return { server, dir };
}

function segmentIn(dir: string): string {
  const name = readdirSync(folderIn(dir))
    .filter((name) => name.startsWith('changes-'))
    .sort()
    .at(-1);
  return join(folderIn(dir), name!);
}

t.test('a torn last record is cut off, said, and the rest restored', async (t) => {
  const { server, dir } = await lostWithAll(t);
  const file = segmentIn(dir);
  const bytes = readFileSync(file);
  const torn = bytes.subarray(bytes.lastIndexOf(Buffer.from([0xfe, 0xff])), -1);
  appendFileSync(file, torn);
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  t.match(linesOf([beat], 'journal_tail_cut'), [{ file, offset: bytes.length, bytes: torn.length }]);
  t.same(linesOf([beat], 'journal_damaged'), []);
  t.match(linesOf([beat], 'journal_restored'), [{ schedules: 3 }]);
  t.same([...(await schedulesOf(beat)).keys()].sort(), ['a', 'b', 'c']);
});

t.test('a damaged record is named with file and offset, and the rest restored', async (t) => {
  const { server, dir } = await lostWithAll(t);
  const file = segmentIn(dir);
  const bytes = readFileSync(file);
  const at = bytes.indexOf('b\x1e');
  const offset = bytes.lastIndexOf(Buffer.from([0xfe, 0xff]), at);
  bytes[at]! ^= 0xff;
  writeFileSync(file, bytes);
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  t.match(linesOf([beat], 'journal_damaged'), [{ level: 50, file, offset, reason: 'checksums do not match' }]);
  t.match(linesOf([beat], 'journal_restored'), [{ schedules: 2, left_out: 0 }]);
  t.same([...(await schedulesOf(beat)).keys()].sort(), ['a', 'c']);
});

t.test('a schedule whose template was in the damaged record is left out, and counted', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const dir = t.testdir();
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  await beat.logged('journal_snapshot');
  // The template comes with the first schedule of a shard.
  const ids = Array.from({ length: 40 }, (_, i) => `s${i}`);
  const [first, second] = ids.filter((id) => shardOf(id, 16) === shardOf('s0', 16));
  await isCopied(beat, [dir], first!);
  await isCopied(beat, [dir], second!);
  beat.kill('SIGKILL');
  await beat.exited;
  await redis.flushall();
  const file = segmentIn(dir);
  const bytes = readFileSync(file);
  bytes[bytes.indexOf('template')]! ^= 0xff;
  writeFileSync(file, bytes);
  const again = await spawnBeat(t, server.url, journalIn(dir));
  t.equal(linesOf([again], 'journal_damaged').length, 1);
  t.match(linesOf([again], 'journal_restored'), [{ schedules: 0, left_out: 1 }]);
});

t.test('of two journals the one that is whole is restored', async (t) => {
  const server = await withRedis(t);
  const [one, two] = [t.testdir({ one: {}, two: {} })].flatMap((dir) => [`${dir}/one`, `${dir}/two`]) as [
    string,
    string,
  ];
  const beats = await Promise.all([one, two].map((dir) => spawnBeat(t, server.url, journalIn(dir))));
  for (const id of ['a', 'b', 'c']) await isCopied(beats[0]!, [one, two], id);
  for (const beat of beats) beat.kill('SIGKILL');
  await Promise.all(beats.map(({ exited }) => exited));
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  await redis.flushall();
  const file = segmentIn(one);
  const bytes = readFileSync(file);
  bytes[bytes.indexOf('b\x1e')]! ^= 0xff;
  writeFileSync(file, bytes);
  const again = await Promise.all([one, two].map((dir) => spawnBeat(t, server.url, journalIn(dir))));
  t.same(linesOf([again[0]!], 'journal_restored'), []);
  t.match(linesOf([again[1]!], 'journal_restored'), [{ schedules: 3 }]);
});

t.test('a folder is used by one node at a time', async (t) => {
  const server = await withRedis(t);
  const dir = t.testdir();
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  const second = await spawnRingbeat(t, ['beat', '--redis', server.url, '--no-api', ...journalIn(dir)]);
  t.match(await second.exited, { code: 1 });
  t.ok(second.stderr.includes(`is in use by process ${beat.pid}`), second.stderr);
  await beat.stop();
  t.notOk(existsSync(join(folderIn(dir), 'lock')));
  const other = await spawnBeat(t, server.url, [...journalIn(dir), '--namespace', 'elsewhere']);
  other.kill('SIGKILL');
  await other.exited;
  t.ok(existsSync(join(dir, 'elsewhere.journal', 'lock')));
  const third = await spawnBeat(t, server.url, [...journalIn(dir), '--namespace', 'elsewhere']);
  await third.logged('journal_snapshot');
});

t.test('what many changes have made long is replaced by a snapshot', { timeout: 600_000 }, async (t) => {
  const server = await withRedis(t);
  const dir = t.testdir();
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  await beat.logged('journal_snapshot');
  const args = ['x'.repeat(60_000)];
  for (let i = 0; linesOf([beat], 'journal_snapshot').length < 2; i++) {
    await put(beat, 'large', { ...HOURLY, args: [...args, i] });
    if (i > 5_000) throw new Error('never compacted');
  }
  const files = () => readdirSync(folderIn(dir)).sort();
  t.equal(files().filter((name) => name.startsWith('snapshot-')).length, 1);
  t.notOk(files().includes('changes-00000001'));
  const size = files().reduce((sum, name) => sum + readFileSync(join(folderIn(dir), name)).length, 0);
  t.ok(size < 32 * 1_048_576, `${size} bytes are left`);
  await isCopied(beat, [dir], 'last');
  const before = await schedulesOf(beat);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  await redis.flushall();
  await beat.logged('journal_restored');
  await areReady([beat]);
  t.same(await schedulesOf(beat), before);
});

/** Mounts a file system of 1 MiB there. */
function mountSmallDisk(dir: string): void {
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', dir], { stdio: 'pipe' });
}

/** Why no small disk can be had; false where one can. */
function whyNoSmallDisk(): string | false {
  const dir = mkdtempSync(join(tmpdir(), 'ringbeat-mount-'));
  try {
    mountSmallDisk(dir);
    execFileSync('umount', [dir]);
    return false;
  } catch (error) {
    return `no tmpfs can be mounted: ${error instanceof Error ? error.message.trim() : error}`;
  } finally {
    rmdirSync(dir);
  }
}

/** A folder on a disk of 1 MiB, gone with the test. */
function smallDisk(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'ringbeat-mount-'));
  mountSmallDisk(dir);
  t.teardown(() => {
    execFileSync('umount', ['-l', dir]);
    rmdirSync(dir);
  });
  return dir;
}

const NEEDS_MOUNT = { skip: whyNoSmallDisk() };

const room = (dir: string) => {
  const { bavail, bsize } = statfsSync(dir);
  return bavail * bsize;
};

async function metric(beat: SpawnedBeat, name: string): Promise<string | undefined> {
  const text = await (await fetch(`${beat.api}/metrics`)).text();
  return new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1];
}

t.test(
  'a full disk is said, holds nothing up, and the journal is whole again once there is room',
  NEEDS_MOUNT,
  async (t) => {
    const dir = smallDisk(t);
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const beat = await spawnBeat(t, server.url, journalIn(dir));
    await isCopied(beat, [dir], 'before');
    await put(beat, 'ticking', { schedule: { every: 1 } });
    await beat.logged('journal_snapshot');
    t.equal(await metric(beat, 'ringbeat_journal_whole'), '1');

    const ballast = join(dir, 'ballast');
    writeFileSync(ballast, Buffer.alloc(room(dir) - 16_384));
    const ids = Array.from({ length: 200 }, (_, i) => `s${i}`);
    const body = ids.map((id) => JSON.stringify({ id, task: 'x', args: ['x'.repeat(200)], ...HOURLY })).join('\n');
    const headers = { 'content-type': 'application/x-ndjson' };
    await ask(beat, '/v1/schedules', { method: 'POST', headers, body });
    t.match(await beat.logged('journal_write_failed'), {
      level: 50,
      err: { code: 'JOURNAL_WRITE', message: /ENOSPC/ },
    });
    t.equal(await metric(beat, 'ringbeat_journal_whole'), '0');
    const sent = await redis.llen('celery');
    await until(async () => (await redis.llen('celery')) > sent + 1, 'dispatch goes on');
    t.equal(linesOf([beat], 'journal_write_failed').length, 1, 'it is said once');

    rmSync(ballast);
    await beat.logged('journal_whole_again');
    t.equal(await metric(beat, 'ringbeat_journal_whole'), '1');
    await redis.flushall();
    await beat.logged('journal_restored');
    await areReady([beat]);
    t.same([...(await schedulesOf(beat)).keys()].sort(), ['before', 'ticking', ...ids].sort());
  },
);

t.test('what was written before the disk was full is restored as it was', NEEDS_MOUNT, async (t) => {
  const dir = smallDisk(t);
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const beat = await spawnBeat(t, server.url, journalIn(dir));
  await isCopied(beat, [dir], 'before');
  writeFileSync(join(dir, 'ballast'), Buffer.alloc(room(dir)));
  await put(beat, 'after', { ...HOURLY, args: ['x'.repeat(50_000)] });
  await beat.logged('journal_write_failed');
  await redis.flushall();
  await beat.logged('journal_restored');
  await areReady([beat]);
  t.same([...(await schedulesOf(beat)).keys()], ['before']);
});
