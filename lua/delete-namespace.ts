import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { defineScript } from './script.ts';

const script = defineScript('delete-namespace');

/**
 * Deletes a namespace: first its record, after which nobody writes to it, then every key under its prefix but the
 * tombstone. How many keys there were. Throws NAMESPACE_GONE.
 */
export async function deleteNamespace(
  redis: Redis,
  names: NamespaceKeys,
  name: string,
  epoch: string,
): Promise<number> {
  await script.run(redis, [names.meta, names.tombstone], [epoch]);
  const pattern = `${name.replace(/[[\]*?\\^]/g, '\\$&')}:*`;
  let deleted = 1;
  let cursor = '0';
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', pattern, 'COUNT', 1_000);
    cursor = next;
    const keys = found.filter((key) => key !== names.tombstone);
    if (keys.length > 0) deleted += await redis.unlink(...keys);
  } while (cursor !== '0');
  return deleted;
}
