import t from 'tap';
import { type Claim, encodeClaim, isAwaited, judge } from '../../scheduler/journal/election.ts';

const NOW = 100_000;

function claim(parts: Partial<Claim> = {}): Claim {
  return { epoch: 'b', restores: 0, sequence: 10, aliveMs: 5, isDeleted: false, ...parts };
}

function known(claims: Readonly<Record<string, Claim>>, more: { tombstone?: string; sinceMs?: number } = {}) {
  return {
    nowMs: NOW,
    tombstone: more.tombstone ?? null,
    announcements: Object.entries(claims).map(([node, of]) => ({
      node,
      sinceMs: more.sinceMs ?? NOW - 5_000,
      text: encodeClaim(of),
    })),
  };
}

t.test('of several journals the one that knows most is restored', async (t) => {
  const cases: readonly [string, Claim, Claim, 'chosen' | 'waiting' | 'deleted'][] = [
    ['more changes', claim({ sequence: 11 }), claim(), 'chosen'],
    ['fewer changes', claim({ sequence: 9 }), claim(), 'waiting'],
    ['as many: the greater id', claim(), claim(), 'chosen'],
    ['a later namespace', claim({ epoch: 'c', sequence: 1 }), claim(), 'chosen'],
    ['an earlier namespace', claim({ epoch: 'a', sequence: 99 }), claim(), 'waiting'],
    ['restored once more', claim({ restores: 1, sequence: 1 }), claim(), 'chosen'],
    ['restored less often', claim({ sequence: 99 }), claim({ restores: 1 }), 'waiting'],
    ['a deletion of the same', claim({ sequence: 99 }), claim({ isDeleted: true }), 'deleted'],
    ['a deletion of a later one', claim({ epoch: 'a' }), claim({ isDeleted: true }), 'deleted'],
    ['a deletion of an earlier one', claim({ epoch: 'c' }), claim({ isDeleted: true }), 'chosen'],
    ['deleted itself', claim({ isDeleted: true }), claim({ epoch: 'a' }), 'deleted'],
  ];
  for (const [why, mine, theirs, verdict] of cases)
    t.equal(judge('node-2', mine, known({ 'node-1': theirs, 'node-2': mine })).is, verdict, why);
  t.equal(judge('node-1', claim(), known({ 'node-1': claim(), 'node-2': claim() })).is, 'waiting', 'the smaller id');
});

t.test('a tombstone in Redis wins over journals of that namespace and earlier ones', async (t) => {
  for (const [tombstone, verdict] of [
    ['a', 'chosen'],
    ['b', 'deleted'],
    ['c', 'deleted'],
  ] as const)
    t.equal(judge('n', claim(), known({ n: claim() }, { tombstone })).is, verdict);
});

t.test('a node waits a second for others', async (t) => {
  t.equal(judge('n', claim(), known({ n: claim() }, { sinceMs: NOW - 999 })).is, 'waiting');
  t.equal(judge('n', claim(), known({ n: claim() }, { sinceMs: NOW - 1_000 })).is, 'chosen');
  t.equal(judge('n', claim(), known({})).is, 'waiting', 'also while its own announcement is not there');
});

t.test('who restores goes by the last sign of life that any journal of that namespace has', async (t) => {
  const claims = {
    a: claim({ sequence: 9, aliveMs: 70 }),
    b: claim({ aliveMs: 60 }),
    older: claim({ epoch: 'a', aliveMs: 900 }),
  };
  t.same(judge('b', claim({ aliveMs: 60 }), known(claims)), { is: 'chosen', aliveMs: 70 });
});

t.test('a namespace is awaited while a journal of it is announced that was not deleted', async (t) => {
  const announced = (claims: Readonly<Record<string, Claim>>) => known(claims).announcements;
  t.equal(isAwaited([], null), false);
  t.equal(isAwaited(announced({ n: claim() }), null), true);
  t.equal(isAwaited(announced({ n: claim({ isDeleted: true }) }), null), false);
  t.equal(isAwaited(announced({ n: claim(), m: claim({ isDeleted: true }) }), null), false);
  t.equal(isAwaited(announced({ n: claim() }), 'b'), false);
  t.equal(isAwaited(announced({ n: claim() }), 'a'), true);
});
