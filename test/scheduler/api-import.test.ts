import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import fc from 'fast-check';
import t from 'tap';
import { LineSplitter } from '../../scheduler/api/line-splitter.ts';
import { eventually, until } from '../support/eventually.ts';
import { call, importLines, schedulePath, startApi, storedIds, type TestApi } from './api-harness.ts';

const spec = (id: string, more: { readonly args?: unknown[]; readonly schedule?: object } = {}) => ({
  id,
  task: 't',
  schedule: { every: 60 },
  ...more,
});
const line = (id: string, more: object = {}) => JSON.stringify(spec(id, more));

t.test('an import says what was created, updated and unchanged', async (t) => {
  const api = await startApi(t);
  const first = await importLines(api, [spec('a'), spec('b'), spec('c')]);
  t.equal(first.status, 200);
  t.strictSame(first.json, { created: 3, updated: 0, unchanged: 0, failed: 0, errors: [] });
  const second = await importLines(api, [spec('a'), spec('b', { args: [1] }), spec('d')]);
  t.strictSame(second.json, { created: 1, updated: 1, unchanged: 1, failed: 0, errors: [] });
});

t.test('bad lines fail with number, id and reason, and never stop the good ones', async (t) => {
  const api = await startApi(t);
  const { status, json } = await importLines(api, [
    spec('good-1'),
    '',
    '{"id":"x"',
    spec('bad-every', { schedule: { every: '10' } }),
    '   ',
    JSON.stringify({ task: 't', schedule: { every: 60 } }),
    spec('good-2'),
    'null',
    spec('never', { schedule: { cron: '0 0 31 2 *' } }),
    `{"id":"huge","x":"${'x'.repeat(70_000)}"}`,
    '\r',
    `${line('good-3')}\r`,
  ]);
  t.equal(status, 200);
  t.match(json, { created: 3, updated: 0, unchanged: 0, failed: 6 });
  t.strictSame(
    json.errors.map(({ line, id }: { line: number; id: string | null }) => [line, id]),
    [
      [3, null],
      [4, 'bad-every'],
      [6, null],
      [8, null],
      [9, 'never'],
      [10, null],
    ],
  );
  t.match(json.errors[1].message, /schedule\.every/);
  t.match(json.errors[2].message, /id is required/);
  t.match(json.errors[4].message, /schedule\.cron /);
  t.match(json.errors[5].message, /65536 bytes/);
  t.strictSame(await storedIds(api), ['good-1', 'good-2', 'good-3']);
});

t.test('invalid UTF-8 and lone surrogates fail their line only', async (t) => {
  const api = await startApi(t);
  const broken = Buffer.from(line('b?d'));
  broken[broken.indexOf('?')] = 0xff;
  const body = Buffer.concat([
    Buffer.from(`${line('a')}\n`),
    broken,
    Buffer.from(`\n{"id":"\\ud800","task":"t","schedule":{"every":60}}\n${line('é')}`),
  ]);
  const { json } = await call(api, 'POST', '/v1/schedules', { body, type: 'application/x-ndjson' });
  t.match(json, { created: 2, failed: 2, errors: [{ line: 2, id: null }, { line: 3 }] });
  t.strictSame(await storedIds(api), ['a', 'é']);
});

t.test('the first 100 errors are told, all are counted', async (t) => {
  const api = await startApi(t);
  const { json } = await importLines(
    api,
    Array.from({ length: 1_000 }, () => '{'),
  );
  t.equal(json.failed, 1_000);
  t.equal(json.errors.length, 100);
  t.equal(json.errors[99].line, 100);
});

t.test('a later line with the same id wins, within a batch and across batches', async (t) => {
  const api = await startApi(t, { shards: 2 });
  const lines = Array.from({ length: 5_000 }, (_, n) => spec(n % 10 === 0 ? 'same' : `s${n % 700}`, { args: [n] }));
  const { json } = await importLines(api, lines);
  t.equal(json.created + json.updated + json.unchanged, 5_000, 'every line is counted');
  t.equal(json.created, new Set(lines.map(({ id }) => id)).size);
  t.strictSame((await call(api, 'GET', '/v1/schedules/same')).json.args, [4_990]);
  t.strictSame((await call(api, 'GET', '/v1/schedules/s1')).json.args, [4_901]);
  for (const id of ['s699', 's33', 's458']) {
    const last = lines.findLast((line) => line.id === id);
    t.strictSame((await call(api, 'GET', `/v1/schedules/${id}`)).json.args, last?.args, id);
  }
});

