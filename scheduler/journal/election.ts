import type { Announcement } from '../../lua/announce.ts';
import type { JournalSummary } from './read-journal.ts';

/** What a node announces of its journal while the namespace is not in Redis. */
export interface Claim {
  readonly epoch: string;
  readonly restores: number;
  /** Sum over the shards of the sequence up to which nothing is missing. */
  readonly sequence: number;
  /** Until this Redis time nothing due was left undispatched, ms. */
  readonly aliveMs: number;
  readonly isDeleted: boolean;
}

export function claimOf(summary: JournalSummary): Claim {
  const { epoch, restores, wholeUntil, aliveMs, isDeleted } = summary;
  return { epoch, restores, sequence: wholeUntil, aliveMs, isDeleted };
}

export function encodeClaim(claim: Claim): string {
  return JSON.stringify(claim);
}

interface NodeClaim extends Claim {
  readonly node: string;
  readonly sinceMs: number;
}

export type Verdict =
  /** This journal's namespace was deleted, or is older than one that was. */
  | { readonly is: 'deleted' }
  /** Another node is to restore, or this one has not waited long enough. */
  | { readonly is: 'waiting' }
  /** This node restores; nothing that was due until `aliveMs` was left undispatched. */
  | { readonly is: 'chosen'; readonly aliveMs: number };

/** How long a node waits after its own announcement for others that know more, ms. */
const PATIENCE_MS = 1_000;

/**
 * Who restores: the node whose journal is of the latest namespace, knows of most restorations of it, and has most of its
 * changes; of equals the one with the greatest id. A deletion of that namespace, or of a later one, wins over all.
 */
export function judge(
  node: string,
  mine: Claim,
  known: { readonly nowMs: number; readonly tombstone: string | null; readonly announcements: readonly Announcement[] },
): Verdict {
  const claims = known.announcements.map(decodeClaim);
  const deleted = [
    ...(known.tombstone === null ? [] : [known.tombstone]),
    ...[mine, ...claims].flatMap(({ epoch, isDeleted }) => (isDeleted ? [epoch] : [])),
  ];
  // Epochs of later namespaces are greater (registry/namespace.ts).
  if (deleted.some((epoch) => epoch >= mine.epoch)) return { is: 'deleted' };
  const own = claims.find((claim) => claim.node === node);
  if (own === undefined || known.nowMs - own.sinceMs < PATIENCE_MS) return { is: 'waiting' };
  if (claims.some((claim) => claim !== own && isGreater(claim, own))) return { is: 'waiting' };
  const peers = claims.filter(({ epoch, restores }) => epoch === own.epoch && restores === own.restores);
  return { is: 'chosen', aliveMs: Math.max(mine.aliveMs, ...peers.map(({ aliveMs }) => aliveMs)) };
}

/** Whether anybody may yet restore the namespace, so that nobody may create it. */
export function isAwaited(announcements: readonly Announcement[], tombstone: string | null): boolean {
  const claims = announcements.map(decodeClaim);
  const deleted = [tombstone ?? '', ...claims.map(({ epoch, isDeleted }) => (isDeleted ? epoch : ''))];
  return claims.some(({ epoch }) => deleted.every((gone) => epoch > gone));
}

function isGreater(one: NodeClaim, other: NodeClaim): boolean {
  if (one.epoch !== other.epoch) return one.epoch > other.epoch;
  if (one.restores !== other.restores) return one.restores > other.restores;
  if (one.sequence !== other.sequence) return one.sequence > other.sequence;
  return one.node > other.node;
}

function decodeClaim({ node, sinceMs, text }: Announcement): NodeClaim {
  return { node, sinceMs, ...(JSON.parse(text) as Claim) };
}
