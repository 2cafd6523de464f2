import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import fc from 'fast-check';
import t from 'tap';
import { z } from 'zod';
import { type Json, parseJson, toJson } from '../../protocol/json.ts';
import { createSpecSchema, MAX_SPEC_BYTES, parseSpec, type ScheduleSpec } from '../../schedule/spec.ts';

const schema = createSpecSchema('rb');

/** Members that every spec needs, as JSON text. */
const REQUIRED = { id: '"a"', task: '"t"', schedule: '{"every":10}' };

/** A spec as JSON text: the required members, with these on top; null takes one away. */
function specText(members: Readonly<Record<string, string | null>>): string {
  const all = Object.entries({ ...REQUIRED, ...members }).filter(([, text]) => text !== null);
  return `{${all.map(([key, text]) => `${JSON.stringify(key)}:${text}`).join(',')}}`;
}

function parse(text: string) {
  return parseSpec(schema, Buffer.from(text));
}

function accepted(text: string): ScheduleSpec {
  const result = parse(text);
  if (!result.ok) throw new Error(`refused: ${JSON.stringify(result.errors)}`);
  return result.spec;
}

function refused(text: string): { readonly path: string; readonly message: string }[] {
  const result = parse(text);
  return result.ok ? [] : [...result.errors];
}

t.test('a spec of id, task and schedule gets every default', async (t) => {
  t.strictSame(accepted(specText({})), {
    id: 'a',
    task: 't',
    args: [],
    kwargs: {},
    queue: 'celery',
    schedule: { every: 10, phase: 'spread' },
    start: null,
    end: null,
    max_runs: null,
    jitter: 0,
    exclude: [],
    misfire: { policy: 'latest', grace: null },
    overlap: 'allow',
    queue_cap: null,
    options: {
      priority: null,
      expires: null,
      time_limit: null,
      soft_time_limit: null,
      ignore_result: true,
      headers: {},
    },
    enabled: true,
    tags: [],
  });
});

const LONG_NAME = 'é'.repeat(100);

const GOOD: readonly (readonly [name: string, members: Record<string, string>, path: string, value: unknown])[] = [
  ['the shortest interval', { schedule: '{"every":0.1}' }, 'schedule.every', 0.1],
  ['ten years', { schedule: '{"every":315360000}' }, 'schedule.every', 315_360_000],
  ['an interval rounded to ms', { schedule: '{"every":1.23456}' }, 'schedule.every', 1.235],
  ['an interval written 10.0', { schedule: '{"every":10.0}' }, 'schedule.every', 10],
  ['an interval written 1e1', { schedule: '{"every":1e1}' }, 'schedule.every', 10],
  ['phase spread', { schedule: '{"every":10,"phase":"spread"}' }, 'schedule.phase', 'spread'],
  ['phase now', { schedule: '{"every":10,"phase":"now"}' }, 'schedule.phase', 'now'],
  ['an offset', { schedule: '{"every":10,"phase":9.9994}' }, 'schedule.phase', 9.999],
  ['offset 0', { schedule: '{"every":10,"phase":0}' }, 'schedule.phase', 0],
  ['a time in UTC', { schedule: '{"at":"2027-01-31T08:00:00Z"}' }, 'schedule.at', '2027-01-31T08:00:00.000Z'],
  [
    'a time with an offset',
    { schedule: '{"at":"2027-01-31T08:00:00.5+01:00"}' },
    'schedule.at',
    '2027-01-31T07:00:00.500Z',
  ],
  ['a leap day', { schedule: '{"at":"2028-02-29T00:00:00Z"}' }, 'schedule.at', '2028-02-29T00:00:00.000Z'],
  ['in 0', { schedule: '{"in":0}' }, 'schedule.in', 0],
  [
    'at start itself',
    { schedule: '{"at":"2027-01-01T00:00:00Z"}', start: '"2027-01-01T00:00:00Z"' },
    'start',
    '2027-01-01T00:00:00.000Z',
  ],
  ['an id of 200 bytes', { id: JSON.stringify(LONG_NAME) }, 'id', LONG_NAME],
  ['an id of odd characters', { id: '"a/b %\\"..é\\ud83d\\ude00"' }, 'id', 'a/b %"..é😀'],
  ['a queue that only resembles a reserved one', { queue: '"unacked2"' }, 'queue', 'unacked2'],
  ['a queue that only resembles a key of the namespace', { queue: '"rbx:1"' }, 'queue', 'rbx:1'],
  ['priority 9', { options: '{"priority":9}' }, 'options.priority', 9],
  ['expires in seconds', { options: '{"expires":0.5}' }, 'options.expires', 0.5],
  ['expires at a time', { options: '{"expires":"2027-01-01T00:00Z"}' }, 'options.expires', '2027-01-01T00:00:00.000Z'],
  ['equal time limits', { options: '{"time_limit":5,"soft_time_limit":5}' }, 'options.soft_time_limit', 5],
  ["headers of one's own", { options: '{"headers":{"x-tenant":42}}' }, 'options.headers', { 'x-tenant': 42 }],
  ['queue_cap 0', { queue_cap: '0' }, 'queue_cap', 0],
  ['grace 0', { misfire: '{"grace":0}' }, 'misfire', { policy: 'latest', grace: 0 }],
  [
    'the later fields at their defaults',
    { max_runs: 'null', jitter: '0', exclude: '[]', overlap: '"allow"' },
    'jitter',
    0,
  ],
  ['args at the deepest', { args: `${'['.repeat(64)}${']'.repeat(64)}` }, 'enabled', true],
];