t.test('an empty body is an import of nothing', async (t) => {
  const api = await startApi(t);
  const nothing = { created: 0, updated: 0, unchanged: 0, failed: 0, errors: [] };
  for (const body of ['', '\n', '\r\n\r\n', ' \n\t\n']) {
    t.strictSame(
      (await call(api, 'POST', '/v1/schedules', { body, type: 'application/x-ndjson' })).json,
      nothing,
      JSON.stringify(body),
    );
  }
});

t.test('an import with a charset in its media type is an import', async (t) => {
  const api = await startApi(t);
  const { json } = await call(api, 'POST', '/v1/schedules', {
    body: line('a'),
    type: 'Application/X-NDJSON; charset=utf-8',
  });
  t.match(json, { created: 1 });
});

t.test('however the bytes are cut, the lines are the same', async () => {
  const text = fc
    .array(fc.constantFrom('\n', '\n\n', 'a', 'bc', 'x'.repeat(12), 'é'), { maxLength: 30 })
    .map((parts) => parts.join(''));
  fc.assert(
    fc.property(text, fc.array(fc.nat(), { maxLength: 10 }), (text, cuts) => {
      const bytes = Buffer.from(text);
      const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
      const splitter = new LineSplitter(10);
      const found: [number, string | null][] = [];
      const take = (line: { number: number; bytes: Buffer | null }) =>
        found.push([line.number, line.bytes === null ? null : line.bytes.toString()]);
      for (const [i, from] of [0, ...at].entries())
        for (const line of splitter.split(bytes.subarray(from, at[i] ?? bytes.length))) take(line);
      const rest = splitter.rest();
      if (rest !== null) take(rest);
      const lines = text.split('\n');
      if (lines.at(-1) === '') lines.pop();
      const wanted = lines.map((line, i) => [i + 1, Buffer.byteLength(line) > 10 ? null : line]);
      if (JSON.stringify(found) !== JSON.stringify(wanted))
        throw new Error(`${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`);
    }),
    { seed: 20_261_121 },
  );
});

/** A connection on which a request is being written by hand. */
async function openImport(api: TestApi, headers: readonly string[]): Promise<Socket> {
  const socket = connect(api.port, '127.0.0.1');
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.write(
    ['POST /v1/schedules HTTP/1.1', 'host: x', 'content-type: application/x-ndjson', ...headers, '', ''].join('\r\n'),
  );
  return socket;
}

const chunk = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;

for (const [name, hangUp] of [
  ['ends', (socket: Socket) => socket.end()],
  ['is reset', (socket: Socket) => socket.resetAndDestroy()],
] as const) {
  t.test(`when the connection ${name} half way, complete lines are stored and the unfinished one is not`, async (t) => {
    const api = await startApi(t);
    for (const [kind, headers, write] of [
      ['length', ['content-length: 100000'], (text: string) => text],
      ['chunked', ['transfer-encoding: chunked'], chunk],
    ] as const) {
      const socket = await openImport(api, headers);
      const ids = Array.from({ length: 600 }, (_, n) => `${kind}/${n}`);
      // The last line is a whole spec, but nobody can tell that it was all.
      socket.write(write(`${ids.map((id) => line(id)).join('\n')}\n${line(`${kind}/unfinished`)}`));
      await until(
        async () => (await call(api, 'GET', schedulePath(`${kind}/0`))).status === 200,
        'the first line is stored',
      );
      hangUp(socket);
      await eventually(async () => {
        const { length } = (await storedIds(api)).filter((id) => id.startsWith(`${kind}/`));
        if (length < 600) throw new Error(`${length} stored`);
      });
      t.equal((await call(api, 'GET', schedulePath(`${kind}/599`))).status, 200);
      t.equal((await call(api, 'GET', schedulePath(`${kind}/unfinished`))).status, 404, kind);
    }
    t.match((await importLines(api, [spec('after')])).json, { created: 1 }, 'and the next request is served');
  });
}

