import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { defineScript } from './script.ts';

const script = defineScript('leave');

/** Takes a beat node out of the ring at once. */
export async function leave(redis: Redis, names: NamespaceKeys, node: string): Promise<void> {
  await script.run(redis, [names.nodes, names.nodeInfo], [node, names.wake]);
}
