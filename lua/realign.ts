import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('realign');

const PAGE = 200;

/** Brings a shard's schedules back to their next grid point by Redis's clock; how many were moved. Throws NAMESPACE_GONE. */
export async function realign(redis: Redis, names: NamespaceKeys, keys: ShardKeys, epoch: string): Promise<number> {
  let cursor = '0';
  let moved = 0;
  do {
    const reply = await script.run(redis, [names.meta, keys.due], [epoch, cursor, PAGE]);
    const [next, movedHere] = listReply(script, reply);
    cursor = String(next);
    moved += integerReply(script, movedHere);
  } while (cursor !== '0');
  return moved;
}
