import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { LosslessNumber } from 'lossless-json';
import t from 'tap';
import {
  argsRepr,
  asciiJsonString,
  type Json,
  kwargsRepr,
  parseJson,
  pythonRepr,
  toJson,
  toPythonJson,
} from '../../protocol/json.ts';

/** What Python prints for each of these JSON texts. */
function python(expression: string, texts: readonly string[]): string[] {
  const program = `import json, sys
for text in json.load(sys.stdin):
    value = json.loads(text)
    print(json.dumps(${expression}))`;
  const output = execFileSync('/usr/bin/python3', ['-c', program], { input: JSON.stringify(texts), encoding: 'utf8' });
  return output
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** JSON without floats, which the two languages print differently. */
const wholeJson: fc.Arbitrary<Json> = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    fc.constantFrom(null, true, false),
    fc.maxSafeInteger().map((number) => (Object.is(number, -0) ? 0 : number)),
    fc.string({ unit: 'binary' }),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(fc.string({ unit: 'grapheme' }), tie('value'), { maxKeys: 4, noNullPrototype: true }),
  ),
})).value as fc.Arbitrary<Json>;

t.test("JSON is written to the byte as Python's json.dumps writes it", async (t) => {
  const values = fc.sample(wholeJson, 500);
  const texts = values.map((value) => JSON.stringify(value));
  t.same(values.map(toPythonJson), python('json.dumps(value)', texts));
});

t.test('every character of a string is escaped as Python escapes it', async (t) => {
  const text = `${Array.from({ length: 0x800 }, (_, unit) => String.fromCharCode(unit)).join('')}\u2028\u{1f600}\ud800`;
  t.same([toPythonJson(text)], python('json.dumps(value)', [JSON.stringify(text)]));
  t.match(asciiJsonString(text), /^[\x20-\x7e]*$/);
});

t.test("lists and dicts are shown as Python's repr shows them", async (t) => {
  const printable = fc.string({ unit: fc.constantFrom(...' \'"\\\n\r\tabcäß世😀\x00\x1f\x7f') });
  const json = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: 'small' },
      fc.constantFrom(null, true, false),
      fc.integer(),
      printable,
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(printable, tie('value'), { maxKeys: 3, noNullPrototype: true }),
    ),
  })).value as fc.Arbitrary<Json>;
  const values = fc.sample(json, 500);
  t.same(
    values.map(pythonRepr),
    python(
      'repr(value)',
      values.map((value) => JSON.stringify(value)),
    ),
  );
});

t.test('args are shown as a tuple, and both are cut where Celery cuts them', async (t) => {
  t.equal(argsRepr([]), '()');
  t.equal(argsRepr([1]), '(1,)');
  t.equal(argsRepr([1, 'a']), "(1, 'a')");
  t.equal(kwargsRepr({}), '{}');
  t.equal(kwargsRepr({ a: null }), "{'a': None}");
  t.equal(argsRepr(['x'.repeat(2_000)]).length, 1_024);
  t.match(argsRepr(['x'.repeat(2_000)]), /\.\.\.$/);
});

const NUMBERS = [
  '1.0',
  '-0',
  '-0.0',
  '1e3',
  '1E3',
  '1e-7',
  '0.1',
  '12345678901234567890',
  '-9007199254740993',
  '3.141592653589793238',
  '1.50',
  '100',
  '1e400',
  '0',
  '-1',
  '123456789012345',
  '1234567890123456',
];
t.test('numbers reach the task as they were written', async (t) => {
  for (const number of NUMBERS) {
    for (const text of [number, `[${number}]`, `{"a": [1, ${number}, "x"]}`]) {
      t.equal(toPythonJson(parseJson(text)), text, text);
      t.equal(toJson(parseJson(text)).replaceAll(/[ \n]/g, ''), text.replaceAll(' ', ''), text);
    }
    t.equal(pythonRepr(parseJson(number)), number);
  }
});

t.test('what JavaScript keeps anyway is a plain number', async (t) => {
  t.equal(parseJson('12'), 12);
  t.same(parseJson('{"a": 1.5, "b": "1.0"}'), { a: 1.5, b: '1.0' });
  t.same(parseJson('[1.0, 2]'), [new LosslessNumber('1.0'), 2]);
});

t.test('a text that is no JSON is a SyntaxError, whichever parser saw it', async (t) => {
  for (const text of ['', '{', '[1,]', '{"a": 1.0,}', "{'a': 1.0}", '[1.0', 'nul', '01.0', '1.0 2', 'NaN', '+1.0'])
    t.throws(() => parseJson(text), SyntaxError, text);
});

t.test('values beyond what JSON knows are written as Python writes them', async (t) => {
  t.equal(toPythonJson([Number.NaN, Infinity, -Infinity]), '[NaN, Infinity, -Infinity]');
});
