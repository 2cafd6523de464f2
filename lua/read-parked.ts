import type { Redis } from 'ioredis';
import type { ShardKeys } from './keys.ts';
import { defineScript, listReply, textReply } from './script.ts';

const script = defineScript('read-parked');

/** Keys that one call takes. */
const BATCH = 100;

export interface ParkedMessage {
  /** Where it goes back to. */
  readonly list: string;
  readonly tag: string;
  readonly envelope: string;
}

/** The parked messages of a shard under these keys, by key; those that are not there are left out. */
export async function readParked(
  redis: Redis,
  shard: ShardKeys,
  members: readonly string[],
): Promise<Map<string, ParkedMessage>> {
  const found = new Map<string, ParkedMessage>();
  for (let from = 0; from < members.length; from += BATCH) {
    const reply = listReply(script, await script.run(redis, [shard.due], members.slice(from, from + BATCH)));
    for (let at = 0; at + 3 < reply.length; at += 4) {
      const [member, list, tag, envelope] = reply.slice(at, at + 4).map((part) => textReply(script, part));
      found.set(member!, { list: list!, tag: tag!, envelope: envelope! });
    }
  }
  return found;
}
