import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import fc from 'fast-check';
import t from 'tap';
import { z } from 'zod';
import { type Json, parseJson, toJson } from '../../protocol/json.ts';
import { SOLAR_EVENTS } from '../../schedule/solar.ts';
import {
  checkSpec,
  createSpecSchema,
  isJournal,
  MAX_SPEC_BYTES,
  parseSpec,
  type ScheduleSpec,
  withoutDerivedOptions,
} from '../../schedule/spec.ts';

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
      worker: null,
    },
    enabled: true,
    tags: [],
  });
});

const CRON = '{"cron":"0 9 * * *","tz":"Europe/Berlin"}';

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
  ['one run', { max_runs: '1' }, 'max_runs', 1],
  ['jitter rounded to ms', { jitter: '9.9994' }, 'jitter', 9.999],
  ['jitter of a cron', { schedule: CRON, jitter: '86400' }, 'jitter', 86_400],
  [
    'a cron with its defaults',
    { schedule: '{"cron":"*/5 * * * *"}' },
    'schedule',
    { cron: '*/5 * * * *', tz: 'UTC', dialect: 'unix' },
  ],
  ['a cron with seconds', { schedule: '{"cron":"*/5 * * * * *"}' }, 'schedule.cron', '*/5 * * * * *'],
  ['a cron by name', { schedule: '{"cron":"@daily"}' }, 'schedule.cron', '@daily'],
  ['a cron spread by the id', { schedule: '{"cron":"H H * * *"}' }, 'schedule.cron', 'H H * * *'],
  [
    "a cron in Celery's dialect",
    { schedule: '{"cron":"0 22-2 * * fri-mon","tz":"Europe/Berlin","dialect":"celery"}' },
    'schedule.dialect',
    'celery',
  ],
  ['a loop', { schedule: '{"after":0.0014}' }, 'schedule', { after: 0.001, retry: null }],
  [
    'a loop that waits longer after each failure',
    { schedule: '{"after":5,"retry":{"delay":2}}' },
    'schedule.retry',
    { delay: 2, max_delay: 120 },
  ],
  [
    'a loop that never waits more than an hour if not told to',
    { schedule: '{"after":5,"retry":{"delay":100}}' },
    'schedule.retry.max_delay',
    3_600,
  ],
  [
    'a loop whose first pause is longer than that',
    { schedule: '{"after":5,"retry":{"delay":7200}}' },
    'schedule.retry.max_delay',
    7_200,
  ],
  [
    'a loop with equal pauses',
    { schedule: '{"after":5,"retry":{"delay":3,"max_delay":3}}' },
    'schedule.retry',
    { delay: 3, max_delay: 3 },
  ],
  [
    'a solar event at the pole',
    { schedule: '{"solar":"sunrise","lat":-90,"lon":180}' },
    'schedule',
    { solar: 'sunrise', lat: -90, lon: 180 },
  ],
  [
    'a recurrence rule',
    { schedule: '{"rrule":"FREQ=DAILY;BYHOUR=9"}' },
    'schedule',
    { rrule: 'FREQ=DAILY;BYHOUR=9', tz: 'UTC' },
  ],
  [
    'a recurrence rule in the zone that its DTSTART names',
    { schedule: '{"rrule":"DTSTART;TZID=Europe/Berlin:20270101T090000\\nRRULE:FREQ=DAILY"}' },
    'schedule.tz',
    'Europe/Berlin',
  ],
  [
    'a recurrence rule that counts from start',
    { schedule: '{"rrule":"FREQ=DAILY;COUNT=3"}', start: '"2027-01-01T00:00Z"' },
    'start',
    '2027-01-01T00:00:00.000Z',
  ],
  [
    'days, ranges and crons to leave out',
    {
      exclude:
        '["2027-12-25",{"from":"2027-12-27","to":"2027-12-27"},{"from":"2027-12-31T12:00Z","to":"2028-01-01T00:00+01:00"},{"cron":"* 0-5 * * *"}]',
    },
    'exclude',
    [
      '2027-12-25',
      { from: '2027-12-27', to: '2027-12-27' },
      { from: '2027-12-31T12:00:00.000Z', to: '2027-12-31T23:00:00.000Z' },
      { cron: '* 0-5 * * *' },
    ],
  ],
  ['days that a one-shot leaves out', { schedule: '{"in":5}', exclude: '["2027-12-25"]' }, 'exclude', ['2027-12-25']],
  ['overlap skip', { overlap: '"skip"' }, 'overlap', 'skip'],
  ['overlap buffer_one', { schedule: CRON, overlap: '"buffer_one"' }, 'overlap', 'buffer_one'],
  ['bundled workers only', { options: '{"worker":"ringbeat"}' }, 'options.worker', 'ringbeat'],
  [
    'a loop of bundled workers without results',
    { schedule: '{"after":5}', options: '{"worker":"ringbeat","ignore_result":true}' },
    'options.ignore_result',
    true,
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
  [{ schedule: '10' }, 'schedule', /every, cron, at, in, after, solar, rrule/],
  [{ schedule: '{}' }, 'schedule', /every, cron, at, in, after, solar, rrule/],
  [{ schedule: '{"trigger":10}' }, 'schedule', /every, cron/],
  [{ schedule: '{"every":10,"in":5}' }, 'schedule', /every, cron, at, in, after, solar, rrule/],
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
  [{ schedule: '{"cron":5}' }, 'schedule.cron', /string/],
  [{ schedule: '{"cron":""}' }, 'schedule.cron', /field/],
  [{ schedule: '{"cron":"* * * *"}' }, 'schedule.cron', /field/],
  [{ schedule: '{"cron":"60 * * * *"}' }, 'schedule.cron', /minute/],
  [{ schedule: '{"cron":"0 0 31 2 *"}' }, 'schedule.cron', /never/],
  [{ schedule: '{"cron":"0 0 30 2 1","dialect":"celery"}' }, 'schedule.cron', /never/],
  [{ schedule: `{"cron":"${'0,'.repeat(600)}0 * * * *"}` }, 'schedule.cron', /1000 characters/],
  [{ schedule: '{"cron":"* * * * *","tz":"Europe/Nowhere"}' }, 'schedule.tz', /zone/],
  [{ schedule: '{"cron":"* * * * *","tz":""}' }, 'schedule.tz', /zone/],
  [{ schedule: '{"cron":"* * * * *","tz":null}' }, 'schedule.tz', /string/],
  [{ schedule: '{"cron":"* * * * *","dialect":"quartz"}' }, 'schedule.dialect', /"unix", "celery"/],
  [{ schedule: '{"cron":"* * * * *","every":5}' }, 'schedule', /one of/],
  [{ schedule: '{"cron":"* * * * *","phase":"now"}' }, 'schedule.phase', /known/],
  [{ schedule: '{"after":0}' }, 'schedule.after', /at least 0.001/],
  [{ schedule: '{"after":"5"}' }, 'schedule.after', /number/],
  [{ schedule: '{"after":5,"retry":{}}' }, 'schedule.retry.delay', /required/],
  [{ schedule: '{"after":5,"retry":{"delay":0}}' }, 'schedule.retry.delay', /at least 0.001/],
  [{ schedule: '{"after":5,"retry":{"delay":5,"max_delay":4}}' }, 'schedule.retry.max_delay', /below delay/],
  [{ schedule: '{"after":5,"retry":{"delay":5,"limit":4}}' }, 'schedule.retry.limit', /known/],
  [{ schedule: '{"solar":"moonrise","lat":1,"lon":1}' }, 'schedule.solar', /"sunrise"/],
  [{ schedule: '{"solar":"sunrise","lat":90.1,"lon":1}' }, 'schedule.lat', /at most 90/],
  [{ schedule: '{"solar":"sunrise","lat":1,"lon":-180.1}' }, 'schedule.lon', /at least -180/],
  [{ schedule: '{"solar":"sunrise","lat":1}' }, 'schedule.lon', /required/],
  [{ schedule: '{"rrule":"FREQ=FORTNIGHTLY"}' }, 'schedule.rrule', /FREQ/],
  [{ schedule: '{"rrule":"FREQ=DAILY;COUNT=3"}' }, 'schedule.rrule', /DTSTART/],
  [{ schedule: '{"rrule":"FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}' }, 'schedule.rrule', /never/],
  [{ schedule: '{"rrule":"FREQ=DAILY","tz":"Nowhere"}' }, 'schedule.tz', /zone/],
  [
    { schedule: '{"rrule":"DTSTART;TZID=Europe/Berlin:20270101T090000\\nFREQ=DAILY","tz":"UTC"}' },
    'schedule.tz',
    /Berlin/,
  ],
  [{ start: '"tomorrow"' }, 'start', /ISO/],
  [{ start: TIME, end: TIME }, 'end', /later than start/],
  [{ start: TIME, end: '"2026-12-31T23:59:59Z"' }, 'end', /later than start/],
  [{ max_runs: '0' }, 'max_runs', /at least 1/],
  [{ max_runs: '1.5' }, 'max_runs', /whole/],
  [{ jitter: '-1' }, 'jitter', /at least 0/],
  [{ jitter: '10' }, 'jitter', /less than every/],
  [{ jitter: '9.9999' }, 'jitter', /less than every/],
  [{ schedule: '{"in":5}', jitter: '1' }, 'jitter', /must be 0/],
  [{ schedule: '{"at":"2027-01-01T00:00:00Z"}', jitter: '1' }, 'jitter', /must be 0/],
  [{ schedule: '{"after":5}', jitter: '1' }, 'jitter', /must be 0/],
  [{ exclude: '"2027-12-25"' }, 'exclude', /array/],
  [{ exclude: '["2027-02-29"]' }, 'exclude.0', /date/],
  [{ exclude: '["2027-12-25T00:00Z"]' }, 'exclude.0', /date/],
  [{ exclude: '["2027-12-25",5]' }, 'exclude.1', /date/],
  [{ exclude: '[{}]' }, 'exclude.0', /from and to/],
  [{ exclude: '[{"from":"2027-12-25"}]' }, 'exclude.0.to', /required/],
  [{ exclude: '[{"from":"2027-12-25","to":"2027-12-24"}]' }, 'exclude.0.to', /earlier/],
  [{ exclude: '[{"from":"2027-12-25T00:00Z","to":"2027-12-25T01:00+01:00"}]' }, 'exclude.0.to', /later/],
  [{ exclude: '[{"from":"2027-12-25","to":"2027-12-26T00:00Z"}]' }, 'exclude.0.to', /date/],
  [{ exclude: '[{"from":"2027-12-25","to":"soon"}]' }, 'exclude.0.to', /ISO/],
  [{ exclude: '[{"cron":"* * * *"}]' }, 'exclude.0.cron', /field/],
  [{ exclude: '[{"cron":"H * * * *"}]' }, 'exclude.0.cron', /H/],
  [{ exclude: '[{"cron":"* * * * *","tz":"UTC"}]' }, 'exclude.0.tz', /known/],
  [{ exclude: JSON.stringify(Array.from({ length: 101 }, () => '2027-12-25')) }, 'exclude', /at most 100/],
  [{ overlap: '"cancel"' }, 'overlap', /"allow", "skip", "buffer_one"/],
  [{ schedule: '{"in":5}', overlap: '"skip"' }, 'overlap', /"allow"/],
  [{ schedule: '{"after":5}', overlap: '"skip"' }, 'overlap', /"allow"/],
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
  [{ options: '{"worker":"celery"}' }, 'options.worker', /"ringbeat"/],
  [{ overlap: '"skip"', options: '{"ignore_result":true}' }, 'options.ignore_result', /options.worker/],
  [{ schedule: '{"after":5}', options: '{"ignore_result":true}' }, 'options.ignore_result', /options.worker/],
  [{ schedule: '{"after":5}', options: '{"soft_time_limit":301}' }, 'options.soft_time_limit', /300/],
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

/** What the spec of a schedule with these members has in its options, of those that depend on it. */
function limits(members: Record<string, string>) {
  const { ignore_result, expires, time_limit } = accepted(specText(members)).options;
  return { ignore_result, expires, time_limit };
}

t.test('a run whose end has to be seen has a result and limits, unless it says otherwise', async (t) => {
  const free = { ignore_result: true, expires: null, time_limit: null };
  const watched = { ignore_result: false, expires: 3_600, time_limit: 300 };
  t.strictSame(limits({}), free);
  t.strictSame(limits({ schedule: '{"after":5}' }), watched);
  t.strictSame(limits({ overlap: '"skip"' }), watched);
  t.strictSame(limits({ overlap: '"buffer_one"', options: '{"expires":null}' }), watched);
  t.strictSame(limits({ overlap: '"skip"', options: '{"expires":60,"time_limit":10}' }), {
    ignore_result: false,
    expires: 60,
    time_limit: 10,
  });
  t.strictSame(limits({ overlap: '"skip"', options: '{"worker":"ringbeat"}' }), { ...free, ignore_result: false });
  t.strictSame(limits({ options: '{"worker":"ringbeat"}' }), free);
});

t.test('loops and overlaps that are not allowed make journal schedules', async (t) => {
  t.notOk(isJournal(accepted(specText({}))));
  t.notOk(isJournal(accepted(specText({ options: '{"ignore_result":false}' }))));
  t.ok(isJournal(accepted(specText({ overlap: '"skip"' }))));
  t.ok(isJournal(accepted(specText({ schedule: '{"after":5}' }))));
});

t.test('a patched overlap brings the options that belong to it', async (t) => {
  const patched = (members: Record<string, string>, overlap: string) => {
    const given = withoutDerivedOptions(accepted(specText(members)));
    const result = checkSpec(schema, { ...(given as { readonly [key: string]: Json }), overlap });
    if (!result.ok) throw new Error(JSON.stringify(result.errors));
    const { ignore_result, expires, time_limit } = result.spec.options;
    return { ignore_result, expires, time_limit };
  };
  t.strictSame(patched({}, 'skip'), { ignore_result: false, expires: 3_600, time_limit: 300 });
  t.strictSame(patched({ overlap: '"skip"' }, 'allow'), { ignore_result: true, expires: null, time_limit: null });
  t.strictSame(patched({ options: '{"ignore_result":false,"expires":5,"time_limit":6}' }, 'skip'), {
    ignore_result: false,
    expires: 5,
    time_limit: 6,
  });
});

t.test('fields that do not go together are all named', async (t) => {
  t.strictSame(refused(specText({ schedule: '{"cron":"* * * *"}', start: TIME, end: TIME })), [
    ...refused(specText({ start: TIME, end: TIME })),
    ...refused(specText({ schedule: '{"cron":"* * * *"}' })),
  ]);
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
      fc.record(
        {
          cron: fc.constantFrom('0 9 * * *', '*/5 * * * *', 'H H * * 1-5', '@hourly'),
          tz: fc.constantFrom('UTC', 'Europe/Berlin', 'Australia/Lord_Howe'),
          dialect: fc.constant('unix'),
        },
        { requiredKeys: ['cron'] },
      ),
      fc.record({ cron: fc.constantFrom('0 22-2 * * fri-mon', '0 0 1 * *'), dialect: fc.constant('celery') }),
      fc.record(
        {
          after: fc.double({ min: 0.001, max: 1e9, noNaN: true }),
          retry: fc.option(
            fc.record(
              {
                delay: fc.double({ min: 0.001, max: 100, noNaN: true }),
                max_delay: fc.integer({ min: 100, max: 1e6 }),
              },
              { requiredKeys: ['delay'] },
            ),
          ),
        },
        { requiredKeys: ['after'] },
      ),
      fc.record({
        solar: fc.constantFrom(...SOLAR_EVENTS),
        lat: fc.double({ min: -90, max: 90, noNaN: true }),
        lon: fc.double({ min: -180, max: 180, noNaN: true }),
      }),
      fc.record(
        {
          rrule: fc.constantFrom(
            'FREQ=DAILY',
            'RRULE:FREQ=MONTHLY;BYDAY=-1FR',
            'DTSTART:20270101T090000Z\nFREQ=DAILY;COUNT=3',
          ),
          tz: fc.constantFrom('UTC', 'Asia/Kolkata'),
        },
        { requiredKeys: ['rrule'] },
      ),
    ),
    max_runs: fc.option(fc.integer({ min: 1 })),
    exclude: fc.array(
      fc.oneof(
        fc.constantFrom('2027-12-25', '2028-02-29'),
        fc.constant({ from: '2027-12-25', to: '2028-01-06' }),
        fc.constant({ from: '2027-12-25T12:00:00+01:00', to: '2028-01-06T12:00:00Z' }),
        fc.constant({ cron: '* 0-5 * * *' }),
      ),
      { maxLength: 3 },
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
        worker: fc.constant(null),
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
    { seed: 20_261_121, numRuns: 500 },
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
    { seed: 20_261_121, numRuns: 300 },
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
    { seed: 20_261_121, numRuns: 1_000 },
  );
});