for (const [name, members, path, value] of GOOD) {
  t.test(`accepts ${name}`, async (t) => {
    const spec: unknown = accepted(specText(members));
    const found = path.split('.').reduce((at, key) => (at as Record<string, unknown>)[key], spec);
    t.strictSame(found, value);
  });
}

const TIME = '"2027-01-01T00:00:00Z"';

/** [members, the one field that is to blame, a word of the message] */
const BAD: readonly (readonly [members: Record<string, string | null>, path: string, word: RegExp])[] = [
  [{ id: null }, 'id', /required/],
  [{ id: '5' }, 'id', /string/],
  [{ id: '""' }, 'id', /empty/],
  [{ id: JSON.stringify(`${LONG_NAME}a`) }, 'id', /200 bytes/],
  [{ id: '"a\\u0000"' }, 'id', /control/],
  [{ id: '"a\\u007f"' }, 'id', /control/],
  [{ id: '"a\\u0085"' }, 'id', /control/],
  [{ id: '"\\ud800"' }, 'id', /surrogate/],
  [{ task: null }, 'task', /required/],
  [{ task: '""' }, 'task', /empty/],
  [{ task: '"\\udc00x"' }, 'task', /surrogate/],
  [{ args: '{}' }, 'args', /array/],
  [{ args: '"x"' }, 'args', /array/],
  [{ args: 'null' }, 'args', /array/],
  [{ args: '["\\ud800"]' }, 'args', /surrogate/],
  [{ args: '[{"\\udfff":1}]' }, 'args', /surrogate/],
  [{ args: `${'['.repeat(65)}${']'.repeat(65)}` }, 'args', /nested/],
  [{ kwargs: '[]' }, 'kwargs', /object/],
  [{ kwargs: '1.0' }, 'kwargs', /object/],
  [{ kwargs: '{"__proto__":1}' }, 'kwargs', /__proto__/],
  [{ queue: '""' }, 'queue', /empty/],
  [{ queue: '"unacked"' }, 'queue', /unacked/],
  [{ queue: '"unacked_index"' }, 'queue', /unacked_index/],
  [{ queue: '"unacked_mutex"' }, 'queue', /unacked_mutex/],
  [{ queue: '"_kombu.binding.x"' }, 'queue', /_kombu/],
  [{ queue: '"celery-task-meta-1"' }, 'queue', /celery-task-meta-/],
  [{ queue: '"celery-taskset-meta-1"' }, 'queue', /celery-taskset-meta-/],
  [{ queue: '"rb:meta"' }, 'queue', /rb:/],
  [{ queue: '"q\\u0006\\u00163"' }, 'queue', /x06/],
  [{ schedule: null }, 'schedule', /required/],
  [{ schedule: '10' }, 'schedule', /every, at, in/],
  [{ schedule: '{}' }, 'schedule', /every, at, in/],
  [{ schedule: '{"every":10,"in":5}' }, 'schedule', /every, at, in/],
  [{ schedule: '{"every":"10"}' }, 'schedule.every', /number/],
  [{ schedule: '{"every":0.0999}' }, 'schedule.every', /at least 0.1/],
  [{ schedule: '{"every":0}' }, 'schedule.every', /at least/],
  [{ schedule: '{"every":-1}' }, 'schedule.every', /at least/],
  [{ schedule: '{"every":400000000}' }, 'schedule.every', /at most/],
  [{ schedule: '{"every":1e308}' }, 'schedule.every', /at most/],
  [{ schedule: '{"every":1e999}' }, 'schedule.every', /number/],
  [{ schedule: '{"every":null}' }, 'schedule.every', /number/],
  [{ schedule: '{"every":10,"phase":10}' }, 'schedule.phase', /less than every/],
  [{ schedule: '{"every":10,"phase":9.9999}' }, 'schedule.phase', /less than every/],
  [{ schedule: '{"every":10,"phase":-1}' }, 'schedule.phase', /at least 0/],
  [{ schedule: '{"every":10,"phase":"soon"}' }, 'schedule.phase', /"spread"/],
  [{ schedule: '{"every":10,"tz":"UTC"}' }, 'schedule.tz', /known/],
  [{ schedule: '{"at":"2026-02-30T00:00:00Z"}' }, 'schedule.at', /ISO/],
  [{ schedule: '{"at":"2027-01-01T00:00:00"}' }, 'schedule.at', /offset/],
  [{ schedule: '{"at":"2027-01-01"}' }, 'schedule.at', /ISO/],
  [{ schedule: '{"at":"1969-12-31T23:59:59Z"}' }, 'schedule.at', /1970/],
  [{ schedule: '{"at":1798761600}' }, 'schedule.at', /string/],
  [{ schedule: '{"at":"2027-01-01T00:00:00Z"}', start: '"2027-01-02T00:00:00Z"' }, 'schedule.at', /start/],
  [{ schedule: '{"at":"2027-01-01T00:00:00Z"}', end: TIME }, 'schedule.at', /end/],
  [{ schedule: '{"in":-0.001}' }, 'schedule.in', /at least 0/],
  [{ schedule: '{"in":1e300}' }, 'schedule.in', /at most/],
  [{ schedule: '{"cron":"* * * * *"}' }, 'schedule.cron', /not supported by this version/],
  [{ schedule: '{"after":5}' }, 'schedule.after', /not supported by this version/],
  [{ schedule: '{"solar":"sunrise","lat":1,"lon":1}' }, 'schedule.solar', /not supported by this version/],
  [{ schedule: '{"rrule":"FREQ=DAILY"}' }, 'schedule.rrule', /not supported by this version/],
  [{ start: '"tomorrow"' }, 'start', /ISO/],
  [{ start: TIME, end: TIME }, 'end', /later than start/],
  [{ start: TIME, end: '"2026-12-31T23:59:59Z"' }, 'end', /later than start/],
  [{ max_runs: '3' }, 'max_runs', /not supported by this version/],
  [{ jitter: '1' }, 'jitter', /not supported by this version/],
  [{ exclude: '["2027-12-25"]' }, 'exclude.0', /not supported by this version/],
  [{ overlap: '"skip"' }, 'overlap', /not supported by this version/],
  [{ misfire: '{"policy":"first"}' }, 'misfire.policy', /"latest", "all", "skip"/],
  [{ misfire: '{"grace":-1}' }, 'misfire.grace', /at least 0/],
  [{ misfire: 'null' }, 'misfire', /object/],
  [{ queue_cap: '-1' }, 'queue_cap', /at least 0/],
  [{ queue_cap: '1.5' }, 'queue_cap', /whole/],
  [{ options: '{"priority":10}' }, 'options.priority', /at most 9/],
  [{ options: '{"priority":-1}' }, 'options.priority', /at least 0/],
  [{ options: '{"priority":1.5}' }, 'options.priority', /whole/],
  [{ options: '{"priority":"1"}' }, 'options.priority', /number|whole/],
  [{ options: '{"expires":0}' }, 'options.expires', /at least 0.001/],
  [{ options: '{"expires":"soon"}' }, 'options.expires', /ISO/],
  [{ options: '{"time_limit":0}' }, 'options.time_limit', /at least/],
  [{ options: '{"time_limit":5,"soft_time_limit":6}' }, 'options.soft_time_limit', /time_limit/],
  [{ options: '{"ignore_result":1}' }, 'options.ignore_result', /true or false/],
  [{ options: '{"headers":[]}' }, 'options.headers', /object/],
  [{ options: '{"headers":{"task":"x"}}' }, 'options.headers.task', /Celery/],
  [{ options: '{"headers":{"ringbeat":{}}}' }, 'options.headers.ringbeat', /own/],
  [{ options: '{"worker":"ringbeat"}' }, 'options.worker', /not supported by this version/],
  [{ options: '{"countdown":1}' }, 'options.countdown', /known/],
  [{ enabled: '"true"' }, 'enabled', /true or false/],
  [{ enabled: '1' }, 'enabled', /true or false/],
  [{ enabled: `${'['.repeat(30_000)}${']'.repeat(30_000)}` }, '', /nested/],
  [{ tags: '"a"' }, 'tags', /array/],
  [{ tags: '[""]' }, 'tags.0', /empty/],
  [{ tags: '[1]' }, 'tags.0', /string/],
  [{ tags: JSON.stringify(Array.from({ length: 33 }, (_, n) => `t${n}`)) }, 'tags', /at most 32/],
  [{ colour: '"red"' }, 'colour', /known/],
  [{ __proto__x: '1' }, '__proto__x', /known/],
];

