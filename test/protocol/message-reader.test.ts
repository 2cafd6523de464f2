import { readdirSync, readFileSync } from 'node:fs';
import { deflateSync, gzipSync } from 'node:zlib';
import t from 'tap';
import { asciiJsonString } from '../../protocol/json.ts';
import { readMessage, type TaskMessage } from '../../protocol/message-reader.ts';

const SAMPLES = new URL('../../../test/fixtures/celery-samples/', import.meta.url);

interface Sample {
  readonly raw: string;
  readonly envelope: { readonly headers: Record<string, unknown>; readonly properties: Record<string, unknown> };
  readonly body: unknown;
}

function sample(name: string): { readonly lists?: Record<string, readonly Sample[]> } {
  // One sample shows, as Python prints it, what no JSON parser reads.
  return JSON.parse(readFileSync(new URL(`${name}.json`, SAMPLES), 'utf8').replace(/: Infinity/g, ': null'));
}

function firstOf(name: string): TaskMessage {
  const [messages] = Object.values(sample(name).lists ?? {});
  return readMessage(messages![0]!.raw);
}

t.test('every recorded task message of protocol 2 is read as its producer meant it', (t) => {
  let read = 0;
  for (const file of readdirSync(SAMPLES)) {
    for (const messages of Object.values(sample(file.replace('.json', '')).lists ?? {})) {
      for (const { raw, envelope, body } of messages) {
        if (!Array.isArray(body) || envelope.headers.task === undefined || raw.includes('"__type__"')) continue;
        const message = readMessage(raw);
        const [args, kwargs, embed] = body;
        t.equal(message.id, envelope.headers.id);
        t.equal(message.task, envelope.headers.task);
        if (!file.startsWith('head-task-json')) t.same([message.args, message.kwargs], [args, kwargs], file);
        const { callbacks, errbacks, chain, chord } = embed;
        const lists = { callbacks: callbacks ?? [], errbacks: errbacks ?? [], chain: chain ?? [] };
        t.same(message.workflow, { ...lists, chord }, file);
        t.equal(message.etaMs === null, envelope.headers.eta === null, file);
        t.equal(message.expiresMs === null, envelope.headers.expires === null, file);
        read += 1;
      }
    }
  }
  t.ok(read >= 20, `${read} messages`);
  t.end();
});

t.test('protocol 1 messages are read from their body', (t) => {
  const message = firstOf('task-protocol1');
  t.match(message, {
    id: '533c11ef-777f-437d-a913-2e2182d7bda2',
    task: 'tapp.add',
    args: [2, 3],
    kwargs: {},
    workflow: { callbacks: [{ task: 'tapp.add', args: [1] }], chain: [], chord: null },
  });
  t.equal(message.etaMs, Date.parse('2026-11-21T03:48:56.449Z'), 'rounded up, so that no task starts early');
  t.end();
});

t.test('a compressed body is read', (t) => {
  t.same(firstOf('task-compressed-zlib').args, [2, 3]);
  t.end();
});

t.test("newer Celery's typed values become what they stand for", (t) => {
  const [times, others] = firstOf('head-task-json-special-types').args as unknown[][];
  t.same(times, [new Date('2024-01-02T03:04:05Z'), new Date('2024-01-02T03:04:05Z'), '2024-01-02', '03:04:05']);
  t.same(others, ['1.50', '22222222-2222-4222-8222-222222222222', Buffer.from('bytes'), Buffer.from([0xff])]);
  t.end();
});

/** Changes to a good message; `body` is plain text that is put into base64. */
interface Change {
  readonly body?: string | Buffer;
  readonly message?: Record<string, unknown>;
  readonly headers?: Record<string, unknown>;
  readonly properties?: Record<string, unknown>;
}

function changed({ body = '[[2, 3], {}, {}]', message = {}, headers = {}, properties = {} }: Change): string {
  return JSON.stringify({
    body: Buffer.from(body).toString('base64'),
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers: { task: 'add', id: 'id-1', ...headers },
    properties: {
      delivery_tag: 'tag',
      delivery_info: { exchange: '', routing_key: 'celery' },
      body_encoding: 'base64',
      ...properties,
    },
    ...message,
  });
}

