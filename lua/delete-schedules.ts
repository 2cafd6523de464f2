import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, listReply } from './script.ts';

const script = defineScript('delete-schedules');

/** Removes at most 500 schedules of one shard; per id whether it existed. Throws NAMESPACE_GONE. */
export async function deleteSchedules(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  epoch: string,
  ids: readonly string[],
): Promise<boolean[]> {
  const reply = await script.run(redis, [names.meta, keys.due], [epoch, ...ids]);
  return listReply(script, reply).map((existed) => existed === 1);
}
