import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { defineScript } from './script.ts';

const script = defineScript('take-absent');

/** Takes the right to fill a namespace that is not in Redis; false when another has it, or the namespace is there. */
export async function takeAbsent(redis: Redis, names: NamespaceKeys, node: string, leaseMs: number): Promise<boolean> {
  return (await script.run(redis, [names.meta, names.restoring], [node, leaseMs])) === 1;
}
