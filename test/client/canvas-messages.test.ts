import { readFileSync } from 'node:fs';
import t from 'tap';
import { type AnySignature, Client, chain, chord, group, signature, task } from '../../index.ts';
import { spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

const SAMPLES = new URL('../../../test/fixtures/celery-samples/', import.meta.url);

interface Sample {
  readonly lists: { readonly [list: string]: readonly { readonly raw: string }[] };
  readonly other_keys?: {
    readonly [key: string]: { readonly type: string; readonly value: string; readonly ttl: number };
  };
}

const add = (...args: readonly number[]) => signature<number>('tapp.add', args);
const tsum = () => signature<number>('tapp.tsum');
const xadd = task('tapp.add', (_ctx, x: number, y: number) => x + y);
const xtsum = task('tapp.tsum', (_ctx, numbers: readonly number[]) => numbers.length);

/** Canvases as the samples' producers wrote them, in our words. */
const CANVASES: { readonly [sample: string]: () => AnySignature } = {
  'chain-3': () => chain(add(1, 2), add(3), add(4)),
  'head-chain-3': () => chain(add(1, 2), add(3), add(4)),
  'chain-group-middle': () => chain(add(1, 1), group(add(2), add(3)), tsum()),
  'chain-group-end': () => chain(add(1, 1), group(add(2), add(3))),
  'chain-link-error': () => chain(add(1, 2), add(3)).link(add(7)).onError(signature('tapp.errback_old')),
  'chord-2': () => chord([add(1, 1), add(2, 2)], tsum()),
  'head-chord-2': () => chord([add(1, 1), add(2, 2)], tsum()),
  'chord-body-chain': () => chord([add(1, 1), add(2, 2)], chain(tsum(), add(100))),
  'chord-chain-header': () => chord([chain(add(1, 1), add(10)), add(2, 2)], tsum()),
  'chord-link-error': () =>
    chord([add(1, 1), signature<number>('tapp.boom')], tsum().onError(signature('tapp.errback_old'))),
  'chord-nested': () => chord([chord([add(1, 1), add(2, 2)], tsum()), add(3, 3)], tsum()),
  'group-2': () => group(add(1, 1), add(2, 2)),
  'head-group-2': () => group(add(1, 1), add(2, 2)),
  'group-of-chains': () => group(chain(add(1, 1), add(2)), chain(add(3, 3), add(4))),
  map: () =>
    xtsum.map([
      [1, 2],
      [3, 4],
    ]),
  starmap: () =>
    xadd.starmap([
      [1, 2],
      [3, 4],
    ]),
  chunks: () =>
    xadd.chunks(
      [
        [1, 1],
        [2, 2],
        [3, 3],
      ],
      2,
    ),
  'task-link': () => add(2, 3).link(add(10)).onError(signature('tapp.errback_old'), signature('tapp.errback_new')),
  'task-link-immutable': () =>
    add(2, 3).link(signature('tapp.add', [1, 1], { immutable: true }), add(5).set({ queue: 'video', countdown: 5 })),
};

/** What newer Celery writes otherwise than 5.2, of which these samples are; ours is as the `head-` samples. */
const DIFFERS: readonly (readonly [RegExp, string])[] = [
  [/, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": \{\}/g, ''],
  [/(, )?"group_id": "[^"]+"/g, ''],
  [/(, )?"group_index": (null|\d+)/g, ''],
  [/, "add_to_parent": false/g, ''],
  [/(, )?"(root|parent)_id": null/g, ''],
  [/"options": \{"task_id": "[^"]+"\}, "subtask_type": "chain"/g, '"options": {}, "subtask_type": "chain"'],
];

/** Members of a header that is yet to be sent name its body only in 5.2. */
const BODY_IN_HEADER =
  /, "chord": \{"task": "[^"]*", "args": \[\], "kwargs": \{\}, "options": \{[^{}]*\}, "subtask_type": null, "immutable": false\}/g;

/** Messages with ids by the order in which they come, and without what differs by nature. */
function comparable(name: string, raws: readonly string[]): string[] {
  const differs = name.startsWith('head-') ? [] : DIFFERS;
  const texts = raws.map((raw) => {
    const body = Buffer.from(JSON.parse(raw).body, 'base64').toString();
    const text = raw
      .replace(/"body": "[^"]+"/, () => `"body": ${body}`)
      .replace(/"origin": "[^"]+"/, '"origin": ""')
      .replace(/"(args|kwargs)repr": "(?:[^"\\]|\\.)*"/g, '"$1repr": ""');
    const same = differs.reduce((text, [pattern, by]) => text.replace(pattern, by), text);
    return name === 'chain-group-middle' ? same.replace(BODY_IN_HEADER, '') : same;
  });
  const ids = new Map<string, string>();
  return texts.map((text) =>
    text.replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, (id) => {
      const known = ids.get(id) ?? `id${ids.size}`;
      ids.set(id, known);
      return known;
    }),
  );
}

const server = await withRedis(t);
await spawnBeat(t, server.url, ['--create-at-once']);
const redis = server.connect();
const client = new Client({ redis: server.url, default: false });
t.teardown(async () => {
  await client.close();
  redis.disconnect();
});

for (const [name, canvas] of Object.entries(CANVASES)) {
  t.test(`${name} is sent in the messages, and with the keys, that Celery writes`, async (t) => {
    const sample: Sample = JSON.parse(readFileSync(new URL(`${name}.json`, SAMPLES), 'utf8'));
    await client.apply(canvas());
    const sent: string[] = [];
    const expected: string[] = [];
    for (const [list, messages] of Object.entries(sample.lists)) {
      expected.push(...messages.map(({ raw }) => raw));
      sent.push(...(await redis.lrange(list, 0, -1)).reverse());
      await redis.del(list);
    }
    const keys = await redis.keys('celery-taskset-meta-*');
    const shown = await Promise.all(
      keys.map(async (key) => `${key} ${await redis.get(key)} ${Math.ceil((await redis.ttl(key)) / 60)}`),
    );
    if (keys.length > 0) await redis.del(...keys);
    const known = Object.entries(sample.other_keys ?? {})
      .filter(([key]) => key.startsWith('celery-taskset-meta-'))
      .map(([key, { value, ttl }]) => `${key} ${value} ${ttl / 60}`);
    t.same(comparable(name, sent), comparable(name, expected));
    t.same(shown.map(withoutId).sort(), known.map(withoutId).sort());
  });
}

function withoutId(key: string): string {
  return key.replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/, '');
}
