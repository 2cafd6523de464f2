import t from 'tap';
import { queueList, workerKeys } from '../../lua/keys.ts';
import { type Reserved, type ReserveRequest, reserve } from '../../lua/reserve.ts';
import { chanceOf } from '../support/chance.ts';
import { withRedis } from '../support/redis-server.ts';
import { envelope, redisNow, send, whereabouts } from './messages.ts';

const redisServer = await withRedis(t);
const redis = redisServer.connect();
t.teardown(() => redis.disconnect());
t.beforeEach(() => redis.flushall());

let counter = 0;
function take(request: Partial<ReserveRequest> = {}) {
  if (request.counter === undefined) counter += 1;
  return reserve(redis, 'rb', {
    workerId: 'w1',
    counter,
    limit: 100,
    byteLimit: 1_048_576,
    queues: ['celery'],
    ...request,
  });
}

t.test(
  'a message moves from its queue to unacked as kombu would write it, and is recorded under the worker',
  async (t) => {
    const raw = envelope({ tag: 'tag-1', args: [2, 3] });
    await redis.lpush('celery', raw);
    const before = await redisNow(redis);
    const { messages, nowMs } = await take();
    t.same(messages, [{ tag: 'tag-1', list: 'celery', envelope: raw, isStarted: false, isAcked: false }]);
    t.same(await redis.hgetall('unacked'), { 'tag-1': `[${raw}, "", "celery"]` });
    t.ok(nowMs >= before && nowMs <= (await redisNow(redis)));
    const score = Number(await redis.zscore('unacked_index', 'tag-1'));
    t.ok(Math.abs(score - nowMs / 1_000) < 0.002);
    t.same(await redis.smembers(workerKeys('rb', 'w1').reserved), ['tag-1']);
    t.equal(Number(await redis.zscore('rb:workers', 'w1')), nowMs);
    t.equal(await redis.exists('celery'), 0);
  },
);

const DIRECT = { room: 10, tasks: '"note"\n"other"\n+"note-late"', maxCrashes: 3 };

t.test('what may start at once is acknowledged as it is taken, as far as there is room', async (t) => {
  await send(redis, { tag: 'a' }, { tag: 'b', priority: 3 }, { tag: 'c', task: 'other' });
  const { messages } = await take({ direct: { ...DIRECT, room: 2 } });
  t.same(
    messages.map(({ tag, list, isAcked }) => [tag, list, isAcked]),
    [
      ['a', 'celery', true],
      ['c', 'celery', true],
      ['b', queueList('celery', 3), false],
    ],
  );
  t.same(await redis.hkeys('unacked'), ['b']);
  t.same(await redis.zrange('unacked_index', '0', '-1'), ['b']);
  t.same(await redis.smembers(workerKeys('rb', 'w1').reserved), ['b']);
});

t.test(
  'what must not start at once goes to unacked: other tasks, an eta, a run that a schedule waits for',
  async (t) => {
    await send(
      redis,
      { tag: 'another', task: 'unlisted' },
      { tag: 'prefix', task: 'note2' },
      { tag: 'eta', headers: { eta: '2030-01-01T00:00:00.000000+00:00' } },
      { tag: 'run', headers: { ringbeat: { schedule: 's', due: 1, run: 0, attempt: 1, journal: 'rb:{0}:' } } },
    );
    const { messages } = await take({ direct: DIRECT });
    t.same(
      messages.map(({ isAcked }) => isAcked),
      [false, false, false, false],
    );
    t.equal(await redis.hlen('unacked'), 4);
  },
);

t.test('what comes behind a message that may not start at once does not overtake it', async (t) => {
  await send(redis, { tag: 'a' }, { tag: 'b', task: 'unlisted' }, { tag: 'c' });
  const { messages } = await take({ direct: DIRECT });
  t.same(
    messages.map(({ tag, isAcked }) => [tag, isAcked]),
    [
      ['a', true],
      ['b', false],
      ['c', false],
    ],
  );
});

t.test('the same counter answers what was acknowledged as well, and the next one takes other messages', async (t) => {
  await send(redis, { tag: 'a' }, { tag: 'b', task: 'unlisted' }, { tag: 'c' });
  const first = await take({ direct: DIRECT });
  const again = await take({ direct: DIRECT, counter });
  t.same(new Set(again.messages), new Set(first.messages));
  t.same((await take({ direct: DIRECT })).messages, []);
  await send(redis, { tag: 'd', task: 'unlisted' });
  const third = await take({ direct: DIRECT });
  t.same(
    (await take({ direct: DIRECT, counter })).messages,
    third.messages,
    'an older batch is not answered with a newer one',
  );
});

