import t from 'tap';
import { call, importLines, startApi, type TestApi } from './api-harness.ts';

async function pages(api: TestApi, query: string): Promise<{ ids: string[]; sizes: number[] }> {
  const ids: string[] = [];
  const sizes: number[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const { status, json } = await call(
      api,
      'GET',
      `/v1/schedules?${query}${cursor === '' ? '' : `&cursor=${cursor}`}`,
    );
    if (status !== 200) throw new Error(JSON.stringify(json));
    sizes.push(json.schedules.length);
    ids.push(...json.schedules.map(({ id }: { id: string }) => id));
    cursor = json.cursor;
  }
  return { ids, sizes };
}

const numbered = (count: number, spec: (n: number) => object) =>
  Array.from({ length: count }, (_, n) => ({ id: `s/${n}`, task: 't', schedule: { every: 60 }, ...spec(n) }));

t.test('paging shows each schedule once, at most `limit` a page', async (t) => {
  const api = await startApi(t, { shards: 3 });
  await importLines(
    api,
    numbered(1_500, () => ({})),
  );
  for (const limit of [9, 100, 1_000]) {
    const { ids, sizes } = await pages(api, `limit=${limit}`);
    t.equal(new Set(ids).size, 1_500, `limit ${limit}: all`);
    t.equal(ids.length, 1_500, `limit ${limit}: once`);
    t.ok(Math.max(...sizes) <= limit, `limit ${limit}: no page is longer`);
  }
  const first = await call(api, 'GET', '/v1/schedules');
  t.equal(first.json.schedules.length, 100);
});

t.test('few schedules, which Redis keeps in one piece, are paged all the same', async (t) => {
  const api = await startApi(t, { shards: 2 });
  await importLines(
    api,
    numbered(25, () => ({})),
  );
  const { ids, sizes } = await pages(api, 'limit=2');
  t.equal(new Set(ids).size, 25);
  t.equal(ids.length, 25);
  t.ok(sizes.every((size) => size <= 2));
});

t.test('an empty namespace is one empty page', async (t) => {
  const api = await startApi(t);
  t.strictSame((await call(api, 'GET', '/v1/schedules')).json, { schedules: [], cursor: null });
});

t.test('filters select by tag, task, queue, prefix and state', async (t) => {
  const api = await startApi(t);
  await importLines(api, [
    { id: 'a/1', task: 'one', queue: 'x', tags: ['red', 'blue'], schedule: { every: 60 } },
    { id: 'a/2', task: 'two', queue: 'x', tags: ['red'], schedule: { every: 60 }, enabled: false },
    { id: 'b/1', task: 'one', queue: 'y', tags: [], schedule: { every: 60, phase: 1 }, end: '2001-01-01T00:00:00Z' },
    { id: '*/1', task: 'one', queue: 'y', schedule: { in: 1_000 } },
    { id: '[a]/?\\', task: 'three', queue: 'z', schedule: { every: 60 } },
  ]);
  const select = async (query: string) => (await pages(api, query)).ids.sort();
  t.strictSame(await select('tag=red'), ['a/1', 'a/2']);
  t.strictSame(await select('tag=re'), []);
  t.strictSame(await select('task=one'), ['*/1', 'a/1', 'b/1']);
  t.strictSame(await select('queue=x'), ['a/1', 'a/2']);
  t.strictSame(await select('prefix=a'), ['a/1', 'a/2']);
  t.strictSame(await select(`prefix=${encodeURIComponent('*')}`), ['*/1'], 'a star is only a star');
  t.strictSame(await select(`prefix=${encodeURIComponent('[a]/?\\')}`), ['[a]/?\\']);
  t.strictSame(await select('state=paused'), ['a/2']);
  t.strictSame(await select('state=completed'), ['b/1']);
  t.strictSame(await select('state=running'), []);
  t.strictSame(await select('tag=red&task=one&queue=x&state=scheduled'), ['a/1']);
});

t.test('a page of rare matches is bounded, and the cursor goes on', async (t) => {
  const api = await startApi(t, { shards: 1 });
  await importLines(
    api,
    numbered(12_000, (n) => ({ tags: n === 7 ? ['rare'] : [] })),
  );
  const { ids, sizes } = await pages(api, 'tag=rare');
  t.strictSame(ids, ['s/7']);
  t.ok(sizes.length > 1, 'more than one page, most of them empty');
});

