import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, integerReply } from './script.ts';

const script = defineScript('sweep-shard');

/** Entries of `history`: two minutes, when something is dispatched in every second. */
const KEEP_HISTORY = 120;
const LIMIT = 200;
/** How long single runs are listed, ms. */
export const KEEP_OCCURRENCES_MS = 3_600_000;

/** One round of a shard's housekeeping; true when there is more to do at once. Throws NAMESPACE_GONE. */
export async function sweepShard(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  epoch: string,
  keepCompletedMs: number,
): Promise<boolean> {
  const reply = await script.run(
    redis,
    [names.meta, keys.due],
    [epoch, keepCompletedMs, KEEP_HISTORY, LIMIT, KEEP_OCCURRENCES_MS],
  );
  return integerReply(script, reply) === LIMIT;
}
