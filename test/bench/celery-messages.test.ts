import { readFileSync } from 'node:fs';
import t from 'tap';
import { etaMessage, etaMessages } from '../../bench/celery-messages.ts';
import { readMessage } from '../../protocol/message-reader.ts';

const FIELDS = { id: 'e0e0e0e0-0000-4000-8000-000000000001', tag: 'tag-1', etaMs: 1_900_000_000_123, arg: 77 };

t.test('a message is the recorded one byte for byte, but for what it has of its own', async (t) => {
  const url = new URL('../../../test/fixtures/celery-samples/task-eta-aware.json', import.meta.url);
  const { lists } = JSON.parse(readFileSync(url, 'utf8')) as { lists: Record<string, { raw: string }[]> };
  const raw = Object.values(lists).flat()[0]!.raw;
  const { body, headers, properties } = JSON.parse(raw);
  const text = Buffer.from(body, 'base64').toString().replace('[[2, 3]', '[[77, 3]');
  const expected = raw
    .replace(body, Buffer.from(text).toString('base64'))
    .replaceAll(headers.id, FIELDS.id)
    .replace(properties.delivery_tag, FIELDS.tag)
    .replace(headers.eta, '2030-03-17T17:46:40.123000+00:00')
    .replace('"task": "tapp.add"', '"task": "bench.noop"')
    .replace('"(2, 3)"', '"(77, 3)"');
  t.equal(etaMessage(raw)(FIELDS), expected);
});

t.test('every version writes messages that say the same', async (t) => {
  for (const write of etaMessages()) {
    const message = readMessage(write(FIELDS));
    t.match(message, { id: FIELDS.id, task: 'bench.noop', args: [77, 3], kwargs: {}, etaMs: FIELDS.etaMs });
  }
});
