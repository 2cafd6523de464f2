import type { Redis } from 'ioredis';
import { shardKeys } from './keys.ts';
import { type ParkedMessage, readParked } from './read-parked.ts';
import { defineScript, integerReply, listReply, textReply } from './script.ts';

const script = defineScript('list-parked');

/** Entries that one call looks at. */
const PAGE = 1_000;

/** Entries of a shard that are looked at for those of the queues asked for, at most. */
const MAX_LOOKED_AT = 10_000;

export interface ParkedEntry extends ParkedMessage {
  readonly etaMs: number;
}

/**
 * The nearest parked messages for these queues, at most `limit` (1 to 1,000), nearest first. Where very many are parked
 * for other queues, those far away may be left out.
 */
export async function listParked(
  redis: Redis,
  namespace: string,
  shards: number,
  queues: readonly string[],
  limit: number,
): Promise<ParkedEntry[]> {
  const all = Array.from({ length: shards }, (_, shard) => shardKeys(namespace, shard));
  const found = await Promise.all(
    all.map(async (keys) => {
      const entries: { readonly keys: typeof keys; readonly member: string; readonly etaMs: number }[] = [];
      for (let from = 0; from < MAX_LOOKED_AT && entries.length < limit; from += PAGE) {
        const [more, ...pairs] = listReply(script, await script.run(redis, [keys.due], [from, PAGE, ...queues]));
        for (let at = 0; at + 1 < pairs.length; at += 2) {
          entries.push({ keys, member: textReply(script, pairs[at]!), etaMs: integerReply(script, pairs[at + 1]) });
        }
        if (more !== 1) break;
      }
      return entries;
    }),
  );
  const nearest = found
    .flat()
    .sort((one, other) => one.etaMs - other.etaMs)
    .slice(0, limit);
  const messages = await Promise.all(
    all.map(async (keys) => {
      const mine = nearest.filter((entry) => entry.keys === keys);
      const read = await readParked(
        redis,
        keys,
        mine.map(({ member }) => member),
      );
      return mine.flatMap(({ member, etaMs }) => {
        const message = read.get(member);
        return message === undefined ? [] : [{ ...message, etaMs }];
      });
    }),
  );
  return messages.flat().sort((one, other) => one.etaMs - other.etaMs);
}
