import t from 'tap';
import { readOccurrence, scheduleId, scheduleIndex } from '../../bench/occurrence.ts';
import { messagePieces } from '../../protocol/message.ts';

t.test('a schedule id gives its index back', async (t) => {
  for (const index of [0, 7, 99, 100, 1_234, 149_999]) t.equal(scheduleIndex(scheduleId(index)), index);
});

t.test('the occurrence is read from a message as dispatch builds it', async (t) => {
  const pieces = messagePieces({
    task: 'monitor.check',
    queue: 'celery',
    priority: 0,
    timeLimit: null,
    softTimeLimit: null,
    ignoreResult: true,
    origin: 'ringbeat@rb',
    replyTo: '',
  });
  const values = [
    '',
    'id',
    'null',
    'id',
    '(1,)',
    '{}',
    ', "x-m": "m5"',
    scheduleId(1_234),
    '1764000000123',
    'id',
    '',
    'tag',
  ];
  const message = pieces.map((piece, at) => piece + (values[at] ?? '')).join('');
  t.doesNotThrow(() => JSON.parse(message));
  t.same(readOccurrence(message), { index: 1_234, dueMs: 1_764_000_000_123 });
});

t.test('a message without the header is none', async (t) => {
  t.equal(readOccurrence('{"headers": {"id": "x"}}'), null);
});