const ACCEPTED: Readonly<Record<string, Change>> = {
  'minimal headers': {},
  'embed missing from the list of parts': { body: '[[2, 3], {}, null]' },
  'content-encoding missing': { message: { 'content-encoding': undefined } },
  'priority out of range': { properties: { priority: 42 } },
  'retries and timelimit null': { headers: { retries: null, timelimit: null } },
  'body plain, body_encoding absent': {
    message: { body: '[[2, 3], {}, {}]' },
    properties: { body_encoding: undefined },
  },
  'body plain, body_encoding null': { message: { body: '[[2, 3], {}, {}]' }, properties: { body_encoding: null } },
  'body plain, body_encoding utf-8': { message: { body: '[[2, 3], {}, {}]' }, properties: { body_encoding: 'utf-8' } },
  'eta in the past with Z': { headers: { eta: '2020-01-01T00:00:00Z' } },
  'gzip framing': { body: gzipSync('[[2, 3], {}, {}]'), headers: { compression: 'gzip' } },
  'protocol 1 without args': {
    body: '{"task": "add", "id": "id-1", "args": [2, 3]}',
    headers: { task: undefined, id: undefined },
  },
  'hybrid of both protocols': { body: '{"task": "other", "id": "id-2", "args": [2, 3], "kwargs": {}}' },
};
for (const [name, change] of Object.entries(ACCEPTED)) {
  t.test(`accepted: ${name}`, (t) => {
    t.match(readMessage(changed(change)), { task: 'add', id: 'id-1', args: [2, 3], kwargs: {} });
    t.end();
  });
}

const REFUSED: Readonly<Record<string, readonly [Change | string, RegExp]>> = {
  'an envelope that is no JSON': ['{', /envelope is not JSON/],
  'an envelope that is a list': ['[]', /envelope is no object/],
  'no properties': ['{}', /no properties/],
  'no delivery_info': [{ properties: { delivery_info: null } }, /no delivery_info/],
  'headers null': [{ message: { headers: null } }, /names no task/],
  'headers a list': [{ message: { headers: [] } }, /headers are no object/],
  'no task': [{ headers: { task: null } }, /names no task/],
  'no task in body or headers': [{ body: '{"id": "x"}', headers: { task: undefined } }, /names no task/],
  'task a number': [{ headers: { task: 5 } }, /task is no text/],
  'id missing': [{ headers: { id: undefined } }, /id is no text/],
  'id a number': [{ headers: { id: 5 } }, /id is no text/],
  'kwargs a list': [{ body: '[[], [], {}]' }, /kwargs are no object/],
  'args an object': [{ body: '[{}, {}, {}]' }, /args are no list/],
  'body of two parts': [{ body: '[[], {}]' }, /2 parts instead of 3/],
  'body a text': [{ body: '"x"' }, /neither a list nor an object/],
  'embed a text': [{ body: '[[], {}, "x"]' }, /third part/],
  'body invalid JSON': [{ body: '[[' }, /body is not JSON/],
  'body not base64': [{ message: { body: 'no*base64' } }, /not base64/],
  'body cut short': [{ message: { body: 'W1tdLCB7fSwge3' } }, /not base64/],
  'body not UTF-8': [{ body: Buffer.from([0x22, 0xff, 0x22]) }, /not UTF-8/],
  'body missing': [{ message: { body: undefined } }, /body is no text/],
  'content type pickle': [
    { message: { 'content-type': 'application/x-python-serialize' } },
    /content type is "application\/x-python-serialize"/,
  ],
  'content type missing': [{ message: { 'content-type': undefined } }, /content type is missing/],
  'content encoding unknown': [{ message: { 'content-encoding': 'koi8-r' } }, /content encoding is "koi8-r"/],
  'body encoding unknown': [{ properties: { body_encoding: 'hex' } }, /body encoding is "hex"/],
  'compression unknown': [
    { headers: { compression: 'application/x-bz2' } },
    /compression "application\/x-bz2" is not supported/,
  ],
  'compression broken': [{ headers: { compression: 'application/x-gzip' } }, /cannot be decompressed/],
  'a body that inflates beyond measure': [
    { body: deflateSync(Buffer.alloc(65 * 1024 * 1024, ' ')), headers: { compression: 'application/x-gzip' } },
    /cannot be decompressed/,
  ],
  'eta garbage': [{ headers: { eta: 'not a date' } }, /eta "not a date" is no time/],
  'eta a number': [{ headers: { eta: 5 } }, /eta 5 is no time/],
  'eta on no day': [{ headers: { eta: '2026-02-30T00:00:00Z' } }, /is no time/],
  'expires garbage': [{ headers: { expires: '2026-13-01' } }, /expires "2026-13-01" is no time/],
  'a value of unknown type': [{ body: '[[{"__type__": "set", "__value__": []}], {}, {}]' }, /unknown type "set"/],
};
for (const [name, [change, reason]] of Object.entries(REFUSED)) {
  t.test(`refused: ${name}`, (t) => {
    const envelope = typeof change === 'string' ? change : changed(change);
    t.throws(() => readMessage(envelope), { code: 'UNDECODABLE_MESSAGE', message: reason });
    t.end();
  });
}

