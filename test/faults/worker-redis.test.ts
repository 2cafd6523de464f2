import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { queueList } from '../../lua/keys.ts';
import { definedScripts } from '../../lua/script.ts';
import { eventually, until } from '../support/eventually.ts';
import { type Spawned, spawnBeat, spawnWorker } from '../support/processes.ts';
import { runsScript, startProxy } from '../support/proxy.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { envelope, iso, redisNow } from '../worker/messages.ts';
import { allSettled, LEDGER_TASKS, Ledger, sendPlan, stateOf } from './worker-ledger.ts';
// Defines the scripts that are cut.
import '../../worker/worker.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

const TIMEOUT_MS = 180_000;
t.setTimeout(3 * TIMEOUT_MS);

interface Stage {
  readonly server: RedisServer;
  readonly redis: Redis;
  readonly ledger: Ledger;
}

async function setUp(t: Test, args: readonly string[] = []): Promise<Stage> {
  const server = await withRedis(t, { appendonly: args.length > 0, args });
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return { server, redis, ledger: Ledger.open(t) };
}

function startWorker(t: Test, url: string, name: string, ...args: readonly string[]): Promise<Spawned> {
  return spawnWorker(t, url, ['--tasks', LEDGER_TASKS, '-n', `${name}@%h`, '-c', '10', ...args]);
}

/** Messages of every kind: acks early and late, retried once, with an eta up to 16 of these steps away, and that take a while. */
async function load({ redis, ledger }: Stage, count: number, etaStepMs = 200): Promise<string[]> {
  const nowMs = await redisNow(redis);
  const ids = Array.from({ length: count }, (_, n) => `id-${n}`);
  const envelopes = ids.map((id, n) =>
    envelope({
      id,
      task: n % 2 === 0 ? 'effect' : 'effect-late',
      args: ledger.args({ seconds: (n % 7) / 100, retries: isRetried(n) ? 1 : 0 }),
      headers: n % 5 === 1 || n % 5 === 2 ? { eta: iso(nowMs + (n % 17) * etaStepMs) } : {},
    }),
  );
  await redis.lpush(queueList('celery', 0), ...envelopes);
  return ids;
}

function isRetried(n: number): boolean {
  return n % 3 === 0;
}

/** Everything succeeds, entered exactly as often as it was to be. */
async function ranExactly(t: Test, { redis, ledger }: Stage, ids: readonly string[]): Promise<void> {
  // What is acknowledged early is settled before it has ended.
  await eventually(
    async () => {
      const states = await Promise.all(ids.map((id) => stateOf(redis, id)));
      assert.deepEqual(
        ids.filter((_, n) => states[n] !== 'SUCCESS'),
        [],
      );
    },
    { everyMs: 100 },
  );
  await allSettled(redis);
  const counts = new Map<string, number>();
  for (const { is, id } of ledger.lines()) if (is === 'entered') counts.set(id, (counts.get(id) ?? 0) + 1);
  const odd = ids.filter((id, n) => counts.get(id) !== (isRetried(n) ? 2 : 1));
  t.same(
    odd.map((id) => [id, counts.get(id)]),
    [],
    'each was entered exactly as often as it was to be',
  );
}

function ledgerGrows({ ledger }: Stage, least: number): Promise<void> {
  return until(() => ledger.lines().length >= least, `${least} lines are in the ledger`);
}

for (const hasBeat of [false, true]) {
  const where = hasBeat ? 'with a beat node' : 'without a beat node';
  t.test(
    `Redis with appendfsync always is killed and comes back, ${where}: each message runs exactly as often as it was to`,
    { timeout: TIMEOUT_MS },
    async (t) => {
      const stage = await setUp(t, ['--appendfsync', 'always']);
      const { server } = stage;
      if (hasBeat) await spawnBeat(t, server.url, ['--shards', '4']);
      const ids = await load(stage, 400);
      const workers = [await startWorker(t, server.url, 'one'), await startWorker(t, server.url, 'two')];
      for (const least of [40, 250]) {
        await ledgerGrows(stage, least);
        await server.kill();
        await server.restart();
      }
      await ranExactly(t, stage, ids);
      t.ok(workers.every((worker) => !worker.hasExited()));
    },
  );
}

