import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, textReply } from './script.ts';

const script = defineScript('replay-run');

/**
 * `gone`: there is no such letter (any more); `missing`: there is no such schedule; `unreadable`: it still cannot be sent;
 * `paused`: it is a loop that is; `full`: too many extra runs of it are waiting.
 */
export type ReplayRunOutcome = 'replayed' | 'gone' | 'missing' | 'unreadable' | 'paused' | 'full';

export interface ReplayRunRequest {
  readonly epoch: string;
  readonly shard: number;
  /** The letter's entry in the shard's stream. */
  readonly entry: string;
}

/** Makes up, once, for a run of a schedule that was given up. Throws NAMESPACE_GONE. */
export async function replayRun(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  { epoch, shard, entry }: ReplayRunRequest,
): Promise<ReplayRunOutcome> {
  const reply = await script.run(redis, [names.meta, keys.due], [epoch, entry, names.wake, shard]);
  return textReply(script, reply) as ReplayRunOutcome;
}
