import type { Redis } from 'ioredis';
import type { ShardKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('count-shard');

export interface ShardCounts {
  readonly schedules: number;
  /** Schedules with runs to come. A schedule that was paused while its run is in flight is among them until that ends. */
  readonly enabled: number;
  /** Runs whose end is waited for. */
  readonly inFlight: number;
  /** Schedules with missed runs that wait for their turn. */
  readonly missed: number;
  /** Parked messages. */
  readonly parked: number;
  /** Schedules, their extra runs and parked messages that are past due. */
  readonly overdue: number;
  readonly deadLetters: number;
}

/** How one shard stands; what is more than `overdueAfterMs` past due counts as overdue. */
export async function countShard(redis: Redis, keys: ShardKeys, overdueAfterMs: number): Promise<ShardCounts> {
  const reply = listReply(script, await script.run(redis, [keys.due], [overdueAfterMs]));
  const [schedules, enabled, inFlight, missed, parked, overdue, deadLetters] = reply.map((count) =>
    integerReply(script, count),
  ) as [number, number, number, number, number, number, number];
  return { schedules, enabled, inFlight, missed, parked, overdue, deadLetters };
}
