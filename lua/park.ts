import type { Redis } from 'ioredis';
import { KOMBU, namespaceKeys, shardKeys, shardOf, workerKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('park');

export interface ParkRequest {
  readonly workerId: string;
  /** How many shards the namespace has. */
  readonly shards: number;
  /** 1 to 500. `list` is where the message goes back to at `etaMs`. */
  readonly messages: readonly { readonly tag: string; readonly list: string; readonly etaMs: number }[];
}

export interface ParkReply {
  readonly nowMs: number;
  /** How many the worker held no longer, so that nothing was done to them. */
  readonly late: number;
}

/**
 * Moves messages from unacked into the namespace's shards, from where a beat node puts them back at their eta.
 * Throws NAMESPACE_GONE, having changed nothing, when the namespace is not there or has another number of shards.
 */
export async function park(redis: Redis, namespace: string, request: ParkRequest): Promise<ParkReply> {
  const names = namespaceKeys(namespace);
  const pairs = new Map<number, number>();
  const shardNames: string[] = [];
  const entries: (string | number)[] = [];
  for (const { tag, list, etaMs } of request.messages) {
    const shard = shardOf(tag, request.shards);
    let pair = pairs.get(shard);
    if (pair === undefined) {
      const { extra, parked } = shardKeys(namespace, shard);
      shardNames.push(extra, parked);
      pair = pairs.size + 1;
      pairs.set(shard, pair);
    }
    entries.push(tag, etaMs, list, shard, pair);
  }
  const reply = await script.run(
    redis,
    [names.meta, workerKeys(namespace, request.workerId).reserved, KOMBU.unacked, KOMBU.unackedIndex, ...shardNames],
    [request.shards, names.wake, ...entries],
  );
  const [nowMs, ...late] = listReply(script, reply);
  return { nowMs: integerReply(script, nowMs), late: late.length };
}
