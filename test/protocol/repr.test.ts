import { LosslessNumber } from 'lossless-json';
import t from 'tap';
import type { Json } from '../../protocol/json.ts';
import { exceptionRepr, shortRepr } from '../../protocol/repr.ts';

const VALUES: readonly (readonly [unknown, string])[] = [
  [undefined, 'None'],
  [null, 'None'],
  [true, 'True'],
  [1.5, '1.5'],
  [12345678901234567890n, '12345678901234567890'],
  [new LosslessNumber('1.0'), '1.0'],
  ["it's", '"it\'s"'],
  ['a\nü', "'a\\nü'"],
  [[], '[]'],
  [[1, 'a', [false]], "[1, 'a', [False]]"],
  [{}, '{}'],
  [{ a: 1, b: { c: null } }, "{'a': 1, 'b': {'c': None}}"],
  [new Date(0), "'1970-01-01T00:00:00.000000+00:00'"],
  [Buffer.from('ab'), "b'ab'"],
  [[[[[1]]]], '[[[[...]]]]'],
  [[[[{ a: 1 }]]], '[[[{...}]]]'],
];
for (const [value, repr] of VALUES) {
  t.test(`${repr} is shown as Python shows it`, async (t) => t.equal(shortRepr(value), repr));
}

t.test('what is long is cut', async (t) => {
  for (const value of ['x'.repeat(5_000), Array.from({ length: 5_000 }, () => 'x'), { x: 'y'.repeat(5_000) }]) {
    const repr = shortRepr(value);
    t.equal(repr.length, 1_024);
    t.match(repr, /\.\.\.$/);
    t.equal(shortRepr(value, 10).length, 10);
  }
  t.equal(shortRepr('x'.repeat(1_022)).length, 1_024, 'what just fits is whole');
});

t.test('a value that holds itself is shown as far as it goes', async (t) => {
  const list: unknown[] = [1];
  list.push(list);
  t.equal(shortRepr(list), '[1, [1, [1, [...]]]]');
});

t.test('no more is looked at than is shown', async (t) => {
  let looked = 0;
  const endless = new Proxy<number[]>([], {
    get(target, key) {
      if (key === 'length') return 4_000_000_000;
      looked += 1;
      return typeof key === 'string' && /^\d+$/.test(key) ? 7 : Reflect.get(target, key);
    },
  });
  t.equal(shortRepr(endless).length, 1_024);
  t.ok(looked < 2_000, `${looked} members`);
});

t.test('an exception is shown as Python shows it', (t) => {
  const shown = (type: string, ...args: readonly Json[]) => exceptionRepr({ type, module: 'builtins', args });
  t.equal(shown('ValueError', 'bang'), "ValueError('bang')");
  t.equal(shown('KeyError'), 'KeyError()');
  t.equal(shown('Reject', 'no', false), "Reject('no', False)");
  t.end();
});