for (const [members, path, word] of BAD) {
  t.test(`refuses ${specText(members).slice(0, 90)}`, async (t) => {
    const errors = refused(specText(members));
    t.strictSame(
      errors.map((error) => error.path),
      [path],
    );
    t.match(errors[0]?.message, word);
  });
}

t.test('every field that is wrong is named at once', async (t) => {
  const text = specText({ task: null, schedule: '{"every":"1"}', colour: '1', enabled: '0' });
  t.strictSame(
    refused(text)
      .map(({ path }) => path)
      .sort(),
    ['colour', 'enabled', 'schedule.every', 'task'],
  );
});

t.test('what is no JSON object is refused', async (t) => {
  for (const text of ['', '{', 'null', '5', '[]', '"x"', `${specText({})}x`, '\uFEFF{}', `${'['.repeat(60_000)}1.0`]) {
    t.equal(parse(text).ok, false, text.slice(0, 20));
  }
});

t.test('invalid UTF-8 is refused', async (t) => {
  const good = Buffer.from(specText({ id: '"ab"' }));
  const bytes = [[0xff], [0xc3], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf8, 0x88, 0x80, 0x80, 0x80]];
  for (const broken of bytes) {
    const text = Buffer.concat([good.subarray(0, 7), Buffer.from(broken), good.subarray(7)]);
    t.match(parseSpec(schema, text), { ok: false, errors: [{ path: '', message: 'is not valid UTF-8' }] });
  }
});

