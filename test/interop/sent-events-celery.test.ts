import assert from 'node:assert/strict';
import t from 'tap';
import { Client, group, signature } from '../../index.ts';
import { celeryPythons, runPython, spawnCelery } from '../support/celery.ts';
import { eventually } from '../support/eventually.ts';
import { spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';
import { type HeardEvent, listenToEvents } from '../worker/events-listener.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

/** Sends what the test sends, under other ids. */
const PRODUCER = `
from datetime import datetime, timezone
from ringbeat_test_app import app
app.conf.task_send_sent_event = True
later = datetime(2098, 1, 1, 0, 0, 0, 1000, tzinfo=timezone.utc)
app.send_task('add', (2, 3), task_id='theirs')
app.send_task('add', ('x',), {'unit': 'm'}, task_id='theirs-later', queue='video', eta=later, expires=later, shadow='sum')
app.signature('add', (1, 1), task_id='theirs-signed').apply_async()
`;

/** What an event tells, but for who tells it and when. */
function told({ hostname, pid, clock, timestamp, ...fields }: HeardEvent, owner: string) {
  return [Object.keys({ hostname, pid, clock, timestamp, ...fields }), JSON.stringify(fields).replaceAll(owner, 'its')];
}

for (const celery of await celeryPythons(t)) {
  t.test(`a client tells of what it sends as producers of Celery ${celery.version} do`, async (t) => {
    const server = await withRedis(t);
    await spawnBeat(t, server.url, ['--create-at-once']);
    const { events, messages } = await listenToEvents(t, server);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const dump = await spawnCelery(t, celery, server.url, ['events', '--dump']);
    // The node that waits for results, the listener, and the dump.
    await eventually(async () => assert.equal(String(await redis.client('LIST')).match(/ psub=1 /g)?.length, 3));
    const client = new Client({ redis: server.url, taskSendSentEvent: true, default: false });
    t.teardown(() => client.close());
    await runPython(t, celery, server.url, PRODUCER);
    // One that says nothing, of which nothing is heard either.
    const silent = new Client({ redis: server.url, default: false });
    t.teardown(() => silent.close());
    await silent.send('add', { args: [0, 0], options: { task_id: 'unsaid' } });

    const later = new Date('2098-01-01T00:00:00.001Z');
    const options = { task_id: 'ours-later', expires: later, shadow: 'sum' };
    await client.send('add', { args: [2, 3], options: { task_id: 'ours' } });
    await client.send('add', { args: ['x'], kwargs: { unit: 'm' }, queue: 'video', eta: later, options });
    await client.apply(signature('add', [1, 1], { taskId: 'ours-signed' }));
    const ids = ['', '-later', '-signed'];
    const of = (id: string) => eventually(() => events.find(({ uuid }) => uuid === id) ?? assert.fail(id));
    for (const id of ids) {
      const [theirs, ours] = [await of(`theirs${id}`), await of(`ours${id}`)];
      t.same(told(ours, 'ours'), told(theirs, 'theirs'), `task${id}`);
      t.match(ours.hostname, /^gen\d+@/);
      t.match(String(theirs.hostname).split('@')[1], String(ours.hostname).split('@')[1]);
    }
    await client.apply(group(signature('add', [1, 1]), signature('add', [2, 2])));
    await client.send('add', { args: [1, 1], options: { task_id: 'last' } });
    await of('last');
    const types = events.map(({ type }) => type);
    t.same(types, new Array(9).fill('task-sent'), 'one for each task, and nothing else');
    t.same(
      events.filter(({ uuid }) => uuid === 'unsaid'),
      [],
    );
    t.same(new Set(messages.map(({ routingKey }) => routingKey)), new Set(['task.sent']));
    await eventually(() => assert.match(dump.stdout, /task sent: add\(ours-later\) .*queue=video/));
  });
}
