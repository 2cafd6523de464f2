import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { connect } from '../../lua/connection.ts';
import { namespaceKeys, queueBinding, shardKeys, shardOf } from '../../lua/keys.ts';
import { joinNamespace } from '../../registry/namespace.ts';
import { Registry, type StoredSchedule } from '../../registry/registry.ts';
import { checkSpec, createSpecSchema, type ScheduleSpec } from '../../schedule/spec.ts';
import { withRedis } from '../support/redis-server.ts';

const schema = createSpecSchema('rb');

function spec(parts: Record<string, unknown>): ScheduleSpec {
  const result = checkSpec(schema, { task: 'monitor.check', schedule: { every: 10 }, ...parts } as never);
  if (!result.ok) throw new Error(JSON.stringify(result.errors));
  return result.spec;
}

async function setUp(t: Test, shards = 4): Promise<{ redis: Redis; registry: Registry }> {
  const server = await withRedis(t);
  const redis = connect(server.url, { option: '--redis', name: 'registry-test' });
  t.teardown(() => redis.disconnect());
  const names = namespaceKeys('rb');
  const settings = {
    queueCap: 1_000_000,
    misfireThresholdMs: 1_000,
    keepCompletedMs: 3_600_000,
    recoveryRate: 0,
    missedFirst: 0,
    delayedQueues: [],
  };
  const namespace = await joinNamespace(redis, names, 'rb', { ...settings, shards });
  return { redis, registry: new Registry({ redis, names, namespace: () => namespace, nowMs: () => Date.now() }) };
}

async function scanAll(registry: Registry, count: number, pattern?: string): Promise<StoredSchedule[]> {
  const found: StoredSchedule[] = [];
  for (let shard = 0; shard < registry.shards; shard++) {
    let cursor = '0';
    do {
      const step = await registry.scan(shard, cursor, count, pattern);
      found.push(...step.schedules);
      cursor = step.cursor;
    } while (cursor !== '0');
  }
  return found;
}

t.test('a spec comes back as it was given, whatever is in it', async (t) => {
  const { registry } = await setUp(t);
  const specs = [
    spec({ id: 'plain' }),
    spec({
      id: 'all "of" it \\ é \u{1f600}',
      args: [1, 'é', null, { deep: [true] }],
      kwargs: { k: 'v' },
      queue: 'q%1F',
      schedule: { every: 0.333, phase: 0.1 },
      start: '2026-01-01T00:00:00Z',
      end: '2099-01-01T00:00:00.001Z',
      misfire: { policy: 'all', grace: 1.5 },
      queue_cap: 7,
      options: {
        priority: 9,
        expires: 12.5,
        time_limit: 30,
        soft_time_limit: 20.5,
        ignore_result: false,
        headers: { a: [1] },
      },
      tags: ['t1', 'ü'],
    }),
    spec({ id: 'now', schedule: { every: 1, phase: 'now' }, enabled: false }),
    spec({ id: 'at', schedule: { at: '2098-01-01T00:00:00.123Z' }, options: { expires: '2099-01-01T00:00:00Z' } }),
    spec({ id: 'in', schedule: { in: 3_600 } }),
  ];
  t.same(
    await registry.put(specs),
    specs.map(() => 'created'),
  );
  const stored = await registry.get(specs.map(({ id }) => id));
  t.same(
    stored.map((schedule) => schedule?.spec),
    specs,
  );
  t.same(
    stored.map((schedule) => schedule?.shard),
    specs.map(({ id }) => shardOf(id, 4)),
  );
  t.same(
    await registry.put(stored.map((schedule) => schedule!.spec)),
    specs.map(() => 'unchanged'),
  );
  t.same(await registry.get(['missing', 'plain']).then(([missing, plain]) => [missing, plain?.spec.id]), [
    null,
    'plain',
  ]);
});

t.test('numbers that JavaScript would change reach storage as they were written', async (t) => {
  const { registry } = await setUp(t);
  const { parseJson, toJson } = await import('../../protocol/json.ts');
  const text = '{"id": "a", "task": "x", "schedule": {"every": 10.0}, "args": [1.0, 12345678901234567890, -0]}';
  const result = checkSpec(schema, parseJson(text));
  if (!result.ok) return t.fail(JSON.stringify(result.errors));
  await registry.put([result.spec]);
  const [stored] = await registry.get(['a']);
  t.equal(toJson(stored!.spec.args), '[1.0,12345678901234567890,-0]');
});

t.test('of several with one id the last wins, in one call', async (t) => {
  const { registry } = await setUp(t);
  const outcomes = await registry.put([
    spec({ id: 'a', args: [1] }),
    spec({ id: 'b' }),
    spec({ id: 'a', args: [2] }),
    spec({ id: 'a', args: [2] }),
    spec({ id: 'a', args: [3] }),
  ]);
  t.same(outcomes, ['created', 'created', 'updated', 'unchanged', 'updated']);
  const [stored] = await registry.get(['a']);
  t.same(stored?.spec.args, [3]);
});

