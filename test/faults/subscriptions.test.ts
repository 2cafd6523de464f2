import t from 'tap';
import { connect, keepSubscribed } from '../../lua/connection.ts';
import { until } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';

t.test('a channel is heard again after a reconnection, also where Redis refuses it at first', async (t) => {
  const server = await withRedis(t);
  const redis = server.connect();
  const subscriber = connect(server.url, { option: '--redis', name: 'subscriber' });
  t.teardown(() => redis.disconnect());
  t.teardown(() => subscriber.disconnect());
  const heard: string[] = [];
  subscriber.on('message', (_channel, message) => heard.push(message));
  await keepSubscribed(subscriber, 'subscribe', 'news');
  const isHeard = (message: string) =>
    until(async () => {
      await redis.publish('news', message);
      return heard.includes(message);
    }, `${message} is heard`);
  const reconnect = async () => {
    const ready = new Promise((resolve) => subscriber.once('ready', resolve));
    await redis.client('KILL', 'TYPE', 'PUBSUB');
    await ready;
  };
  await isHeard('first');
  await reconnect();
  await isHeard('second');

  await redis.acl('SETUSER', 'default', '-subscribe');
  await reconnect();
  await until(
    async () => /command,context,toplevel,object,subscribe/.test(String(await redis.acl('LOG'))),
    'it was refused',
  );
  await redis.acl('SETUSER', 'default', '+subscribe');
  await isHeard('third');
});