t.test('a slow sender does not wait for a batch to fill', async (t) => {
  const api = await startApi(t);
  const socket = await openImport(api, ['transfer-encoding: chunked', 'connection: close']);
  for (const id of ['a', 'b', 'c']) {
    socket.write(chunk(`${line(id)}\n`));
    await until(async () => (await call(api, 'GET', `/v1/schedules/${id}`)).status === 200, `${id} is stored`);
  }
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  socket.write('0\r\n\r\n');
  await once(socket, 'end');
  t.match(answer, /^HTTP\/1.1 200 /);
  t.match(answer, /"created":3/);
});

t.test('an upload that never ends does not keep the node from closing', async (t) => {
  const api = await startApi(t);
  const socket = await openImport(api, ['transfer-encoding: chunked']);
  socket.write(chunk(`${line('a')}\n`));
  await until(async () => (await call(api, 'GET', '/v1/schedules/a')).status === 200, 'the first line is stored');
  const ended = once(socket, 'close');
  await api.app.close();
  await ended;
  t.notOk(api.app.server.listening);
});

t.test('when Redis goes away in the middle, the answer is a 503 and what was stored stays', async (t) => {
  const api = await startApi(t);
  const socket = await openImport(api, ['transfer-encoding: chunked', 'connection: close']);
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  socket.write(chunk(`${line('before')}\n`));
  await until(async () => (await call(api, 'GET', '/v1/schedules/before')).status === 200, 'the first line is stored');
  api.server.pause();
  socket.write(chunk(`${line('during')}\n`));
  socket.write('0\r\n\r\n');
  await once(socket, 'end');
  t.match(answer, /^HTTP\/1.1 503 /);
  t.match(answer, /application\/problem\+json/);
  api.server.resume();
  await until(async () => (await call(api, 'GET', '/v1/schedules/before')).status === 200, 'Redis is back');
});

t.test('a body is read no faster than Redis stores it, and memory stays flat', async (t) => {
  const api = await startApi(t);
  await importLines(
    api,
    Array.from({ length: 2_000 }, (_, n) => spec(`warm/${n}`)),
  );
  const before = process.memoryUsage();
  const socket = await openImport(api, ['transfer-encoding: chunked', 'connection: close']);
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  // 48 MiB: the same good lines over and over, and between them lines of 1 MiB that are never held.
  const good = chunk(`${Array.from({ length: 500 }, (_, n) => line(`s/${n}`)).join('\n')}\n`);
  const huge = chunk('x'.repeat(131_072));
  let peak = 0;
  for (let round = 0; round < 40; round++) {
    for (const text of [good, ...Array.from({ length: 8 }, () => huge), chunk('\n')]) {
      if (!socket.write(text)) await once(socket, 'drain');
    }
    const { rss } = process.memoryUsage();
    peak = Math.max(peak, rss - before.rss);
  }
  socket.write('0\r\n\r\n');
  await once(socket, 'end');
  t.match(answer, /"failed":40,/);
  t.ok(peak < 64 * 1_048_576, `memory grew by ${Math.round(peak / 1_048_576)} MiB at most`);

  // Nobody stores: what can be written before the sender is held back is bounded by the buffers in between.
  api.server.pause();
  const held = await openImport(api, ['transfer-encoding: chunked', 'connection: close']);
  let written = 0;
  held.on('data', () => {});
  const ended = once(held, 'end');
  const answered = ended.then(() => true);
  while (written < 512 * 1_048_576) {
    written += good.length;
    if (held.write(good)) continue;
    if (await Promise.race([once(held, 'drain').then(() => false), answered])) break;
  }
  t.ok(written < 64 * 1_048_576, `the sender was held back after ${Math.round(written / 1_048_576)} MiB`);
  held.destroy();
  api.server.resume();
});
