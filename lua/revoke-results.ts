import type { Redis } from 'ioredis';
import { revokedRecord } from '../protocol/result.ts';
import { resultKey } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('revoke-results');

/** Tasks that one call takes. */
const BATCH = 100;

/**
 * Stores and publishes a REVOKED record for each of these tasks of which no record says that it has begun or ended.
 * Records are kept for `resultExpiresSec` (0: for ever). Answers the ids of those.
 */
export async function revokeResults(
  redis: Redis,
  taskIds: readonly string[],
  { resultExpiresSec, nowMs }: { readonly resultExpiresSec: number; readonly nowMs: number },
): Promise<string[]> {
  const ids = [...new Set(taskIds)];
  const revoked: string[] = [];
  for (let from = 0; from < ids.length; from += BATCH) {
    const batch = ids.slice(from, from + BATCH);
    const records = batch.map((id) => revokedRecord({ id, groupId: null, parentId: null }, 'revoked', nowMs));
    const reply = listReply(script, await script.run(redis, batch.map(resultKey), [resultExpiresSec, ...records]));
    const positions = new Set(reply.map((position) => integerReply(script, position)));
    revoked.push(...batch.filter((_, i) => positions.has(i + 1)));
  }
  return revoked;
}