t.test('wrong queries are refused, naming what is wrong', async (t) => {
  const api = await startApi(t);
  for (const [query, path] of [
    ['limit=0', 'limit'],
    ['limit=1001', 'limit'],
    ['limit=1.5', 'limit'],
    ['limit=1e2', 'limit'],
    ['limit=', 'limit'],
    ['limit=-1', 'limit'],
    ['limit=1&limit=2', 'limit'],
    ['cursor=nonsense', 'cursor'],
    ['cursor=', 'cursor'],
    [`cursor=${Buffer.from('[99,"0"]').toString('base64url')}`, 'cursor'],
    [`cursor=${Buffer.from('[0,"0\\n"]').toString('base64url')}`, 'cursor'],
    [`cursor=${Buffer.from('[0,"0",5]').toString('base64url')}`, 'cursor'],
    ['state=sleeping', 'state'],
    ['tag=', 'tag'],
    ['colour=red', 'colour'],
    ['__proto__=1', '__proto__'],
  ]) {
    t.match(
      await call(api, 'GET', `/v1/schedules?${query}`),
      { status: 400, json: { errors: [{ path }] } },
      String(query),
    );
  }
});

t.test('many are paused, resumed and deleted by tag or prefix', async (t) => {
  const api = await startApi(t, { shards: 4 });
  await importLines(
    api,
    numbered(1_000, (n) => ({ tags: n % 2 === 0 ? ['even'] : [] })),
  );
  const act = async (action: string, selection: object) =>
    (await call(api, 'POST', `/v1/schedules/${action}`, { json: selection })).json;
  t.strictSame(await act('pause', { tag: 'even' }), { matched: 500, changed: 500 });
  t.strictSame(await act('pause', { prefix: 's/' }), { matched: 1_000, changed: 500 });
  t.equal((await pages(api, 'state=paused&limit=1000')).ids.length, 1_000);
  t.strictSame(await act('resume', { tag: 'even' }), { matched: 500, changed: 500 });
  t.strictSame(await act('resume', { tag: 'none' }), { matched: 0, changed: 0 });
  t.strictSame(await act('delete', { tag: 'even' }), { matched: 500, changed: 500 });
  t.equal((await pages(api, 'limit=1000')).ids.length, 500);
  t.strictSame(await act('delete', { prefix: 's/' }), { matched: 500, changed: 500 });
  t.strictSame((await call(api, 'GET', '/v1/schedules')).json.schedules, []);
});

t.test('an action on many needs one selection that is not empty', async (t) => {
  const api = await startApi(t);
  await importLines(
    api,
    numbered(3, () => ({ tags: ['a'] })),
  );
  for (const json of [
    {},
    { tag: '' },
    { prefix: '' },
    { tag: 'a', prefix: 's' },
    { tag: ['a'] },
    { id: 's/0' },
    [],
    'a',
    null,
    { tag: 'a', all: true },
  ]) {
    for (const action of ['pause', 'resume', 'delete']) {
      const reply = await call(api, 'POST', `/v1/schedules/${action}`, {
        body: JSON.stringify(json),
        type: 'application/json',
      });
      t.equal(reply.status, 400, `${action} ${JSON.stringify(json)}`);
    }
  }
  t.equal((await call(api, 'POST', '/v1/schedules/delete')).status, 400);
  t.equal((await pages(api, 'state=scheduled')).ids.length, 3, 'nothing was changed');
});

t.test('one is paused and resumed, as often as one likes', async (t) => {
  const api = await startApi(t);
  await importLines(
    api,
    numbered(1, () => ({})),
  );
  for (const [action, state] of [
    ['pause', 'paused'],
    ['pause', 'paused'],
    ['resume', 'scheduled'],
    ['resume', 'scheduled'],
  ] as const) {
    const { status, json } = await call(api, 'POST', `/v1/schedules/s%2F0/${action}`);
    t.match(
      { status, state: json.state, enabled: json.enabled },
      { status: 200, state, enabled: state === 'scheduled' },
    );
    t.equal(json.next_run_at === null, state === 'paused');
  }
  t.equal((await call(api, 'POST', '/v1/schedules/none/pause')).status, 404);
  t.equal((await call(api, 'POST', '/v1/schedules/none/resume')).status, 404);
  t.equal((await call(api, 'POST', '/v1/schedules/s%2F0/pause', { json: {} })).status, 200, 'a body is of no interest');
});
