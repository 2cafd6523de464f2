import { Redis } from 'ioredis';
import t from 'tap';
import { celeryPythons, runPython, startCeleryWorker } from './celery.ts';
import { until } from './eventually.ts';
import { noConnections, withRedis } from './redis-server.ts';

t.test("a test's Redis keeps its port over a restart, and its data if append-only", async (t) => {
  const server = await withRedis(t, { appendonly: true });
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  await redis.set('a', '1');
  const { url, pid } = server;
  await server.stop();
  await server.restart();
  t.equal(server.url, url);
  t.not(server.pid, pid);
  t.equal(await redis.get('a'), '1', 'the connection has come back by itself');
});

t.test('a connection that is left open at the end of a test is named', async (t) => {
  const server = await withRedis(t);
  const forgotten = new Redis(server.port, '127.0.0.1', { connectionName: 'forgotten' });
  t.teardown(() => forgotten.disconnect());
  await forgotten.ping();
  await t.rejects(noConnections(server, 500), { message: /connections left open:\n.*name=forgotten/ });
});

t.test('every Celery runs the test application as worker and as producer', async (t) => {
  for (const celery of await celeryPythons(t)) {
    await t.test(`Celery ${celery.version}`, async (t) => {
      const server = await withRedis(t);
      const redis = server.connect();
      t.teardown(() => redis.disconnect());
      const worker = await startCeleryWorker(t, celery, server.url);
      const sum = await runPython(
        t,
        celery,
        server.url,
        `from ringbeat_test_app import add, ledger
ledger.delay(1, two=2)
print(add.delay(2, 3).get(timeout=30))`,
      );
      t.equal(sum.trim(), '5');
      await until(async () => (await redis.llen('ledger')) === 1, 'the ledger has its line');
      t.match(JSON.parse((await redis.lindex('ledger', 0))!), { args: [1], kwargs: { two: 2 }, ringbeat: null });
      t.same(await worker.stop(), { code: 0, signal: null }, 'SIGTERM is a warm shutdown');
    });
  }
});
