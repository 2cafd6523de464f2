import type { Redis } from 'ioredis';
import { KOMBU, namespaceKeys, shardKeys, shardOf, workerKeys } from './keys.ts';
import { parkedId } from './parked.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('park');

export interface ParkRequest {
  readonly workerId: string;
  /** How many shards the namespace has. */
  readonly shards: number;
  /** 1 to 500. */
  readonly messages: readonly MessageToPark[];
}

export interface MessageToPark {
  readonly tag: string;
  readonly taskId: string;
  /** Where the message goes back to at `etaMs`. */
  readonly list: string;
  readonly etaMs: number;
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
  const { reserved, waiting } = workerKeys(namespace, request.workerId);
  const shardNames: string[] = [];
  const numbers = new Map<number, number>();
  const entries: (string | number)[] = [];
  for (const { tag, taskId, list, etaMs } of request.messages) {
    const id = parkedId(taskId);
    const shard = shardOf(id, request.shards);
    const number = numbers.get(shard) ?? shardNames.push(shardKeys(namespace, shard).due);
    numbers.set(shard, number);
    entries.push(tag, id, etaMs, list, shard, number);
  }
  const reply = await script.run(
    redis,
    [names.meta, reserved, waiting, KOMBU.unacked, KOMBU.unackedIndex, ...shardNames],
    [request.shards, names.wake, ...entries],
  );
  const [nowMs, ...late] = listReply(script, reply);
  return { nowMs: integerReply(script, nowMs), late: late.length };
}
