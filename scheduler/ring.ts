import HashRing from 'hashring';

/** Virtual nodes of each beat node: enough that no node of three owns more than half of 16 shards. */
const VIRTUAL_NODES = 400;

/**
 * Which node serves which shard, by consistent hashing: all nodes that see the same members agree, and a node that
 * comes or goes moves only its own shards. Each shard goes to the first node on the ring that still has room
 * (consistent hashing with bounded loads, https://arxiv.org/abs/1608.01350), so that no node owns more than its share.
 */
export function assignShards(nodes: readonly string[], shards: number): ReadonlyMap<string, readonly number[]> {
  const owned = new Map<string, number[]>(nodes.map((node) => [node, []]));
  if (nodes.length === 0) return owned;
  const ring = new HashRing([...nodes].sort(), 'md5', { 'vnode count': VIRTUAL_NODES, 'max cache size': 0 });
  const room = Math.ceil(shards / nodes.length);
  for (let shard = 0; shard < shards; shard++) {
    const candidates = ring.range(`shard-${shard}`, nodes.length);
    const owner = candidates.find((node) => owned.get(node)!.length < room) ?? nodes[0]!;
    owned.get(owner)!.push(shard);
  }
  return owned;
}
