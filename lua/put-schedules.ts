import type { Redis } from 'ioredis';
import type { EncodedDefinition } from './definition.ts';
import { type NamespaceKeys, requestKey, type ShardKeys } from './keys.ts';
import { defineScript, textReply } from './script.ts';

const script = defineScript('put-schedules');

/** `refused`: it exists and was to be created, or is no longer the revision that was to be replaced. */
export type PutOutcome = 'created' | 'updated' | 'unchanged' | 'refused';

const OUTCOMES: Readonly<Record<string, PutOutcome>> = { c: 'created', u: 'updated', n: 'unchanged', x: 'refused' };

export interface PutEntry extends EncodedDefinition {
  readonly id: string;
  /** `encodeTemplate`'s text. */
  readonly template: string;
}

export interface PutRequest {
  readonly epoch: string;
  readonly namespace: string;
  readonly shard: number;
  /** At most 500, each id once, all of this shard. */
  readonly entries: readonly PutEntry[];
  /** Given: create only, and the same request again is told that it created. */
  readonly requestId?: string;
  /** Given: replaces this revision of one schedule only. */
  readonly revision?: string;
}

/** Creates or updates schedules of one shard in one atomic step; an outcome per entry. Throws NAMESPACE_GONE. */
export async function putSchedules(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  request: PutRequest,
): Promise<PutOutcome[]> {
  const templates = new Map<string, number>();
  for (const { template } of request.entries) if (!templates.has(template)) templates.set(template, templates.size + 1);
  const creates = request.requestId !== undefined;
  const reply = await script.run(
    redis,
    [
      names.meta,
      keys.due,
      keys.definitions,
      keys.templates,
      keys.templateIds,
      keys.templateUses,
      keys.counts,
      keys.last,
      keys.completed,
      ...(creates ? [requestKey(keys, request.requestId!)] : []),
    ],
    [
      request.epoch,
      request.namespace,
      creates ? 'create' : (request.revision ?? 'upsert'),
      names.wake,
      request.shard,
      templates.size,
      ...templates.keys(),
      ...request.entries.flatMap((entry) => [
        entry.id,
        templates.get(entry.template)!,
        entry.timing,
        entry.end,
        entry.rest,
      ]),
    ],
  );
  return Array.from(textReply(script, reply), (letter) => OUTCOMES[letter]!);
}