/** Beyond the lease of a worker, 10 s. */
const SUSPENDED_MS = 12_000;

t.test(
  'Redis is suspended beyond the lease of workers: none is taken for dead, each message runs exactly as often as it was to',
  { timeout: TIMEOUT_MS },
  async (t) => {
    const stage = await setUp(t);
    const { server } = stage;
    const ids = await load(stage, 300);
    const workers = [await startWorker(t, server.url, 'one'), await startWorker(t, server.url, 'two')];
    await ledgerGrows(stage, 40);
    server.pause();
    const pausedAtMs = performance.now();
    await until(() => performance.now() - pausedAtMs > SUSPENDED_MS, 'the lease ends', { everyMs: 200 });
    server.resume();
    await ranExactly(t, stage, ids);
    for (const worker of workers) t.notOk(worker.log.some(({ event }) => event === 'workers_lost'));
  },
);

for (const when of ['before', 'after'] as const) {
  t.test(
    `connections break ${when} Redis executes each kind of script: retries and etas are not doubled, none is lost`,
    async (t) => {
      const stage = await setUp(t);
      const { server } = stage;
      await spawnBeat(t, server.url, ['--shards', '4']);
      const proxy = await startProxy(t, server.port);
      const cuts = ['reserve', 'start', 'park', 'settle'].map((name) => {
        const script = definedScripts().find((script) => script.name === name);
        assert.ok(script, name);
        return when === 'before' ? proxy.cutBefore(runsScript(script), 3) : proxy.cutAfter(runsScript(script), 3);
      });
      await startWorker(t, proxy.url, 'one');
      // Only now, and with etas far away, or they might be past, and nothing be parked.
      const ids = await load(stage, 200, 1_000);
      await ranExactly(t, stage, ids);
      await eventually(() =>
        assert.deepEqual(
          cuts.map(({ count }) => count),
          [3, 3, 3, 3],
        ),
      );
    },
  );
}

t.test(
  'a worker is cut off beyond its lease just as a task was settled: what follows that task runs once',
  { timeout: TIMEOUT_MS },
  async (t) => {
    const stage = await setUp(t);
    const { server, redis, ledger } = stage;
    const proxy = await startProxy(t, server.port);
    const script = definedScripts().find(({ name }) => name === 'settle');
    assert.ok(script);
    const isSettle = runsScript(script);
    let isCutting = true;
    const cut = proxy.cutAfter((command) => isCutting && isSettle(command), 1_000);
    await startWorker(t, proxy.url, 'one', '-Q', 'one');
    await startWorker(t, server.url, 'two', '-Q', 'two');
    const isKnown = async () => (await redis.zrange('rb:workers', '0', '-1')).some((id) => id.startsWith('one@'));
    const options = { task_id: 'next', queue: 'two' };
    const next = { task: 'effect', args: ledger.args(), kwargs: {}, options, immutable: true };
    await sendPlan(redis, ledger, { id: 'first', queue: 'one', embed: { chain: [next] } });

    await until(() => cut.count > 0, 'its settlement is not answered', { everyMs: 1 });
    proxy.refuse();
    await until(async () => !(await isKnown()), 'it is taken for dead', { everyMs: 100 });
    isCutting = false;
    proxy.accept();
    // It settles one after the other: once this is stored, what was repeated has been answered.
    await sendPlan(redis, ledger, { id: 'second', queue: 'one' });
    await until(async () => (await stateOf(redis, 'second')) === 'SUCCESS', 'it is back');
    t.ok(await isKnown());
    await allSettled(redis);
    await until(async () => (await stateOf(redis, 'next')) === 'SUCCESS', 'what follows has run');
    t.same([ledger.entered('first'), ledger.entered('next')], [1, 1]);
  },
);
