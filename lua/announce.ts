import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('announce');

/** An announcement that was not repeated for longer does not count, ms. */
const MAX_AGE_MS = 3_000;

export interface Announcement {
  readonly node: string;
  /** Redis time at which this node first announced, ms. */
  readonly sinceMs: number;
  readonly text: string;
}

export interface AnnounceReply {
  readonly nowMs: number;
  /** Of the namespace that is in Redis; null when there is none. */
  readonly epoch: string | null;
  /** Epoch of the namespace that was deleted here last; null when none was. */
  readonly tombstone: string | null;
  /** The node that fills the absent namespace at this moment; null when none does. */
  readonly filledBy: string | null;
  /** The caller's own among them. */
  readonly announcements: readonly Announcement[];
}

/** Announces what this node's journal holds (null: nothing) while the namespace is not in Redis, and reads what others do. */
export async function announce(
  redis: Redis,
  names: NamespaceKeys,
  node: string,
  text: string | null,
): Promise<AnnounceReply> {
  const reply = await script.run(
    redis,
    [names.meta, names.tombstone, names.announcements, names.restoring],
    [node, text ?? '', MAX_AGE_MS, names.wake],
  );
  const [nowMs, epoch, tombstone, filledBy, ...flat] = listReply(script, reply);
  const announcements: Announcement[] = [];
  for (let i = 0; i + 2 < flat.length; i += 3)
    announcements.push({
      node: String(flat[i]),
      sinceMs: integerReply(script, flat[i + 1]),
      text: String(flat[i + 2]),
    });
  return {
    nowMs: integerReply(script, nowMs),
    epoch: textOrNull(epoch),
    tombstone: textOrNull(tombstone),
    filledBy: textOrNull(filledBy),
    announcements,
  };
}

function textOrNull(value: unknown): string | null {
  return value === '' ? null : String(value);
}
