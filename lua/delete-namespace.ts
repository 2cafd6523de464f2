import type { Redis } from 'ioredis';
import { type NamespaceKeys, workerKeys } from './keys.ts';
import { defineScript } from './script.ts';

const script = defineScript('delete-namespace');

/**
 * Deletes a namespace: first its record, after which nothing is scheduled in it, then every key under its prefix but the
 * tombstone and what its live workers still hold. How many keys there were. Throws NAMESPACE_GONE.
 */
export async function deleteNamespace(
  redis: Redis,
  names: NamespaceKeys,
  name: string,
  epoch: string,
): Promise<number> {
  await script.run(redis, [names.meta, names.tombstone], [epoch, names.wake]);
  return 1 + (await clearNamespace(redis, names, name));
}

/**
 * Removes every key under the prefix of a namespace that is not there, but its tombstone, who fills it, and what its
 * live workers still hold. How many keys there were. Looks at every key of the database.
 */
export async function clearNamespace(redis: Redis, names: NamespaceKeys, name: string): Promise<number> {
  // Without its records a worker could not finish what it runs. They are gone once it has ended.
  const workers = await redis.zrange(names.workers, '0', '-1');
  const kept = new Set([names.tombstone, names.restoring, ...(workers.length > 0 ? [names.workers] : [])]);
  for (const id of workers.map(String)) for (const key of Object.values(workerKeys(name, id))) kept.add(key);
  const pattern = `${name.replace(/[[\]*?\\^]/g, '\\$&')}:*`;
  let deleted = 0;
  let cursor = '0';
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', pattern, 'COUNT', 1_000);
    cursor = next;
    const keys = found.filter((key) => !kept.has(key));
    if (keys.length > 0) deleted += await redis.unlink(...keys);
  } while (cursor !== '0');
  return deleted;
}
