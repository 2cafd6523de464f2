import t from 'tap';
import { dispatchedMessage } from '../../bench/scenarios/limit.ts';
import { openStage } from '../../bench/stage.ts';
import { fillList } from '../../bench/task-messages.ts';
import { readMessage } from '../../protocol/message-reader.ts';

t.test('a list is filled with messages for the task, each with an id and a delivery tag of its own', async (t) => {
  const stage = await openStage(false);
  t.teardown(() => stage.close());
  const sample = (await dispatchedMessage(stage)).toString();
  const ids = await fillList(stage, 'ahead', { sample, task: 'bench.noop', results: true, messages: 1_234 });
  const envelopes = (await stage.redis.lrange('ahead', 0, -1)).toReversed();
  const messages = envelopes.map(readMessage);
  t.same(
    messages.map((message) => message.id),
    ids,
  );
  t.equal(new Set(ids).size, 1_234);
  t.equal(new Set(envelopes.map((envelope) => JSON.parse(envelope).properties.delivery_tag)).size, 1_234);
  t.ok(messages.every((message) => message.task === 'bench.noop' && !message.ignoreResult));
  t.notOk(messages.some((message) => message.id === readMessage(sample).id));
});
