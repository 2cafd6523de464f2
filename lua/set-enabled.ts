import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, textReply } from './script.ts';

const script = defineScript('set-enabled');

export type EnabledOutcome = 'changed' | 'unchanged' | 'missing';

const OUTCOMES: Readonly<Record<string, EnabledOutcome>> = { u: 'changed', n: 'unchanged', m: 'missing' };

export interface SetEnabledRequest {
  readonly epoch: string;
  readonly shard: number;
  readonly enabled: boolean;
  /** At most 500, each once. */
  readonly ids: readonly string[];
}

/** Pauses or resumes schedules of one shard; an outcome per id. Throws NAMESPACE_GONE. */
export async function setEnabled(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  request: SetEnabledRequest,
): Promise<EnabledOutcome[]> {
  const reply = await script.run(
    redis,
    [names.meta, keys.due],
    [request.epoch, request.enabled ? 1 : 0, names.wake, request.shard, ...request.ids],
  );
  return Array.from(textReply(script, reply), (letter) => OUTCOMES[letter]!);
}