const INSTANTS: Readonly<Record<string, string>> = {
  '2026-11-21T03:49:26.392733+00:00': '2026-11-21T03:49:26.393Z',
  '2026-11-21T03:49:26': '2026-11-21T03:49:26.000Z',
  '2026-11-21T05:02:07.529000+01:00': '2026-11-21T04:02:07.529Z',
  '2026-11-21T05:02:07-0330': '2026-11-21T08:32:07.000Z',
  '2026-11-21 05:02': '2026-11-21T05:02:00.000Z',
  '2026-11-21T05:02:07.5Z': '2026-11-21T05:02:07.500Z',
  '2026-11-21': '2026-11-21T00:00:00.000Z',
};
t.test('times are read as Celery reads them: without an offset they are UTC', (t) => {
  for (const [written, meant] of Object.entries(INSTANTS)) {
    const { etaMs, expiresMs } = readMessage(changed({ headers: { eta: written, expires: written } }));
    t.equal(new Date(etaMs ?? 0).toISOString(), meant, written);
    t.equal(expiresMs, etaMs);
  }
  t.end();
});

t.test("Python's bare NaN and infinities are numbers", (t) => {
  const { args } = readMessage(changed({ body: '[[NaN, -Infinity, "NaN", {"a": [Infinity]}], {}, {}]' }));
  t.same(args, [Number.NaN, -Infinity, 'NaN', { a: [Infinity] }]);
  t.end();
});

t.test("the ringbeat header is the message's occurrence", (t) => {
  const header = { schedule: 'tenant/1', due: 1_900_000_000_000, run: 0, attempt: 0 };
  t.same(readMessage(changed({ headers: { ringbeat: header } })).schedule, { ...header, journal: null });
  for (const [journal, read] of [
    ['rb:{3}:', 'rb:{3}:'],
    ['rb:3:', null],
    [7, null],
  ]) {
    const followed = { ...header, journal };
    t.same(readMessage(changed({ headers: { ringbeat: followed } })).schedule, { ...header, journal: read });
  }
  t.equal(readMessage(changed({ headers: { ringbeat: 'x' } })).schedule, null);
  t.end();
});

t.test('text beyond ASCII survives, however it is escaped', (t) => {
  const words = ['ü', '日本', '😀', '\u2028'];
  t.same(readMessage(changed({ body: `[${JSON.stringify(words)}, {}, {}]` })).args, words);
  t.same(readMessage(changed({ body: `[[${words.map(asciiJsonString)}], {}, {}]` })).args, words);
  t.end();
});
