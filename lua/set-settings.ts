import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { defineScript } from './script.ts';

const script = defineScript('set-settings');

/** Changes settings of a namespace; running nodes read them with their next heartbeat. Throws NAMESPACE_GONE. */
export async function setSettings(
  redis: Redis,
  names: NamespaceKeys,
  epoch: string,
  changes: readonly (readonly [string, string])[],
): Promise<void> {
  await script.run(redis, [names.meta], [epoch, ...changes.flat()]);
}
