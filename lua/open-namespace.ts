import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { defineScript, listReply, type Reply } from './script.ts';

const script = defineScript('open-namespace');

/** A namespace to be created. */
export interface NewNamespace {
  readonly epoch: string;
  readonly settings: Readonly<Record<string, string>>;
  /** Who creates, where it has taken the right to fill what is absent (`takeAbsent`). */
  readonly node?: string;
}

/**
 * The namespace's record, created first where there is none and `create` says so (null: nothing is created). Empty when
 * there is none, also because another node is filling it at this moment.
 */
export async function openNamespace(
  redis: Redis,
  names: NamespaceKeys,
  create: NewNamespace | null,
): Promise<ReadonlyMap<string, string>> {
  const reply = await script.run(
    redis,
    [names.meta, names.tombstone, names.restoring],
    [
      create?.epoch ?? '',
      create === null ? 0 : 1,
      create?.node ?? '',
      ...Object.entries(create?.settings ?? {}).flat(),
    ],
  );
  return fieldsOf(listReply(script, reply));
}

/** [field, value, field, value, ...] as a map. */
export function fieldsOf(flat: readonly Reply[]): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (let i = 0; i + 1 < flat.length; i += 2) fields.set(String(flat[i]), String(flat[i + 1]));
  return fields;
}