t.test('messages come oldest first, the most urgent list first', async (t) => {
  await send(
    redis,
    { tag: 'a9', priority: 9 },
    { tag: 'a0' },
    { tag: 'a3', priority: 3 },
    { tag: 'b0' },
    { tag: 'a6', priority: 7 },
  );
  const { messages } = await take();
  t.same(
    messages.map(({ tag, list }) => [tag, list]),
    [
      ['a0', 'celery'],
      ['b0', 'celery'],
      ['a3', queueList('celery', 3)],
      ['a6', queueList('celery', 6)],
      ['a9', queueList('celery', 9)],
    ],
  );
});

t.test('a long queue leaves room for the others of its urgency', async (t) => {
  for (let n = 0; n < 300; n++) await send(redis, { tag: `long-${n}`, queue: 'long' });
  for (let n = 0; n < 20; n++) await send(redis, { tag: `short-${n}`, queue: 'short' });
  const { messages } = await take({ queues: ['long', 'short'], limit: 60 });
  t.equal(messages.length, 60);
  t.equal(messages.filter(({ list }) => list === 'short').length, 20);
});

t.test('no more is taken than the limit says, in messages and about in bytes', async (t) => {
  for (let n = 0; n < 100; n++) await send(redis, { tag: `t${n}`, args: ['x'.repeat(3_000)] });
  t.equal((await take({ limit: 7 })).messages.length, 7);
  const { messages } = await take({ byteLimit: 200_000 });
  const bytes = messages.reduce((sum, message) => sum + message.envelope.length, 0);
  t.ok(bytes >= 200_000 && bytes < 210_000, `${bytes} bytes`);
});

t.test('one message larger than the byte limit is taken all the same', async (t) => {
  await send(redis, { tag: 'large', args: ['x'.repeat(5_000)] });
  t.equal((await take({ byteLimit: 10 })).messages.length, 1);
});

t.test('the same counter answers the same messages and takes no others', async (t) => {
  await send(redis, { tag: 'a' }, { tag: 'b', priority: 3 });
  const first = await take();
  await send(redis, { tag: 'c' });
  const second = await take({ counter });
  t.same(second.messages, first.messages);
  t.same(await whereabouts(redis), { queued: 1, unacked: 2, index: 2, dead: 0 });
});

t.test('a repeated call leaves out what was restored meanwhile', async (t) => {
  await send(redis, { tag: 'a' }, { tag: 'b' });
  await take();
  await redis.hdel('unacked', 'a');
  t.same(
    (await take({ counter })).messages.map(({ tag }) => tag),
    ['b'],
  );
});

t.test('a late copy of an older call takes nothing', async (t) => {
  await send(redis, { tag: 'a' });
  await take();
  await send(redis, { tag: 'b' });
  t.same((await take({ counter: counter - 1 })).messages, []);
  t.equal(await redis.llen('celery'), 1);
});

t.test('looking at empty queues writes nothing', async (t) => {
  const { messages } = await take();
  t.same(messages, []);
  t.same(await redis.keys('*'), []);
});

const NO_MESSAGES: readonly (readonly [string, string])[] = [
  ['it is no JSON object', 'not JSON'],
  ['it is no JSON object', '"text"'],
  ['it is no JSON object', ''],
  ['it has no properties', '{"body": "x"}'],
  ['it has no properties', '[1, 2]'],
  ['it has no delivery_info', '{"properties": {"delivery_tag": "x"}}'],
  ['it has no delivery_info', '{"properties": {"delivery_tag": "x", "delivery_info": {"exchange": ""}}}'],
  ['it has no usable delivery_tag', '{"properties": {"delivery_info": {"exchange": "", "routing_key": "celery"}}}'],
  [
    'it has no usable delivery_tag',
    '{"properties": {"delivery_tag": 5, "delivery_info": {"exchange": "", "routing_key": "celery"}}}',
  ],
  [
    'it has no usable delivery_tag',
    '{"properties": {"delivery_tag": "a\\nb", "delivery_info": {"exchange": "", "routing_key": "celery"}}}',
  ],
];

t.test('what is no message is kept as a dead letter and blocks nothing', async (t) => {
  for (const [, raw] of NO_MESSAGES) await redis.lpush('celery', raw);
  await send(redis, { tag: 'good' });
  const { messages, deadLetters } = await take();
  t.same(
    messages.map(({ tag }) => tag),
    ['good'],
  );
  t.equal(deadLetters, NO_MESSAGES.length);
  const letters = await redis.xrange('rb:dead-letters', '-', '+');
  t.same(
    letters.map(([, fields]) => fields),
    NO_MESSAGES.map(([reason, raw]) => ['queue', 'celery', 'reason', reason, 'message', raw]),
  );
});

t.test('bytes that are no UTF-8 are kept as they are', async (t) => {
  const raw = Buffer.from([0x7b, 0xff, 0x00, 0x7d]);
  await redis.lpush('celery', raw);
  await take();
  const [letter] = await redis.xrangeBuffer('rb:dead-letters', '-', '+');
  t.same(letter?.[1].at(-1), raw);
});

