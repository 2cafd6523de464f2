import type { Redis } from 'ioredis';
import { namespaceKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('take-tokens');

export interface TokensWanted {
  readonly task: string;
  /** How fast the bucket fills, by Redis's clock. */
  readonly perSec: number;
  /** How many tokens it holds, 1 or more. */
  readonly size: number;
  /** How many are wanted, 1 or more. */
  readonly wanted: number;
}

export interface TokensTaken {
  /** How many tasks may start. */
  readonly taken: number;
  /** When to ask for the rest, at most a bucket of it, ms from now; 0: there is no rest. */
  readonly waitMs: number;
}

/** Takes tokens for 1 to 200 tasks that are limited over all workers of the namespace. Answers one for each, in order. */
export async function takeTokens(
  redis: Redis,
  namespace: string,
  buckets: readonly TokensWanted[],
): Promise<TokensTaken[]> {
  const args = buckets.flatMap(({ task, perSec, size, wanted }) => [task, perSec / 1_000, size, wanted]);
  const reply = listReply(script, await script.run(redis, [namespaceKeys(namespace).rates], args));
  return buckets.map((_, index) => ({
    taken: integerReply(script, reply[index * 2]),
    waitMs: integerReply(script, reply[index * 2 + 1]),
  }));
}