t.test('64 KiB are accepted, a byte more is not', async (t) => {
  const frame = specText({ args: '[""]' }).length;
  const exactly = specText({ args: JSON.stringify(['x'.repeat(MAX_SPEC_BYTES - frame)]) });
  t.equal(Buffer.byteLength(exactly), MAX_SPEC_BYTES);
  t.ok(parse(exactly).ok);
  t.notOk(parse(`${exactly} `).ok);
});

t.test('numbers for the task stay as they were written', async (t) => {
  const spec = accepted(
    specText({ args: '[1.0,12345678901234567890,1e3,-0]', kwargs: '{"x":0.10}', options: '{"headers":{"y":2.50}}' }),
  );
  t.equal(toJson(spec.args), '[1.0,12345678901234567890,1e3,-0]');
  t.equal(toJson(spec.kwargs), '{"x":0.10}');
  t.equal(toJson(spec.options.headers), '{"y":2.50}');
});

const name = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 40 })
  .filter((text) => Buffer.byteLength(text) <= 200 && !/\p{Cc}/u.test(text));
const instant = fc
  .date({ min: new Date(0), max: new Date('9999-12-31T00:00:00Z'), noInvalidDate: true })
  .map((date) => date.toISOString());
const json = fc
  .jsonValue({ maxDepth: 4, noUnicodeString: false })
  .filter((value) => !/__proto__/.test(JSON.stringify(value)));

