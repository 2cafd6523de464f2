import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('refill-times');

/** Claims that one call looks at. */
const LIMIT = 500;

export interface Refill {
  /** Number of the calendar or exclusion. */
  readonly number: string;
  /** The first 15 digits of its times as they were read. */
  readonly readUntil: string;
  /** Times that continue them (`encodeTimes`). */
  readonly more: string;
  /** When to compute them further, ms since epoch. */
  readonly refillAtMs: number;
}

export interface RefillReply {
  /** Next runs that were found for schedules that waited. */
  readonly found: number;
  /** When the earliest of them is due, ms since epoch; null: none was found. */
  readonly earliestMs: number | null;
  /** Schedules that still wait for their next run. */
  readonly waiting: number;
}

/** Continues times of one shard, and schedules what waited for them. Throws NAMESPACE_GONE. */
export async function refillTimes(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  epoch: string,
  refills: readonly Refill[],
): Promise<RefillReply> {
  const reply = await script.run(
    redis,
    [names.meta, keys.due],
    [
      epoch,
      LIMIT,
      ...refills.flatMap(({ number, readUntil, more, refillAtMs }) => [number, readUntil, more, refillAtMs]),
    ],
  );
  const [found, earliest, waiting] = listReply(script, reply).map((value) => integerReply(script, value)) as [
    number,
    number,
    number,
  ];
  return { found, earliestMs: earliest < 0 ? null : earliest, waiting };
}
