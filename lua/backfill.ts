import type { Redis } from 'ioredis';
import { RingbeatError } from '../protocol/errors.ts';
import { type NamespaceKeys, requestKey, type ShardKeys } from './keys.ts';
import { defineScript, integerReply } from './script.ts';

const script = defineScript('backfill');

/** Extra runs of one schedule that may wait at once. */
export const MAX_BACKLOG = 10_000;

export interface BackfillRequest {
  readonly epoch: string;
  readonly shard: number;
  readonly id: string;
  /** 1 to MAX_BACKLOG, oldest first. */
  readonly duesMs: readonly number[];
  /** The same request again changes nothing. */
  readonly requestId: string;
}

/** Queues a run for each due time; how many, or null for no such schedule. Throws BACKLOG_FULL, NAMESPACE_GONE. */
export async function backfill(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  { epoch, shard, id, duesMs, requestId }: BackfillRequest,
): Promise<number | null> {
  const reply = await script.run(
    redis,
    [names.meta, keys.due, requestKey(keys, `backfill:${requestId}`)],
    [epoch, id, names.wake, shard, ...duesMs],
  );
  const queued = integerReply(script, reply);
  if (queued === -2) throw new RingbeatError('BACKLOG_FULL', { id, runs: duesMs.length, most: MAX_BACKLOG });
  return queued === -1 ? null : queued;
}
