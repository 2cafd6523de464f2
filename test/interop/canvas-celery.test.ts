import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Client, chain, chord, group, signature, task } from '../../index.ts';
import { celeryPythons, startCeleryWorker } from '../support/celery.ts';
import { spawnBeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';

const TASKS = fileURLToPath(new URL('../worker/workflow-tasks.js', import.meta.url));
const TIMEOUT_SEC = 20;

/** The tasks of test/support/celery.ts, which never run here. */
const add = task('add', (_ctx, x: number, y: number) => x + y);
const tsum = task('tsum', (_ctx, numbers: readonly number[]) => numbers.length);
const echo = task('echo', <Value>(_ctx: unknown, value: Value) => value);
const boom = task('boom', (_ctx, message: string): number => {
  throw new Error(message);
});

/** What each canvas comes to. */
const CANVASES = {
  'a task': async () => (await add.s(2).delay(1)).get(TIMEOUT_SEC),
  'a chain': async () => (await chain(add.s(1, 2), add.s(3), add.s(4)).delay()).get(TIMEOUT_SEC),
  'a chain with an immutable task': async () =>
    (await chain(add.s(1, 1), add.si(5, 5), add.s(1)).delay()).get(TIMEOUT_SEC),
  'what comes before in a chain': async () => (await chain(add.s(1, 2), add.s(3)).delay()).parent?.get(TIMEOUT_SEC),
  'a chain with args': async () => (await chain(add.s(2), add.s(3)).delay(1)).get(TIMEOUT_SEC),
  'a chain that waits': async () =>
    (await chain(add.s(1, 1), add.s(2).set({ countdown: 0.3 })).delay()).get(TIMEOUT_SEC),
  'a group': async () => (await group([1, 2, 3].map((i) => add.s(i, i))).delay()).get(TIMEOUT_SEC),
  'a chain that ends in a group': async () =>
    (await chain(add.s(1, 1), group(add.s(2), add.s(3))).delay()).get(TIMEOUT_SEC),
  'a chord': async () => (await chord([add.s(1, 1), add.s(2, 2)], tsum.s()).delay()).get(TIMEOUT_SEC),
  'a chord of a hundred': async () =>
    (
      await chord(
        Array.from({ length: 100 }, (_, i) => add.s(i, i)),
        tsum.s(),
      ).delay()
    ).get(TIMEOUT_SEC),
  'a chord in a chain': async () =>
    (await chain(group(add.s(1, 1), add.s(2, 2)), tsum.s(), add.s(1)).delay()).get(TIMEOUT_SEC),
  'a chord in a chord': async () =>
    (await chord([chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(3, 3)], tsum.s()).delay()).get(TIMEOUT_SEC),
  map: async () =>
    (
      await tsum
        .map([
          [1, 2],
          [3, 4],
        ])
        .delay()
    ).get(TIMEOUT_SEC),
  chunks: async () =>
    (
      await add
        .chunks(
          [
            [1, 1],
            [2, 2],
            [3, 3],
          ],
          2,
        )
        .delay()
    ).get(TIMEOUT_SEC),
  'a callback': async () => {
    const id = `linked-${Math.random()}`;
    const client = current();
    await add
      .s(2, 3)
      .link(add.s(10).set({ taskId: id }))
      .delay();
    return client.handle(id).get(TIMEOUT_SEC);
  },
  'an errback': async () => {
    const id = `told-${Math.random()}`;
    const failing = `failing-${Math.random()}`;
    await boom
      .s('bang')
      .set({ taskId: failing })
      .onError(signature<string>('echo').set({ taskId: id }))
      .delay();
    return (await current().handle<string>(id).get(TIMEOUT_SEC)) === failing;
  },
  'a failing chain': async () => {
    const handle = await chain(boom.s('bang'), add.s(1)).delay();
    return handle.get(TIMEOUT_SEC).catch((error) => [error.code, error.excType]);
  },
  'a failing member of a group': async () => {
    const handle = await group(add.s(1, 1), boom.s('bang')).delay();
    const failure = await handle.get(TIMEOUT_SEC).catch((error) => error.excType);
    return [failure, (await handle.result()).state];
  },
  'a time': async () => (await chain(echo.s(new Date(0)), echo.s()).delay()).get(TIMEOUT_SEC),
} as const;

const EXPECTED: { readonly [Name in keyof typeof CANVASES]: unknown } = {
  'a task': 3,
  'a chain': 10,
  'a chain with an immutable task': 11,
  'what comes before in a chain': 3,
  'a chain with args': 6,
  'a chain that waits': 4,
  'a group': [2, 4, 6],
  'a chain that ends in a group': [4, 5],
  'a chord': 6,
  'a chord of a hundred': 9_900,
  'a chord in a chain': 7,
  'a chord in a chord': 12,
  map: [3, 7],
  chunks: [[2, 4], [6]],
  'a callback': 15,
  'an errback': true,
  'a failing chain': ['TASK_FAILED', 'ValueError'],
  'a failing member of a group': ['ValueError', 'FAILURE'],
  'a time': '1970-01-01T00:00:00.000Z',
};

let client: Client | null = null;

function current(): Client {
  if (client === null) throw new Error('There is no client.');
  return client;
}

async function outcomes(server: RedisServer): Promise<Record<string, unknown>> {
  client = new Client(server.url);
  try {
    const all = Object.entries(CANVASES).map(async ([name, send]) => [name, await send()] as const);
    return Object.fromEntries(await Promise.all(all));
  } finally {
    await client.close();
  }
}

t.setTimeout(120_000);

for (const celery of await celeryPythons(t)) {
  t.test(`workflows that a client sends run on Celery ${celery.version}`, async (t) => {
    const server = await withRedis(t);
    await spawnBeat(t, server.url, ['--create-at-once']);
    await startCeleryWorker(t, celery, server.url, { pool: 'threads', concurrency: 4 });
    t.same(await outcomes(server), EXPECTED);
  });
}

for (const pool of ['async', 'processes', 'threads']) {
  t.test(`workflows that a client sends run on a bundled worker with pool ${pool}`, async (t) => {
    const server = await withRedis(t);
    await spawnBeat(t, server.url, ['--create-at-once']);
    await spawnWorker(t, server.url, ['--tasks', TASKS, '--pool', pool, '-c', '4'], {
      env: { RINGBEAT_TEST_REDIS: server.url },
    });
    t.same(await outcomes(server), EXPECTED);
  });
}
