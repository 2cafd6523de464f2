import type { Redis } from 'ioredis';
import { revokedRecord } from '../protocol/result.ts';
import { namespaceKeys, resultKey, shardKeys, shardOf } from './keys.ts';
import { parkedId } from './parked.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('revoke-parked');

/** Tasks that one call takes. */
const BATCH = 100;

export interface RevokeParkedRequest {
  /** How many shards the namespace has. */
  readonly shards: number;
  readonly taskIds: readonly string[];
  /** s that a record is kept; 0: for ever. */
  readonly resultExpiresSec: number;
  /** What the records say. */
  readonly nowMs: number;
}

/**
 * Takes the parked messages of these tasks out for good, storing and publishing a REVOKED record for each task that had
 * any. Answers the ids of those. Throws NAMESPACE_GONE when the namespace is not there or has another number of shards.
 */
export async function revokeParked(redis: Redis, namespace: string, request: RevokeParkedRequest): Promise<string[]> {
  const { shards, resultExpiresSec, nowMs } = request;
  const byShard = new Map<number, string[]>();
  for (const taskId of new Set(request.taskIds)) {
    const shard = shardOf(parkedId(taskId), shards);
    const ids = byShard.get(shard) ?? [];
    byShard.set(shard, ids);
    ids.push(taskId);
  }
  const revoked: string[] = [];
  for (const [shard, ids] of byShard) {
    for (let from = 0; from < ids.length; from += BATCH) {
      const batch = ids.slice(from, from + BATCH);
      const reply = await script.run(
        redis,
        [namespaceKeys(namespace).meta, shardKeys(namespace, shard).due, ...batch.map(resultKey)],
        [
          shards,
          resultExpiresSec,
          ...batch.flatMap((id) => [
            parkedId(id),
            revokedRecord({ id, groupId: null, parentId: null }, 'revoked', nowMs),
          ]),
        ],
      );
      const counts = listReply(script, reply).map((count) => integerReply(script, count));
      revoked.push(...batch.filter((_, i) => (counts[i] ?? 0) > 0));
    }
  }
  return revoked;
}
