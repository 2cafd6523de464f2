import type { Redis } from 'ioredis';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, listReply } from './script.ts';

const script = defineScript('restore-schedules');

export interface RestoreRequest {
  /** The node that restores; it has taken the right to (`takeAbsent`). */
  readonly node: string;
  readonly leaseMs: number;
  /** Until this Redis time nothing due was left undispatched, ms. */
  readonly floorMs: number;
  /** In the first call for a shard: the sequence of its last change, the highest number given to a template. */
  readonly begin: { readonly sequence: number; readonly templateNumber: number } | null;
  /** Kind, text, kind, text, …: at most 500 pairs. */
  readonly steps: readonly string[];
}

/** Puts schedules back into a shard; the ids of those that cannot be, for lack of their template. Throws RESTORE_TAKEN. */
export async function restoreSchedules(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  request: RestoreRequest,
): Promise<string[]> {
  const { node, leaseMs, floorMs, begin, steps } = request;
  const reply = await script
    .run(
      redis,
      [names.meta, names.restoring, keys.due],
      [node, leaseMs, floorMs, begin === null ? '' : `${begin.sequence}:${begin.templateNumber}`, ...steps],
    )
    .catch((error: unknown) => {
      throw restoreTaken(error, names);
    });
  return listReply(script, reply).map(String);
}

/** The error that a script's RESTORE_TAKEN stands for; any other error as it is. */
export function restoreTaken(error: unknown, names: NamespaceKeys): unknown {
  if (!messageOf(error).includes('RESTORE_TAKEN')) return error;
  return new RingbeatError('RESTORE_TAKEN', { namespace: names.meta.replace(/:meta$/, '') }, { cause: error });
}
