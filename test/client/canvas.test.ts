import t from 'tap';
import { Client, chain, chord, group, SpecError, signature, task } from '../../index.ts';
import { resultKey } from '../../lua/keys.ts';
import { spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

const add = task('add', (_ctx, x: number, y: number) => x + y);
const show = task('show', async (_ctx, sum: number, unit?: string) => `${sum} ${unit}`);
const total = task('total', (_ctx, numbers: readonly number[]) => numbers.length);

const server = await withRedis(t);
await spawnBeat(t, server.url, ['--create-at-once']);
const redis = server.connect();
const client = new Client({ redis: server.url });
t.teardown(async () => {
  await client.close();
  redis.disconnect();
});
t.afterEach(async () => {
  await redis.del('celery', 'full');
});

/** Never called: what the compiler has to say about it is the test. */
export async function typesAreKept(): Promise<void> {
  const sum: number = await (await chain(add.s(1, 2), add.s(3)).delay()).get(1);
  const text: string = await (await chain(add.s(sum), add.s(2), show.s()).delay(1)).get(1);
  const [one, two]: readonly [number, string] = await (await group(add.s(1, 2), show.s(1, text)).delay()).get(1);
  const all: number[] = await (await group([one].map((i) => add.s(i, i))).delay()).get(1);
  const length: number = await (await chord([add.s(1, 2)], total.s()).delay()).get(1);
  const mixed: number = await (await chain(group([add.s(all.length, length)]), total.s()).delay()).get(1);
  void [two, mixed];
  // @ts-expect-error an argument is of another type
  add.s('1');
  // @ts-expect-error an argument is missing where it is sent
  void add.s(1).delay();
  // @ts-expect-error a result is of another type than what takes it
  chain(show.s(1, 'x'), add.s(1));
  // @ts-expect-error there is no room for the result
  chain(add.s(1, 1), add.s(1, 1));
  // @ts-expect-error the body takes a list of other results
  chord([show.s(1)], total.s());
  // @ts-expect-error a callback does not take the result
  show.s(1).link(add.s(1));
  // @ts-expect-error there is no such option
  add.s(1).set({ cuntdown: 1 });
  chain(add.s(1, 1), add.si(1, 1), show.s('x'));
}

t.test('what adds to a signature answers a new one', async (t) => {
  const plain = add.s(1, 2);
  const before = JSON.stringify(plain);
  const late = plain
    .set({ countdown: 5, headers: { tenant: 'a' } })
    .link(add.s(1))
    .onError(signature('told'));
  t.equal(JSON.stringify(plain), before);
  t.match(late.toJSON(), {
    task: 'add',
    options: { countdown: 5, link: [{ args: [1] }], link_error: [{ task: 'told' }] },
  });
});

t.test('what cannot be sent is refused, and nothing is sent', async (t) => {
  const refused = [
    [() => add.s(Number.NaN, 1), { code: 'BAD_SPEC', message: /must be JSON, got NaN/ }],
    [() => add.s(1, 2).set({ cuntdown: 1 } as object), { name: 'TypeError', message: /no option cuntdown.*countdown/ }],
    [() => add.s(1, 2).set({ priority: 10 }).delay(), { code: 'BAD_SPEC', message: /options.priority/ }],
    [() => chain(add.s(1, 2), add.s(1).set({ queue: 'rb:meta' })).delay(), { code: 'BAD_SPEC', message: /queue/ }],
    [
      () =>
        add
          .s(1, 2)
          .link(add.s(1).set({ timeLimit: -1 }))
          .delay(),
      { code: 'BAD_SPEC', message: /time_limit/ },
    ],
    [
      () =>
        add
          .s(1, 2)
          .set({ eta: new Date(Number.NaN) })
          .delay(),
      { code: 'BAD_SPEC' },
    ],
    [() => client.apply({ task: 'x', subtask_type: 'odd' }), { code: 'BAD_SPEC', message: /unknown type "odd"/ }],
    [() => client.apply({ args: [] }), { code: 'BAD_SPEC', message: /names a task/ }],
    [() => chain([]), { name: 'TypeError', message: /needs a step/ }],
    [() => add.chunks([[1, 1]], 0), { name: 'RangeError', message: /got 0/ }],
  ] as const;
  for (const [act, error] of refused) await t.rejects(async () => act(), { ...error });
  await t.rejects(async () => add.s(Number.NaN, 1), SpecError);
  t.equal(await redis.exists('celery'), 0);
});

t.test('nothing of a workflow is sent where the key of one of its queues is no list', async (t) => {
  await redis.set('full', 'x');
  const members = [add.s(1, 1), add.s(2, 2).set({ queue: 'full' })];
  await t.rejects(group(members).delay(), { code: 'BAD_QUEUE', values: { queue: 'full' } });
  t.equal(await redis.exists('celery'), 0);
});

t.test('a workflow of thousands of tasks is sent whole', async (t) => {
  const handle = await group(Array.from({ length: 2_500 }, (_, i) => add.s(i, i))).delay();
  t.equal(await redis.llen('celery'), 2_500);
  t.equal(handle.members.length, 2_500);
  t.equal((await handle.result()).state, 'PENDING');
  t.equal((await redis.keys('rb:request:*').then(({ length }) => length)) >= 3, true, 'in several steps');
});

t.test('a chord without a header is its body', async (t) => {
  await chord([], total.s()).delay();
  const [message] = await redis.lrange('celery', 0, -1);
  const { body, headers } = JSON.parse(message ?? '');
  t.equal(headers.task, 'total');
  t.same(JSON.parse(Buffer.from(body, 'base64').toString())[0], [[]]);
});

t.test('options of a task are those of its signatures', async (t) => {
  const urgent = task('urgent', () => {}, { priority: 3, timeLimit: 9, ignoreResult: true });
  t.match(urgent.s().toJSON(), { options: { priority: 3, time_limit: 9, ignore_result: true } });
});

t.test('typed values in a result are what they stand for', async (t) => {
  const typed = (type: string, value: unknown) => ({ __type__: type, __value__: value });
  const result = {
    at: typed('datetime', '2024-01-02T03:04:05+00:00'),
    bytes: [typed('base64', '//4='), typed('bytes', 'x')],
    id: typed('uuid', { hex: '00112233445566778899aabbccddeeff', version: 4 }),
    price: typed('decimal', '1.10'),
    odd: typed('odd', 1),
  };
  await redis.set(resultKey('typed'), JSON.stringify({ status: 'SUCCESS', result, task_id: 'typed' }));
  t.same(await client.handle('typed').get(1), {
    at: new Date('2024-01-02T03:04:05Z'),
    bytes: [Buffer.from([0xff, 0xfe]), Buffer.from('x')],
    id: '00112233-4455-6677-8899-aabbccddeeff',
    price: '1.10',
    odd: typed('odd', 1),
  });
});
