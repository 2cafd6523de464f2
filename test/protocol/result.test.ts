import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  exceptionOf,
  failureRecord,
  notRegistered,
  type ResultOwner,
  revokedRecord,
  successRecord,
  tracebackOf,
} from '../../protocol/result.ts';

const SAMPLES = new URL('../../../test/fixtures/celery-samples/', import.meta.url);
const DONE_MS = Date.parse('2026-11-21T03:50:03.291Z');
const OWNER: ResultOwner = { id: 'id-1', groupId: null, parentId: null };

/** A recorded result's text, with its date as we write dates and its traceback shortened. */
function recorded(name: string): {
  readonly text: string;
  readonly record: { readonly task_id: string; readonly [field: string]: unknown };
} {
  const sample = JSON.parse(readFileSync(new URL(`${name}.json`, SAMPLES), 'utf8'));
  const text: string = findRaw(sample);
  return { text, record: JSON.parse(text) };
}

function findRaw(value: unknown): string {
  const found = JSON.stringify(value).match(/"(\{\\"status\\":(?:[^"\\]|\\.)*)"/);
  return JSON.parse(`"${found![1]}"`);
}

/** What differs by nature between two runs is made alike. */
function alike(text: string): string {
  return text
    .replace(/"date_done": "[^"]*"/, '"date_done": "…"')
    .replace(/"traceback": "(?:[^"\\]|\\.)*"/, '"traceback": "…"');
}

t.test('a success is written byte for byte as Celery writes it, its date aside', (t) => {
  const { text, record } = recorded('result-success');
  t.equal(alike(successRecord({ ...OWNER, id: record.task_id }, 5, DONE_MS)), alike(text));
  t.end();
});

t.test('a failure is', (t) => {
  const { text, record } = recorded('result-failure');
  const exception = { type: 'ValueError', module: 'builtins', args: ['bang'] };
  t.equal(alike(failureRecord({ ...OWNER, id: record.task_id }, exception, 'trace', DONE_MS)), alike(text));
  t.end();
});

t.test('an expired task is', (t) => {
  const { text, record } = recorded('result-expired');
  t.equal(alike(revokedRecord({ ...OWNER, id: record.task_id }, 'expired', DONE_MS)), alike(text));
  t.end();
});

t.test('an unknown task is', (t) => {
  const { text, record } = recorded('result-unregistered');
  const [name] = (record.result as { exc_message: string[] }).exc_message;
  t.equal(alike(failureRecord({ ...OWNER, id: record.task_id }, notRegistered(name!), null, DONE_MS)), alike(text));
  t.end();
});

t.test('group and parent are named where there are any', (t) => {
  const text = successRecord({ id: 'x', groupId: 'g', parentId: 'p' }, null, DONE_MS);
  t.equal(
    text,
    '{"status": "SUCCESS", "result": null, "traceback": null, "children": [], "date_done": "2026-11-21T03:50:03.291000+00:00", "group_id": "g", "parent_id": "p", "task_id": "x"}',
  );
  t.end();
});

const VALUES: readonly (readonly [unknown, string])[] = [
  [undefined, 'null'],
  [null, 'null'],
  [true, 'true'],
  [1.5, '1.5'],
  ['ü"', '"\\u00fc\\""'],
  [12345678901234567890n, '12345678901234567890'],
  [new Date(0), '"1970-01-01T00:00:00.000Z"'],
  [[undefined, () => 1], '[null, null]'],
  [{ a: 1, b: undefined, c: [{ d: null }] }, '{"a": 1, "c": [{"d": null}]}'],
  [Object('boxed'), '"boxed"'],
  [new Map([[1, 2]]), '{}'],
];
t.test('return values are written as JSON.stringify would, in Python spacing', (t) => {
  for (const [value, json] of VALUES) t.match(successRecord(OWNER, value, DONE_MS), `"result": ${json}, "traceback"`);
  t.end();
});

t.test('what JSON cannot hold is refused', (t) => {
  const loop: unknown[] = [];
  loop.push(loop);
  for (const value of [() => 1, Symbol('x'), loop])
    t.throws(() => successRecord(OWNER, value, DONE_MS), { name: 'EncodeError' });
  t.end();
});

const THROWN: readonly (readonly [unknown, { type: string; module: string; args: unknown[] }])[] = [
  [new TypeError('t'), { type: 'TypeError', module: 'builtins', args: ['t'] }],
  [Object.assign(new Error('v'), { name: 'ValueError' }), { type: 'ValueError', module: 'builtins', args: ['v'] }],
  [new RangeError('r'), { type: 'RangeError', module: 'ringbeat', args: ['r'] }],
  [Object.assign(new Error('n'), { name: '' }), { type: 'Error', module: 'ringbeat', args: ['n'] }],
  [Object.assign(new Error('s'), { name: 'SystemExit' }), { type: 'SystemExit', module: 'ringbeat', args: ['s'] }],
  ['text', { type: 'Error', module: 'ringbeat', args: ['text'] }],
  [undefined, { type: 'Error', module: 'ringbeat', args: ['undefined'] }],
  [{ code: 5 }, { type: 'Error', module: 'ringbeat', args: ['{"code":5}'] }],
];
t.test('whatever is thrown becomes an exception that Python can make', (t) => {
  for (const [thrown, exception] of THROWN) t.same(exceptionOf(thrown), exception);
  t.end();
});

t.test('a traceback shows the causes too', (t) => {
  const error = new Error('outer', { cause: new Error('inner') });
  t.match(tracebackOf(error), /^Error: outer\n[\s\S]*\nCaused by: Error: inner\n/);
  t.equal(tracebackOf('text'), null);
  t.end();
});
