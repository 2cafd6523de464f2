import t from 'tap';
import { assignShards } from '../../scheduler/ring.ts';

const SHARDS = 16;

/** Nodes as they name themselves. */
const nodes = (count: number, seed = 0) =>
  Array.from({ length: count }, (_, i) => `host-${1_000 + i}-${seed + i * 77}`);

function ownersOf(assigned: ReadonlyMap<string, readonly number[]>): string[] {
  const owners: string[] = [];
  for (const [node, shards] of assigned) for (const shard of shards) owners[shard] = node;
  return owners;
}

/** Shards that went from one node to another although neither came or left. */
function movedBetweenOthers(before: readonly string[], after: readonly string[], changed: string): number {
  return before.filter((owner, shard) => owner !== after[shard] && owner !== changed && after[shard] !== changed)
    .length;
}

t.test('every shard has one owner, and no node more than its share', async (t) => {
  for (let count = 1; count <= 7; count++) {
    for (let seed = 0; seed < 20; seed++) {
      const assigned = assignShards(nodes(count, seed), SHARDS);
      t.same([...assigned.keys()].sort(), nodes(count, seed).sort());
      t.same(
        [...assigned.values()].flat().sort((a, b) => a - b),
        [...Array(SHARDS).keys()],
      );
      const most = Math.max(...[...assigned.values()].map((shards) => shards.length));
      t.ok(most <= Math.ceil(SHARDS / count), `${most} of ${SHARDS} over ${count} nodes`);
      if (count === 3) t.ok(most <= SHARDS / 2, 'no node of three owns more than half');
    }
  }
});

t.test('all nodes that see the same members agree, in whatever order they see them', async (t) => {
  const members = nodes(5);
  const one = ownersOf(assignShards(members, SHARDS));
  t.same(ownersOf(assignShards([...members].reverse(), SHARDS)), one);
  t.same(ownersOf(assignShards([...members.slice(2), ...members.slice(0, 2)], SHARDS)), one);
});

t.test('a node that leaves or comes moves little besides its own shards', async (t) => {
  for (let count = 2; count <= 6; count++) {
    let moved = 0;
    for (let seed = 0; seed < 50; seed++) {
      const members = nodes(count, seed);
      const [changed] = members;
      const before = ownersOf(assignShards(members, SHARDS));
      moved += movedBetweenOthers(before, ownersOf(assignShards(members.slice(1), SHARDS)), changed!);
    }
    t.ok(moved / 50 <= SHARDS / 4, `${count} nodes and one fewer: ${moved / 50} of ${SHARDS}`);
  }
});

t.test('more nodes than shards, one shard, and no node at all are no trouble', async (t) => {
  t.equal([...assignShards(nodes(30), SHARDS).values()].flat().length, SHARDS);
  t.same([...assignShards(nodes(3), 1).values()].flat(), [0]);
  t.same([...assignShards([], SHARDS)], []);
});