const specs = fc.record(
  {
    id: name,
    task: name,
    args: fc.array(json, { maxLength: 4 }),
    kwargs: fc.dictionary(fc.string({ maxLength: 8 }), json, { maxKeys: 4, noNullPrototype: true }),
    queue: name.filter((text) => !/^(rb:|_kombu\.|celery-task)/.test(text)),
    schedule: fc.oneof(
      fc.record(
        {
          every: fc.double({ min: 0.1, max: 315_576_000, noNaN: true }),
          phase: fc.constantFrom('spread', 'now', 0, 0.05),
        },
        { requiredKeys: ['every'] },
      ),
      fc.record({ at: instant }),
      fc.record({ in: fc.double({ min: 0, max: 1e9, noNaN: true }) }),
    ),
    misfire: fc.record(
      { policy: fc.constantFrom('latest', 'all', 'skip'), grace: fc.option(fc.nat()) },
      { requiredKeys: [] },
    ),
    queue_cap: fc.option(fc.nat()),
    options: fc.record(
      {
        priority: fc.option(fc.integer({ min: 0, max: 9 })),
        expires: fc.oneof(fc.constant(null), instant, fc.integer({ min: 1, max: 1e6 })),
        time_limit: fc.option(fc.integer({ min: 100, max: 1_000 })),
        soft_time_limit: fc.option(fc.integer({ min: 1, max: 100 })),
        ignore_result: fc.boolean(),
        headers: fc.dictionary(
          fc.string({ minLength: 1, maxLength: 8 }).map((key) => `x-${key}`),
          json,
          { maxKeys: 3, noNullPrototype: true },
        ),
      },
      { requiredKeys: [] },
    ),
    enabled: fc.boolean(),
    tags: fc.array(name, { maxLength: 5 }),
  },
  { requiredKeys: ['id', 'task', 'schedule'] },
);

t.test('a spec with its defaults filled in is its own spec', async () => {
  fc.assert(
    fc.property(specs, (given) => {
      const spec = accepted(JSON.stringify(given));
      const again = accepted(toJson(spec as unknown as Json));
      if (toJson(again as unknown as Json) !== toJson(spec as unknown as Json)) throw new Error('changed');
    }),
    { numRuns: 500 },
  );
});

t.test('what is accepted keeps to the JSON Schema that describes it', async () => {
  const ajv = new Ajv2020({ strict: false });
  addFormats.default(ajv);
  const options = { unrepresentable: 'any' } as const;
  const isSpec = ajv.compile(z.toJSONSchema(schema, { ...options, io: 'input' }));
  const isFilled = ajv.compile(z.toJSONSchema(schema, { ...options, io: 'output' }));
  fc.assert(
    fc.property(specs, (given) => {
      const text = JSON.stringify(given);
      if (!isSpec(JSON.parse(text))) throw new Error(ajv.errorsText(isSpec.errors));
      if (!isFilled(JSON.parse(JSON.stringify(accepted(text))))) throw new Error(ajv.errorsText(isFilled.errors));
    }),
    { numRuns: 300 },
  );
});

t.test('whatever JSON is thrown at it, it answers and never throws', async () => {
  fc.assert(
    fc.property(fc.json({ noUnicodeString: false }), specs, fc.nat(), (noise, spec, at) => {
      parse(noise);
      const keys = Object.keys(spec);
      const key = keys[at % keys.length]!;
      const result = parse(JSON.stringify({ ...spec, [key]: parseJson(noise) }));
      if (!result.ok && result.errors.length === 0) throw new Error('refused without a reason');
      if (!result.ok && result.errors.some((error) => !error.path.startsWith(key)))
        throw new Error(`blames ${JSON.stringify(result.errors)} for ${key}`);
    }),
    { numRuns: 1_000 },
  );
});
