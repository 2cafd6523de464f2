import type { Redis } from 'ioredis';
import { type NamespaceKeys, requestKey, type ShardKeys } from './keys.ts';
import { defineScript, textReply } from './script.ts';

const script = defineScript('trigger');

/** `in_flight`: it is a loop that is running; `full`: too many extra runs of it are waiting. */
export type TriggerOutcome = { readonly taskId: string } | 'missing' | 'in_flight' | 'full';

const REFUSALS: Readonly<Record<string, Exclude<TriggerOutcome, object>>> = {
  '': 'missing',
  '!': 'in_flight',
  '=': 'full',
};

export interface TriggerRequest {
  readonly epoch: string;
  readonly shard: number;
  readonly id: string;
  /** The same request again is told the same. */
  readonly requestId: string;
}

/** Runs a schedule once, now. Throws NAMESPACE_GONE. */
export async function trigger(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  { epoch, shard, id, requestId }: TriggerRequest,
): Promise<TriggerOutcome> {
  const reply = await script.run(
    redis,
    [names.meta, keys.due, requestKey(keys, `trigger:${requestId}`)],
    [epoch, id, names.wake, shard],
  );
  const text = textReply(script, reply);
  return REFUSALS[text] ?? { taskId: text };
}
