import { readFileSync } from 'node:fs';
import t from 'tap';
import { deleteSchedules } from '../../lua/delete-schedules.ts';
import { queueList } from '../../lua/keys.ts';
import { EPOCH, type ScheduleParts, storeFactory } from './store.ts';

const SAMPLES = new URL('../../../test/fixtures/celery-samples/', import.meta.url);
const open = await storeFactory(t);

interface Golden {
  readonly sample: string;
  readonly list: string;
  readonly parts: Partial<ScheduleParts>;
  /** What Celery lets a caller choose and a schedule does not: [text in the sample, text in ours]. */
  readonly differs?: readonly (readonly [string, string])[];
}

const GOLDEN: readonly Golden[] = [
  { sample: 'task-plain', list: 'celery', parts: { task: 'tapp.add', args: [2, 3], ignoreResult: false } },
  {
    sample: 'task-options',
    list: 'video',
    parts: {
      task: 'tapp.add',
      args: [2, 3],
      queue: 'video',
      timeLimit: 30,
      softTimeLimit: 20,
      ignoreResult: true,
      headers: { 'x-tenant': 'acme' },
    },
    differs: [['"shadow": "nice.name"', '"shadow": null']],
  },
  {
    sample: 'task-priority-9',
    list: queueList('celery', 9),
    parts: { task: 'tapp.add', args: [2, 3], priority: 9, ignoreResult: false },
  },
  {
    sample: 'task-expires-seconds',
    list: 'celery',
    parts: { task: 'tapp.add', args: [2, 3], expires: { afterMs: 120_000 }, ignoreResult: false },
  },
  {
    sample: 'task-kwargs-unicode',
    list: 'celery',
    parts: { task: 'tapp.add', kwargs: { x: 'héllo 世界', y: null }, ignoreResult: false },
  },
  {
    sample: 'beat-message',
    list: queueList('celery', 3),
    parts: { task: 'tapp.add', args: [16, 16], priority: 3, expires: { afterMs: 10_000 }, ignoreResult: false },
    // Celery beat hands its args over as a list, `delay` and `apply_async` as a tuple.
    differs: [['"argsrepr": "[16, 16]"', '"argsrepr": "(16, 16)"']],
  },
];

for (const { sample, list, parts, differs = [] } of GOLDEN) {
  t.test(`a message is byte for byte what Celery writes: ${sample}`, async (t) => {
    const store = await open();
    const dueMs = (await store.now()) - 3;
    await store.putDue({ id: 's1', dueMs, ...parts });
    const { nowMs } = await store.dispatch();
    const [message] = await store.queue(list);
    if (message === undefined) return t.fail(`nothing in ${list}`);
    let expected = sampleMessage(sample, list);
    for (const [theirs, ours] of differs) {
      t.ok(expected.includes(theirs));
      expected = expected.replace(theirs, ours);
    }
    const { raw } = message;
    t.ok(raw.includes(`, "ringbeat": {"schedule": "s1", "due": ${dueMs}, "run": 0, "attempt": 1}}, "properties"`));
    t.equal(comparable(raw), comparable(expected));
    if (parts.expires && 'afterMs' in parts.expires) {
      const expiresMs = dueMs + parts.expires.afterMs;
      t.equal(message.headers.expires, `${new Date(expiresMs).toISOString().slice(0, -1)}000+00:00`);
      t.equal(message.properties.expiration, String(expiresMs - nowMs));
    }
  });
}

function sampleMessage(sample: string, list: string): string {
  const { lists } = JSON.parse(readFileSync(new URL(`${sample}.json`, SAMPLES), 'utf8'));
  return lists[list][0].raw;
}

const UUID = /"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"/g;
const ISO = /"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"/;

/** A message without what differs from one message to the next, without our header, its body as text without padding. */
function comparable(raw: string): string {
  const id = JSON.parse(raw).headers.id;
  return raw
    .replaceAll(`"${id}"`, '"<id>"')
    .replace(UUID, '"<uuid>"')
    .replace(UUID, '"<uuid>"')
    .replace(ISO, '"<time>"')
    .replace(/"expiration": "\d+"/, '"expiration": "<ms>"')
    .replace(/"origin": "[^"]*"/, '"origin": "<origin>"')
    .replace(/, "ringbeat": \{[^}]*\}/, '')
    .replace(/^\{"body": "([^"]*)"/, (_, body: string) => {
      const text = Buffer.from(body, 'base64').toString();
      return `{"body": ${text.replace(/ +(?=, \{"callbacks": null)/, '')}`;
    });
}

t.test('args, kwargs and headers of every kind reach the message as they were given', async (t) => {
  const store = await open();
  const nasty = 'quote " back \\ slash / tab \t line \n del \x7f é 世 \u{1f600} \u2028 <>&';
  const parts = {
    args: [nasty, -1.5, 1e21, true, null, [], {}, [[{ a: [nasty] }]]],
    kwargs: { [nasty]: nasty, 'x\u001fy': 'z\u001f' },
    headers: { 'x-nasty': nasty, 'x-deep': { a: [1, null] } },
    tags: [nasty.replace(/[\x00-\x1f\x7f]/g, '')],
  };
  // Bodies of every length modulo 3 are padded differently.
  const now = await store.now();
  for (const id of ['a', 'ab', 'abc', 'id "quoted" \\ é \u{1f600}'])
    await store.putDue({ id, dueMs: now - 1, ...parts, args: [...parts.args, id] });
  await store.dispatch();
  const messages = await store.queue();
  t.same(messages.map(({ schedule }) => schedule).sort(), ['a', 'ab', 'abc', 'id "quoted" \\ é \u{1f600}'].sort());
  for (const { raw, body, headers, schedule } of messages) {
    t.same(body.slice(0, 2), [[...parts.args, schedule], parts.kwargs]);
    t.same(body[2], { callbacks: null, errbacks: null, chain: null, chord: null });
    t.equal(headers['x-nasty'], nasty);
    t.same(headers['x-deep'], { a: [1, null] });
    t.match(raw, /^[\x20-\x7e]*$/, 'ASCII only, as Python writes it');
  }
});