t.test('any number goes into one call, and every one is seen by a scan of whatever step', async (t) => {
  const { registry } = await setUp(t);
  const ids = Array.from({ length: 3_000 }, (_, i) => `tenant-${i % 7}/metric-${i}`);
  const outcomes = await registry.put(ids.map((id) => spec({ id })));
  t.ok(outcomes.length === 3_000 && outcomes.every((outcome) => outcome === 'created'));
  for (const count of [10, 100, 1_000]) {
    const seen = new Set((await scanAll(registry, count)).map((schedule) => schedule.spec.id));
    t.same([...seen].sort(), [...ids].sort());
  }
  const prefixed = new Set((await scanAll(registry, 100, 'tenant-3/*')).map((schedule) => schedule.spec.id));
  t.same([...prefixed].sort(), ids.filter((id) => id.startsWith('tenant-3/')).sort());
  const existed = await registry.remove([...ids, 'missing']);
  t.equal(existed.filter(Boolean).length, 3_000);
  t.equal(existed.at(-1), false);
  t.same(await scanAll(registry, 100), []);
});

t.test('what is there all the time is seen by a scan while others come and go', async (t) => {
  const { registry } = await setUp(t);
  const ids = Array.from({ length: 1_000 }, (_, i) => `stays-${i}`);
  await registry.put(ids.map((id) => spec({ id })));
  const seen = new Set<string>();
  let round = 0;
  for (let shard = 0; shard < registry.shards; shard++) {
    let cursor = '0';
    do {
      const step = await registry.scan(shard, cursor, 50);
      for (const schedule of step.schedules) seen.add(schedule.spec.id);
      cursor = step.cursor;
      round += 1;
      await registry.put(Array.from({ length: 100 }, (_, i) => spec({ id: `comes-${round}-${i}` })));
      if (round % 2 === 0) await registry.remove(Array.from({ length: 100 }, (_, i) => `comes-${round - 1}-${i}`));
    } while (cursor !== '0');
  }
  t.same(
    ids.filter((id) => !seen.has(id)),
    [],
  );
});

t.test("Celery's tools see the queues", async (t) => {
  const { redis, registry } = await setUp(t);
  await registry.put([spec({ id: 'a', queue: 'video' }), spec({ id: 'b' })]);
  for (const queue of ['video', 'celery']) {
    const { key, member } = queueBinding(queue);
    t.same(await redis.smembers(key), [member]);
  }
});

t.test('large specs are stored in calls of bounded size', async (t) => {
  const { registry } = await setUp(t, 1);
  const specs = Array.from({ length: 100 }, (_, i) => spec({ id: `s${i}`, args: ['x'.repeat(60_000)] }));
  t.same(new Set(await registry.put(specs)), new Set(['created']));
  const [stored] = await registry.get(['s99']);
  t.same(stored?.spec.args, specs[99]?.args);
});

t.test('states, next and last runs are told as they are', async (t) => {
  const { redis, registry } = await setUp(t, 1);
  const keys = shardKeys('rb', 0);
  await registry.put([
    spec({ id: 'waits' }),
    spec({ id: 'paused', enabled: false }),
    spec({ id: 'ended', end: '2001-01-01T00:00:00Z' }),
    spec({ id: 'ran', schedule: { every: 10, phase: 0 } }),
    spec({ id: 'ran late', schedule: { every: 10, phase: 0 } }),
    spec({ id: 'once', schedule: { at: '2098-01-01T00:00:00Z' } }),
    spec({ id: 'done', schedule: { at: '2026-01-01T00:00:00Z' } }),
  ]);
  await redis.zadd(keys.due, 1_000_000_010_000 + 6 / 2_048, 'ran');
  await redis.zadd(keys.due, 1_000_000_010_000 + 2_047 / 2_048, 'ran late');
  await redis.hset(keys.last, 'ran late', '1000000000000:60000');
  await redis.zrem(keys.due, 'done');
  await redis.zadd(keys.completed, 1_000_000_000_000 + 3 / 2_048, 'done');
  const names = ['waits', 'paused', 'ended', 'ran', 'ran late', 'once', 'done'];
  const [waits, ...others] = await registry.get(names);
  t.match(waits, { state: 'scheduled', lastRunAtMs: null, lastLatenessMs: null });
  t.ok(waits!.nextRunAtMs! > 1_000_000_000_000);
  t.match(others, [
    { state: 'paused', nextRunAtMs: null, lastRunAtMs: null },
    { state: 'completed', nextRunAtMs: null, lastRunAtMs: null },
    { state: 'scheduled', nextRunAtMs: 1_000_000_010_000, lastRunAtMs: 1_000_000_000_005, lastLatenessMs: 5 },
    { state: 'scheduled', nextRunAtMs: 1_000_000_010_000, lastRunAtMs: 1_000_000_060_000, lastLatenessMs: 60_000 },
    { state: 'scheduled', nextRunAtMs: Date.UTC(2098, 0, 1) },
    { state: 'completed', nextRunAtMs: null, lastRunAtMs: 1_000_000_000_000, lastLatenessMs: 2 },
  ]);
});
