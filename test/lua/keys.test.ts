import t from 'tap';
import { queueBinding, queueList, queueLists, shardKeys, shardOf } from '../../lua/keys.ts';
import { decodeScore } from '../../lua/score.ts';

// `CLUSTER KEYSLOT` of each.
const SLOTS: readonly (readonly [string, number])[] = [
  ['', 0],
  ['foo', 12182],
  ['hello', 866],
  ['user1000', 3443],
  ['ü', 9552],
  ['世界', 4663],
  ['\u{1f600}', 2959],
];

t.test('the shard of an id is the CRC16 that Redis Cluster uses, of its UTF-8', async (t) => {
  t.equal(shardOf('123456789', 65_536), 0x31c3, 'the check value of CRC16/XMODEM');
  for (const [id, slot] of SLOTS) t.equal(shardOf(id, 16_384), slot, id);
  const spread = new Set(Array.from({ length: 1_000 }, (_, i) => shardOf(`m${i}`, 16)));
  t.equal(spread.size, 16);
});

t.test('all keys of a shard share one hash tag', async (t) => {
  for (const key of Object.values(shardKeys('rb', 7))) t.match(key, /^rb:\{7\}:/);
});

t.test("lists and bindings of a queue are kombu's", async (t) => {
  t.same(queueLists('q'), ['q', 'q\x06\x163', 'q\x06\x166', 'q\x06\x169']);
  t.same(
    Array.from({ length: 10 }, (_, priority) => queueLists('q').indexOf(queueList('q', priority))),
    [0, 0, 0, 1, 1, 1, 2, 2, 2, 3],
  );
  t.same(queueBinding('q'), { key: '_kombu.binding.q', member: 'q\x06\x16\x06\x16q' });
});

t.test('a score holds an instant to the ms beside any lateness, until the year 2109', async (t) => {
  for (const atMs of [0, 1, 1_795_000_000_123, Date.UTC(2109, 0, 1)]) {
    t.same(decodeScore(atMs), { atMs, latenessMs: null });
    for (const code of [1, 2, 1_000, 2_046])
      t.same(decodeScore(String(atMs + code / 2_048)), { atMs, latenessMs: code - 1 });
    t.same(decodeScore(atMs + 2_047 / 2_048), { atMs, latenessMs: Infinity });
    // As dispatch prints it, with four digits.
    const printed = Array.from({ length: 2_046 }, (_, ms) => `${atMs}${((ms + 1) / 2_048).toFixed(4).slice(1)}`);
    t.same(
      printed.map((score, ms) => [score, ms]),
      printed.map((score) => [score, decodeScore(score).latenessMs]),
    );
  }
});