t.test('queues with odd names are pushed to under exactly that name', async (t) => {
  const store = await open();
  const now = await store.now();
  const names = ['a b', 'a%1Fb', 'a\x1fb', '%', 'ü', 'a"b\\c', 'a\nb'];
  for (const queue of names) await store.putDue({ id: `to ${names.indexOf(queue)}`, queue, dueMs: now - 1 });
  for (const queue of names)
    await store.putDue({ id: `urgent ${names.indexOf(queue)}`, queue, priority: 3, dueMs: now - 1 });
  t.match(await store.dispatch(), { sent: 2 * names.length });
  for (const queue of names) {
    for (const list of [queue, queueList(queue, 3)]) {
      const [message] = await store.queue(list);
      t.same(message?.properties.delivery_info, { exchange: '', routing_key: queue }, JSON.stringify(list));
    }
  }
});

t.test('priorities go to the lists that kombu serves them from', async (t) => {
  const store = await open();
  const now = await store.now();
  for (let priority = 0; priority <= 9; priority++)
    await store.putDue({ id: `p${priority}`, priority, dueMs: now - 100 + priority });
  await store.putDue({ id: 'none', dueMs: now });
  await store.dispatch();
  const listed = await Promise.all(
    ['celery', 'celery\x06\x163', 'celery\x06\x166', 'celery\x06\x169'].map(async (list) =>
      (await store.queue(list)).map(({ schedule, properties }) => `${schedule}=${properties.priority}`),
    ),
  );
  t.same(listed, [['p0=0', 'p1=1', 'p2=2', 'none=0'], ['p3=3', 'p4=4', 'p5=5'], ['p6=6', 'p7=7', 'p8=8'], ['p9=9']]);
});

t.test('task ids look like UUIDs of version 8, tell the due time, and differ from delivery tags', async (t) => {
  const store = await open();
  const now = await store.now();
  await store.putDue({ id: 'a', every: 10, dueMs: now - 30 });
  await store.putDue({ id: 'b', every: 10, dueMs: now - 30 });
  for (let call = 0; call < 4; call++) await store.dispatch();
  const messages = await store.queue();
  t.ok(messages.length >= 8);
  const form = /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  for (const { id, tag, due, headers, properties } of messages) {
    t.match(id, form);
    t.match(tag, form);
    t.equal(Number.parseInt(id.slice(-12), 16), due);
    t.equal(headers.root_id, id);
    t.equal(properties.correlation_id, id);
  }
  t.equal(new Set(messages.flatMap(({ id, tag }) => [id, tag])).size, 2 * messages.length);
});

t.test(
  'a schedule that is deleted and created again, or timed anew, gives other task ids for the same due time',
  async (t) => {
    const store = await open();
    const dueMs = (await store.now()) - 5_000;
    const run = async () => {
      await store.redis.zadd(store.keys.due, 'XX', dueMs, 'a');
      await store.dispatch();
    };
    await store.putDue({ id: 'a', dueMs });
    await run();
    await run();
    await deleteSchedules(store.redis, store.names, store.keys, EPOCH, ['a']);
    await store.putDue({ id: 'a', dueMs });
    await run();
    await store.put({ id: 'a', every: 20_000, phase: dueMs % 20_000 });
    await run();
    const ids = (await store.queue()).map(({ id }) => id);
    t.equal(ids.length, 4);
    t.equal(ids[0], ids[1], 'the same occurrence keeps its id');
    t.equal(new Set(ids).size, 3);
  },
);

t.test('expiry is written as Celery writes it, whatever the date', async (t) => {
  const store = await open();
  const now = await store.now();
  const instants = [
    now + 1,
    Date.UTC(2027, 0, 1),
    Date.UTC(2028, 1, 29, 23, 59, 59, 999),
    Date.UTC(2028, 2, 1),
    Date.UTC(2099, 11, 31, 23, 59, 59, 1),
    Date.UTC(2100, 1, 28, 12, 30, 15, 45),
    Date.UTC(2100, 2, 1),
    Date.UTC(2400, 1, 29),
    Date.UTC(9999, 11, 31, 23, 59, 59, 999),
  ].map((atMs) => Math.max(atMs, now + 60_000));
  for (const [i, atMs] of instants.entries())
    await store.putDue({ id: `s${i}`, dueMs: now - 100 + i, expires: { atMs } });
  await store.dispatch();
  t.same(
    (await store.queue()).map(({ headers }) => headers.expires),
    instants.map((atMs) => `${new Date(atMs).toISOString().slice(0, -1)}000+00:00`),
  );
});
