import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { startEmbeddedRedis } from '../../runtime/embedded-redis.ts';
import { until } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { spawnProcess } from '../support/processes.ts';

const MODULE = fileURLToPath(new URL('../../runtime/embedded-redis.js', import.meta.url));
const GUARD_MODULE = fileURLToPath(new URL('../../runtime/guarded-child.js', import.meta.url));

/** A folder that goes with the test. */
function folderOf(test: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-'));
  test.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function connected<T>(url: string, use: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = url.startsWith('unix://') ? new Redis(url.slice('unix://'.length)) : new Redis(url);
  try {
    return await use(redis);
  } finally {
    redis.disconnect();
  }
}

t.test('it serves the same data over TCP and over its socket, with the promised settings', async (t) => {
  const server = await startEmbeddedRedis();
  t.teardown(() => server.stop());
  await connected(server.url, (redis) => redis.set('a', '1'));
  t.equal(await connected(server.socketUrl, (redis) => redis.get('a')), '1');
  const settings = await connected(server.url, async (redis) => {
    const wanted = ['appendonly', 'appendfsync', 'auto-aof-rewrite-min-size', 'save', 'maxmemory-policy', 'bind'];
    const pairs = await Promise.all(wanted.map((name) => redis.config('GET', name)));
    return Object.fromEntries(pairs as [string, string][]);
  });
  t.same(settings, {
    appendonly: 'yes',
    appendfsync: 'everysec',
    'auto-aof-rewrite-min-size': String(1024 ** 3),
    save: '',
    'maxmemory-policy': 'noeviction',
    bind: '127.0.0.1',
  });
});

t.test('a temporary data folder goes with Redis, and stop may be called twice', async (t) => {
  const server = await startEmbeddedRedis();
  t.ok(existsSync(server.dataDir));
  await server.stop();
  await server.stop();
  t.notOk(existsSync(server.dataDir));
  t.notOk(isRunning(server.pid));
});

t.test('a named data folder is made, kept, and read again', async (t) => {
  const dataDir = join(folderOf(t), 'not', 'there', 'yet');
  const first = await startEmbeddedRedis({ dataDir });
  await connected(first.url, (redis) => redis.set('kept', 'yes'));
  await first.stop();
  t.same(readdirSync(dataDir), ['appendonlydir'], 'nothing but data stays');
  const second = await startEmbeddedRedis({ dataDir });
  t.teardown(() => second.stop());
  t.equal(await connected(second.url, (redis) => redis.get('kept')), 'yes');
});

t.test('a data folder serves one Redis at a time', async (t) => {
  const dataDir = folderOf(t);
  const server = await startEmbeddedRedis({ dataDir });
  t.teardown(() => server.stop());
  await t.rejects(startEmbeddedRedis({ dataDir }), {
    code: 'REDIS_NOT_STARTED',
    message: new RegExp(`in use by process ${server.pid}`),
  });
  t.ok(isRunning(server.pid));
});

t.test('the lock of a process that is gone does not count', async (t) => {
  const dataDir = folderOf(t);
  const gone = await spawnProcess(t, process.execPath, ['-e', '']);
  await gone.exited;
  writeFileSync(join(dataDir, 'ringbeat-redis.lock'), String(gone.pid));
  const server = await startEmbeddedRedis({ dataDir });
  await server.stop();
});

t.test('what Redis says against its settings is passed on, and nothing is left behind', async (t) => {
  const dataDir = folderOf(t);
  await t.rejects(startEmbeddedRedis({ dataDir, args: ['--maxmemory', 'plenty'] }), { code: 'REDIS_NOT_STARTED' });
  t.same(readdirSync(dataDir), []);
});

t.test('without redis-server on PATH it says what to install', async (t) => {
  const path = process.env.PATH;
  t.teardown(() => {
    process.env.PATH = path;
  });
  process.env.PATH = folderOf(t);
  await t.rejects(startEmbeddedRedis(), { code: 'NO_REDIS_SERVER' });
});

t.test('Redis ends, and its temporary folder goes, when its parent is killed', async (t) => {
  const parent = await spawnProcess(t, process.execPath, [
    ...['--input-type=module', '-e'],
    `import { startEmbeddedRedis } from ${JSON.stringify(MODULE)};
     const server = await startEmbeddedRedis();
     console.log(JSON.stringify({ pid: server.pid, dataDir: server.dataDir }));
     setInterval(() => {}, 1000);`,
  ]);
  await until(() => parent.stdout.includes('}'), 'the parent has started Redis');
  const { pid, dataDir } = JSON.parse(parent.stdout);
  t.ok(isRunning(pid));
  parent.kill('SIGKILL');
  await parent.exited;
  await until(() => !isRunning(pid), 'Redis has ended');
  await until(() => !existsSync(dataDir), 'its folder is gone');
});

t.test("a process that holds Redis's lifeline ends before it when their parent is killed", async (t) => {
  // The held child takes its time over SIGTERM and writes to Redis as its last act, kept in the named folder.
  const dataDir = folderOf(t);
  const script = `import { startEmbeddedRedis } from ${JSON.stringify(MODULE)};
     import { spawnGuarded } from ${JSON.stringify(GUARD_MODULE)};
     const server = await startEmbeddedRedis({ dataDir: ${JSON.stringify(dataDir)} });
     const child = await spawnGuarded('/bin/sh', ['-c',
       'trap "sleep 0.5; redis-cli -p ' + server.port + ' set last word; exit" TERM; echo up; while :; do sleep 0.1; done'],
       { graceSec: 5, holds: server.lifeline, stdout: 'pipe' });
     child.process.stdout.once('data', () => console.log(JSON.stringify({ redis: server.pid, child: child.pid })));`;
  const parent = await spawnProcess(t, process.execPath, ['--input-type=module', '-e', script]);
  await until(() => parent.stdout.includes('}'), 'the parent has started both');
  const pids = JSON.parse(parent.stdout);
  parent.kill('SIGKILL');
  await until(() => !isRunning(pids.child) && !isRunning(pids.redis), 'both have ended');
  const server = await startEmbeddedRedis({ dataDir });
  t.teardown(() => server.stop());
  t.equal(await connected(server.url, (redis) => redis.get('last')), 'word');
});
