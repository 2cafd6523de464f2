import fc from 'fast-check';
import t from 'tap';
import { type Json, parseJson } from '../../protocol/json.ts';
import { decodeBody, encodeBody, escapedReprs, headersPiece, messagePieces, uuidOf } from '../../protocol/message.ts';

const OPTIONS = {
  task: 'monitor.check',
  queue: 'celery',
  priority: 3,
  timeLimit: 30,
  softTimeLimit: null,
  ignoreResult: true,
  origin: 'ringbeat@rb',
  replyTo: uuidOf('rb'),
};

/** The pieces with these values between them, in their order. */
function joined(pieces: readonly string[], values: readonly string[]): string {
  return pieces.map((piece, i) => piece + (values[i] ?? '')).join('');
}

t.test('the pieces and what goes between them make one message', async (t) => {
  const pieces = messagePieces({ ...OPTIONS, task: 'a "task" é', queue: 'q"\\' });
  t.equal(pieces.length, 13);
  const [argsRepr, kwargsRepr] = escapedReprs(['ü'], { k: "'" });
  const headers = headersPiece({ 'x-tenant': 'acme é' });
  const values = [
    encodeBody(['ü'], { k: "'" }),
    'ID',
    '"EXPIRES"',
    'ID',
    argsRepr,
    kwargsRepr,
    headers,
    's\\u00e9',
    '12',
  ];
  const message = JSON.parse(joined(pieces, [...values, 'ID', '"expiration": "5", ', 'TAG']));
  t.same(message.headers, {
    lang: 'py',
    task: 'a "task" é',
    id: 'ID',
    shadow: null,
    eta: null,
    expires: 'EXPIRES',
    group: null,
    group_index: null,
    retries: 0,
    timelimit: [30, null],
    root_id: 'ID',
    parent_id: null,
    argsrepr: "('ü',)",
    kwargsrepr: "{'k': \"'\"}",
    origin: 'ringbeat@rb',
    ignore_result: true,
    'x-tenant': 'acme é',
    ringbeat: { schedule: 'sé', due: 12, run: 0, attempt: 1 },
  });
  t.same(message.properties, {
    correlation_id: 'ID',
    reply_to: OPTIONS.replyTo,
    delivery_mode: 2,
    expiration: '5',
    delivery_info: { exchange: '', routing_key: 'q"\\' },
    priority: 3,
    body_encoding: 'base64',
    delivery_tag: 'TAG',
  });
});

t.test('any args and kwargs come back from the body, whose base64 joins to the rest', async (t) => {
  const [, tail] = /^([^"]*)"/.exec(messagePieces(OPTIONS)[1]!)!;
  fc.assert(
    fc.property(
      fc.array(fc.jsonValue(), { maxLength: 3 }),
      fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 3 }),
      (args, kwargs) => {
        const body = encodeBody(args as Json[], kwargs as Record<string, Json>);
        const text = Buffer.from(body + tail, 'base64').toString();
        const [decodedArgs, decodedKwargs, embed] = JSON.parse(text);
        const wanted = JSON.parse(JSON.stringify([args, kwargs]));
        const isSame = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
        return (
          isSame([decodedArgs, decodedKwargs], wanted) &&
          isSame(JSON.parse(decodeBody(body)), wanted) &&
          isSame(Object.keys(embed), ['callbacks', 'errbacks', 'chain', 'chord'])
        );
      },
    ),
    { seed: 20_261_121 },
  );
  t.pass('for all of them');
});

t.test('numbers in the body are those that were written', async (t) => {
  const args = parseJson('[1.0, 12345678901234567890]') as Json[];
  t.match(decodeBody(encodeBody(args, {})), '[[1.0, 12345678901234567890], {}]');
});

t.test('headers follow those of Celery; none leave no trace', async (t) => {
  t.equal(headersPiece({}), '');
  t.equal(headersPiece({ a: 1, b: { c: [] } }), ', "a": 1, "b": {"c": []}');
});

t.test('a name always gives the same UUID', async (t) => {
  t.match(uuidOf('a'), /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/);
  t.equal(uuidOf('a'), uuidOf('a'));
  t.not(uuidOf('a'), uuidOf('b'));
});
