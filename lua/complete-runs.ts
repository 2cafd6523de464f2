import type { Redis } from 'ioredis';
import type { LoopWish } from '../protocol/loop.ts';
import { KOMBU, type NamespaceKeys, type ShardKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('complete-runs');

export interface EndedRun {
  readonly taskId: string;
  readonly outcome: 'success' | 'failure';
  readonly wish: LoopWish | null;
}

export interface CompleteRequest {
  readonly epoch: string;
  readonly shard: number;
  /** At most 500. */
  readonly runs: readonly EndedRun[];
  /** Whether runs are looked at that can no longer be running. */
  readonly checksDeadlines: boolean;
}

/** Runs of one shard that are looked at for their deadline in one call. */
export const DEADLINES = 200;

/** Ends runs in flight of one shard; how many by their results, and how many as lost. Throws NAMESPACE_GONE. */
export async function completeRuns(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  { epoch, shard, runs, checksDeadlines }: CompleteRequest,
): Promise<{ readonly ended: number; readonly lost: number }> {
  const reply = await script.run(
    redis,
    [names.meta, keys.due, KOMBU.unacked],
    [
      epoch,
      names.wake,
      shard,
      checksDeadlines ? DEADLINES : 0,
      ...runs.flatMap(({ taskId, outcome, wish }) => [taskId, outcome, wish ?? '']),
    ],
  );
  const [ended, lost] = listReply(script, reply);
  return { ended: integerReply(script, ended), lost: integerReply(script, lost) };
}