t.test('an envelope written by another producer is read whatever its blanks and key order', async (t) => {
  const raw =
    '{"properties":{"delivery_tag":"tag-x","delivery_info":{"routing_key":"celery","exchange":"ex","redelivered":true}},"headers":{},"body":""}';
  await redis.lpush('celery', raw);
  t.same((await take()).messages, [{ tag: 'tag-x', list: 'celery', envelope: raw, isStarted: false, isAcked: false }]);
});

for (const direct of [undefined, DIRECT]) {
  const how = direct === undefined ? '' : ', also where messages start at once';
  t.test(`a queue whose key holds something else is reported and passed over${how}`, async (t) => {
    await redis.set('broken', 'text');
    await send(redis, { tag: 'a' });
    const { messages, wrongTypes } = await take({ queues: ['broken', 'celery'], ...(direct && { direct }) });
    t.same(wrongTypes, ['broken']);
    t.equal(messages.length, 1);
  });

  t.test(`a Redis that is out of memory can still be drained${how}`, async (t) => {
    for (let n = 0; n < 50; n++) await send(redis, { tag: `t${n}` });
    t.teardown(() => redis.config('SET', 'maxmemory', '0'));
    await redis.config('SET', 'maxmemory', '1');
    await t.rejects(redis.set('x', '1'), /OOM/);
    t.equal((await take(direct && { direct: { ...direct, room: 20 } })).messages.length, 50);
    await redis.config('SET', 'maxmemory', '0');
  });
}

t.test('whatever is mixed in queues, each message is taken once, in its order, and answered again', async (t) => {
  const chance = chanceOf(20_261_121);
  const KINDS = { note: 6, 'note-late': 3, unlisted: 1, broken: 1, large: 1 };
  const wrong: unknown[] = [];
  const places = new Map<string, number>();
  for (let round = 0; round < 150; round++) {
    await redis.flushall();
    const queued = new Map<string, string[]>();
    for (let n = chance.integer(1, 60); n > 0; n--) {
      const queue = chance.pick(['one', 'two']);
      const priority = chance.pick([0, 0, 3]);
      const tag = `${round}-${n}`;
      const kind = chance.weighted(KINDS);
      const list = queueList(queue, priority);
      if (kind === 'broken') {
        await redis.lpush(list, `no message ${tag}`);
        continue;
      }
      const task = kind === 'large' ? 'note' : kind;
      await send(redis, { queue, priority, tag, task, args: kind === 'large' ? ['x'.repeat(3_000)] : [] });
      queued.set(list, [...(queued.get(list) ?? []), tag]);
    }
    const request = {
      queues: ['one', 'two'],
      limit: chance.integer(1, 40),
      byteLimit: chance.pick([5_000, 1_000_000]),
      direct: { ...DIRECT, room: chance.pick([0, 1, 5, 40]) },
    };
    let dead = 0;
    for (;;) {
      const first = await take(request);
      dead += first.deadLetters;
      if (first.messages.length + first.deadLetters === 0) break;
      // A call that took nothing is not remembered.
      const again = first.messages.length === 0 ? first : await take({ ...request, counter });
      const sorted = (messages: readonly Reserved[]) => messages.map((message) => JSON.stringify(message)).sort();
      if (String(sorted(again.messages)) !== String(sorted(first.messages)))
        wrong.push(['answered again', first, again]);
      let mayStart = true;
      for (const { tag, list, isStarted, isAcked } of first.messages) {
        if (queued.get(list)?.shift() !== tag) wrong.push(['out of its order', tag]);
        if (isStarted && !mayStart) wrong.push(['overtook', tag]);
        mayStart = isStarted;
        const place = `${isAcked ? 'acked' : isStarted ? 'started' : 'waiting'}`;
        places.set(place, (places.get(place) ?? 0) + 1);
        if ((await redis.hexists('unacked', tag)) !== (isAcked ? 0 : 1)) wrong.push(['unacked', tag]);
      }
    }
    const left = [...queued.values()].flat();
    if (left.length > 0) wrong.push(['left', left]);
    if ((await redis.xlen('rb:dead-letters')) !== dead) wrong.push(['dead letters', dead]);
  }
  t.same(wrong.slice(0, 3), []);
  for (const place of ['acked', 'started', 'waiting']) t.ok((places.get(place) ?? 0) > 100, place);
});

t.test('nothing is popped when a key that would be written has the wrong type', async (t) => {
  await send(redis, { tag: 'a' });
  await redis.set('unacked', 'text');
  await t.rejects(take(), /WRONGTYPE/);
  t.equal(await redis.llen('celery'), 1);
});
