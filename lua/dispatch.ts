import type { Redis } from 'ioredis';
import type { NamespaceKeys, ShardKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('dispatch');

export interface DispatchRequest {
  readonly epoch: string;
  readonly shards: readonly ShardKeys[];
  /** Most entries to move in this call, 1 to 1000. */
  readonly limit: number;
  /** 0 for an owner; a helper leaves a shard alone until its head is this much overdue. */
  readonly graceMs: number;
  readonly misfireThresholdMs: number;
  readonly queueCap: number;
  /** Missed runs that all nodes together send per second; 0: as fast as it goes. */
  readonly recoveryRate: number;
  /** Whether missed runs go before current ones. */
  readonly missedFirst: boolean;
}

export interface DispatchReply {
  /** Redis time of the call. */
  readonly nowMs: number;
  readonly sent: number;
  /** More is due than this call was allowed to move. */
  readonly isMoreDue: boolean;
  /** When the next entry of these shards is due; `soon` when something was due now, null when nothing waits. */
  readonly nextDueMs: number | 'soon' | null;
  /** Runs that the misfire policy or their expiry dropped. */
  readonly misfired: number;
  /** Runs that a queue cap dropped. */
  readonly refused: number;
  /** [ms, runs dispatched so late] of the schedules among `sent`. */
  readonly latenesses: readonly (readonly [number, number])[];
}

/** Moves what is due in these shards into its queues, in one atomic step. Throws NAMESPACE_GONE. */
export async function dispatch(redis: Redis, names: NamespaceKeys, request: DispatchRequest): Promise<DispatchReply> {
  const reply = await script.run(
    redis,
    [names.meta, names.recovery, ...request.shards.map(({ due }) => due)],
    [
      request.epoch,
      request.limit,
      request.graceMs,
      request.misfireThresholdMs,
      request.queueCap,
      request.recoveryRate,
      request.missedFirst ? 1 : 0,
    ],
  );
  const values = listReply(script, reply).map((value) => integerReply(script, value));
  const latenesses: [number, number][] = [];
  for (let i = 6; i + 1 < values.length; i += 2) latenesses.push([values[i]!, values[i + 1]!]);
  const [nowMs, sent, more, nextDue, misfired, refused] = values as [number, number, number, number, number, number];
  return {
    nowMs,
    sent,
    isMoreDue: more === 1,
    nextDueMs: nextDue === 0 ? 'soon' : nextDue === -1 ? null : nextDue,
    misfired,
    refused,
    latenesses,
  };
}
