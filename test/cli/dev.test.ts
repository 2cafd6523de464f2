import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { freePort } from '../../runtime/embedded-redis.ts';
import { eventually, until } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { type Spawned, spawnRingbeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

// Each test has processes of its own, and mostly waits.
t.jobs = 3;

interface Dev extends Spawned {
  /** Pid by the name that `dev` shows, of everything it started. */
  readonly pids: ReadonlyMap<string, number>;
  readonly urls: ReadonlyMap<string, string>;
  readonly dataDir: string | null;
}

/** Runs `ringbeat dev` and resolves when it has started everything. */
async function spawnDev(t: Test, args: readonly string[], beats = 1): Promise<Dev> {
  const dev = await spawnRingbeat(t, [
    'dev',
    '--api-port',
    String(await freePort()),
    '--beats',
    String(beats),
    ...args,
  ]);
  await until(() => /^worker .*pid \d+$/m.test(dev.stdout) || dev.hasExited(), 'dev has started');
  const started = [...dev.stdout.matchAll(/^(redis|beat-\d+|worker) +(\S+).*?pid (\d+)/gm)];
  t.ok(started.length >= beats + 1, `it says what it started: ${dev.stdout}${dev.stderr}`);
  return Object.assign(dev, {
    pids: new Map(started.map(([, name, , pid]) => [name!, Number(pid)])),
    urls: new Map(started.map(([, name, url]) => [name!, url!])),
    dataDir: /data in (\S+?)(?:,|$)/m.exec(dev.stdout)?.[1] ?? null,
  });
}

async function nothingLeft(dev: Dev): Promise<void> {
  await until(() => [...dev.pids.values()].every((pid) => !isRunning(pid)), 'no child is left');
}

t.test('it registers a load, shows it at work once a second, sums up, and leaves nothing behind', async (t) => {
  const dev = await spawnDev(t, ['--schedules', '500', '--every', '1', '--for', '5'], 2);
  t.same([...dev.pids.keys()], ['redis', 'beat-1', 'beat-2', 'worker']);
  t.ok(existsSync(dev.dataDir!));
  t.same(await dev.exited, { code: 0, signal: null }, dev.stderr);
  t.match(dev.stdout, /^registered 500 in [\d.]+ s/m);
  t.same(
    [...dev.stdout.matchAll(/^(\d) s {2}/gm)].map(([, second]) => second),
    ['1', '2', '3', '4', '5'],
  );
  // On a busy machine there may be a second in which nobody answers in time.
  t.match(dev.stdout, /^\d s {2}rate \d+\/s {2}dispatch lateness ms p50 .*beat-1 \d+ shards.*beat-2 \d+ shards/m);
  t.match(dev.stdout, /^summary of \d+\.\d s$/m);
  t.match(dev.stdout, /^schedules +500$/m);
  t.ok(Number(/^dispatched +(\d+)/m.exec(dev.stdout)?.[1]) >= 500, 'each came due several times');
  t.ok(Number(/^tasks finished +(\d+), 0 of them failed$/m.exec(dev.stdout)?.[1]) >= 500, 'and was run');
  t.match(dev.stdout, /^dispatch lateness +ms p50 [\d.]+ p99 [\d.]+ p99.9 [\d.]+ max [\d.]+$/m);
  t.match(dev.stdout, /^start lateness +ms p50 /m);
  t.match(dev.stdout, /^refused +0$/m);
  await nothingLeft(dev);
  t.notOk(existsSync(dev.dataDir!), 'its data went with it');
  for (const name of ['beat-1', 'beat-2']) await t.rejects(fetch(`${dev.urls.get(name)}/healthz`));
});

t.test('kill -9 leaves no child and no data behind', async (t) => {
  const dev = await spawnDev(t, ['--schedules', '100', '--every', '1'], 2);
  dev.kill('SIGKILL');
  await dev.exited;
  await nothingLeft(dev);
  await until(() => !existsSync(dev.dataDir!), 'its data is gone');
});

t.test('a beat that is killed disappears, and the rest carries on', async (t) => {
  const dev = await spawnDev(t, ['--schedules', '300', '--every', '1'], 2);
  await until(() => /^\d+ s /m.test(dev.stdout), 'it shows figures');
  process.kill(dev.pids.get('beat-1')!, 'SIGKILL');
  await until(() => dev.stdout.includes('beat-1 (pid'), 'its end is shown');
  t.match(dev.stdout, /^beat-1 \(pid \d+\) has ended: SIGKILL$/m);
  const others = await eventually(() => {
    const last = dev.stdout.trim().split('\n').at(-1)!;
    const shards = /beat-2 (\d+) shards/.exec(last)?.[1];
    if (last.includes('beat-1') || shards !== '16') throw new Error(last);
    return last;
  });
  t.match(others, /queue \d+/, 'beat-2 serves all shards');
  dev.kill('SIGTERM');
  t.same(await dev.exited, { code: 0, signal: null });
  t.match(dev.stdout, /^summary of/m);
  t.match(dev.stdout, /^nodes +beat-2: 16 shards$/m);
  await nothingLeft(dev);
});

t.test('without any beat there is nothing to show, and it fails', async (t) => {
  const dev = await spawnDev(t, []);
  process.kill(dev.pids.get('beat-1')!, 'SIGKILL');
  t.same(await dev.exited, { code: 1, signal: null });
  t.match(dev.stderr, /no beat node is left/);
  await nothingLeft(dev);
});

t.test('without its Redis it fails', async (t) => {
  const dev = await spawnDev(t, []);
  process.kill(dev.pids.get('redis')!, 'SIGKILL');
  t.same(await dev.exited, { code: 1, signal: null });
  t.match(dev.stderr, /embedded Redis has ended/);
  await nothingLeft(dev);
});

t.test('Ctrl-C during registration ends it cleanly', async (t) => {
  const dev = await spawnDev(t, ['--schedules', '5000000', '--every', '60']);
  await until(() => dev.stdout.includes('registering 5000000'), 'it registers');
  dev.kill('SIGINT');
  t.same(await dev.exited, { code: 0, signal: null }, dev.stderr);
  await nothingLeft(dev);
  t.notOk(existsSync(dev.dataDir!));
});

t.test('a port that is taken is passed over, and said', async (t) => {
  const occupant = createServer();
  await new Promise<void>((resolve) => occupant.listen(0, '127.0.0.1', resolve));
  t.teardown(() => occupant.close());
  const address = occupant.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const dev = await spawnRingbeat(t, ['dev', '--beats', '1', '--for', '1', '--api-port', String(port)]);
  t.same(await dev.exited, { code: 0, signal: null }, dev.stderr);
  t.match(dev.stdout, `port ${port} is taken`);
  t.notMatch(dev.stdout, `http://127.0.0.1:${port} `);
});

t.test('a Redis that is given is used, and stays as it is', async (t) => {
  const server = await withRedis(t);
  const dev = await spawnDev(t, ['--redis', server.url, '--schedules', '20', '--every', '3600', '--for', '1']);
  t.same([...dev.pids.keys()], ['beat-1', 'worker'], 'none of its own is started');
  t.same(await dev.exited, { code: 0, signal: null }, dev.stderr);
  const again = await spawnDev(t, ['--redis', server.url, '--for', '1']);
  t.same(await again.exited, { code: 0, signal: null }, again.stderr);
  t.match(again.stdout, /^schedules +20$/m, 'what was registered is still there');
});

t.test('a data folder that is named is kept', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const args = ['--data-dir', folder, '--for', '1'];
  const dev = await spawnDev(t, [...args, '--schedules', '20', '--every', '3600']);
  t.same(await dev.exited, { code: 0, signal: null }, dev.stderr);
  t.same(readdirSync(folder), ['appendonlydir']);
  const again = await spawnDev(t, args);
  t.same(await again.exited, { code: 0, signal: null }, again.stderr);
  t.match(again.stdout, /^schedules +20$/m);
});

t.test('options that make no sense are refused before anything is started', async (t) => {
  for (const [args, message] of [
    [['--redis', 'redis://127.0.0.1:1/0', '--data-dir', '/tmp'], /--data-dir is for the embedded Redis/],
    [['--beats', '0'], /from 1 to 64/],
    [['--schedule', '5'], /Did you mean --schedules/],
    [['--redis', 'http://127.0.0.1'], /unknown scheme/],
  ] as const) {
    const dev = await spawnRingbeat(t, ['dev', ...args]);
    t.same(await dev.exited, { code: 2, signal: null }, args.join(' '));
    t.match(dev.stderr, message);
    t.equal(dev.stdout, '');
  }
});
