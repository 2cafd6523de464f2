import { tracingChannel } from 'node:diagnostics_channel';
import t from 'tap';
import { connect } from '../../lua/connection.ts';
import { startRedis } from '../support/redis-server.ts';

t.test('commands are traced for those who subscribe, and for nobody else', async (t) => {
  const server = await startRedis();
  t.teardown(() => server.stop());
  const redis = connect(server.url, { option: '--redis', name: 'test' });
  t.teardown(() => redis.disconnect());
  const channel = tracingChannel('ioredis:command');
  t.equal(Reflect.get(channel, 'hasSubscribers'), false);

  const traced: unknown[] = [];
  const listen = (context: object) => void traced.push(Reflect.get(context, 'command'));
  await redis.get('untraced');
  channel.start.subscribe(listen as (context: unknown) => void);
  t.equal(Reflect.get(channel, 'hasSubscribers'), true);
  await redis.set('traced', 1);
  channel.start.unsubscribe(listen as (context: unknown) => void);
  await redis.get('untraced');
  t.same(traced, ['set']);
});
