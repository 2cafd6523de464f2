import { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { until } from './eventually.ts';
import { runsScript, startProxy } from './proxy.ts';
import { withRedis } from './redis-server.ts';

/** A client that sends again what was cut, as our own connections do. */
function clientOf(t: Test, port: number): Redis {
  const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 5, maxRetriesPerRequest: null });
  client.on('error', () => {});
  t.teardown(() => client.disconnect());
  return client;
}

const COUNT_UP = { source: "-- é\nreturn redis.call('INCR', KEYS[1])" };

t.test('a cut after execution makes the client send the command again, so that it runs twice', async (t) => {
  const server = await withRedis(t);
  const proxy = await startProxy(t, server.port);
  const client = clientOf(t, proxy.port);
  const cut = proxy.cutAfter((command) => command.startsWith('incr '));
  const replies = await Promise.all([client.set('before', 'x'), client.incr('counter'), client.get('before')]);
  t.same(replies, ['OK', 2, 'x']);
  t.equal(cut.count, 1);
  t.equal(await client.incr('counter'), 3, 'only as often as asked for');
});

t.test('a cut before execution loses nothing and runs nothing twice', async (t) => {
  const server = await withRedis(t);
  const proxy = await startProxy(t, server.port);
  const client = clientOf(t, proxy.port);
  const cut = proxy.cutBefore((command) => command.startsWith('incr '), 3);
  t.equal(await client.incr('counter'), 1);
  t.equal(cut.count, 3);
});

t.test('a script is recognised however it is called, and is not cut while Redis does not know it', async (t) => {
  const server = await withRedis(t);
  const proxy = await startProxy(t, server.port);
  const client = clientOf(t, proxy.port) as Redis & { countUp(key: string): Promise<number> };
  client.defineCommand('countUp', { lua: COUNT_UP.source, numberOfKeys: 1 });
  const cut = proxy.cutAfter(runsScript(COUNT_UP), 2);
  // NOSCRIPT; EVAL, cut; EVALSHA, cut; EVALSHA.
  t.equal(await client.countUp('counter'), 3);
  t.equal(cut.count, 2);
});

t.test('a large pipeline and a large reply come through unharmed', async (t) => {
  const server = await withRedis(t);
  const proxy = await startProxy(t, server.port);
  const client = clientOf(t, proxy.port);
  const large = 'é'.repeat(1_000_000);
  await client.set('large', large);
  const pipeline = client.pipeline();
  for (let i = 0; i < 1_000; i++) pipeline.rpush('list', i);
  await pipeline.exec();
  t.equal(await client.get('large'), large);
  t.same(
    await client.lrange('list', 0, -1),
    Array.from({ length: 1_000 }, (_, i) => String(i)),
  );
});

t.test('refused, no client gets through; accepted, all do', async (t) => {
  const server = await withRedis(t);
  const proxy = await startProxy(t, server.port);
  const client = clientOf(t, proxy.port);
  await client.set('a', '1');
  proxy.refuse();
  await until(() => proxy.connections === 0, 'all connections are closed');
  const reply = client.get('a');
  await until(() => client.status === 'reconnecting', 'the client has noticed');
  proxy.accept();
  t.equal(await reply, '1');
});

t.test('delayed replies come late, in order', async (t) => {
  const server = await withRedis(t);
  const proxy = await startProxy(t, server.port);
  const client = clientOf(t, proxy.port);
  await client.ping();
  proxy.delay(100);
  const sentAtMs = performance.now();
  const late = client.incr('counter');
  await until(
    async () => (await direct(server.port, (redis) => redis.get('counter'))) === '1',
    'Redis has executed it',
  );
  proxy.delay(0);
  const order: string[] = [];
  await Promise.all([late.then(() => order.push('late')), client.incr('counter').then(() => order.push('next'))]);
  t.same(order, ['late', 'next']);
  t.ok(performance.now() - sentAtMs >= 99, 'no sooner than the delay');
});

async function direct<T>(port: number, use: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(port, '127.0.0.1');
  try {
    return await use(redis);
  } finally {
    redis.disconnect();
  }
}
