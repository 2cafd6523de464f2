import type { Redis } from 'ioredis';
import { type NamespaceKeys, requestKey, type ShardKeys } from './keys.ts';
import { parkedId } from './parked.ts';
import { defineScript, integerReply } from './script.ts';

const script = defineScript('park-tasks');

export interface ParkTasksRequest {
  readonly epoch: string;
  readonly shard: number;
  /** Remembered for 10 minutes: what it did is not done again. */
  readonly requestId: string;
  /** 1 to 500 of this shard. */
  readonly tasks: readonly TaskToPark[];
}

export interface TaskToPark {
  /** Which of the request's tasks it is, from 0. */
  readonly position: number;
  readonly taskId: string;
  readonly tag: string;
  readonly etaMs: number;
  /** Where the message goes at `etaMs`. */
  readonly list: string;
  readonly envelope: string;
}

/** Parks delayed tasks; answers how many of them had not been by an earlier call. Throws NAMESPACE_GONE. */
export async function parkTasks(
  redis: Redis,
  names: NamespaceKeys,
  shard: ShardKeys,
  request: ParkTasksRequest,
): Promise<number> {
  const entries = request.tasks.flatMap(({ position, taskId, tag, etaMs, list, envelope }) => [
    ...[position, parkedId(taskId), tag, etaMs],
    ...[list, envelope],
  ]);
  const reply = await script.run(
    redis,
    [names.meta, shard.due, requestKey(shard, request.requestId)],
    [request.epoch, names.wake, request.shard, ...entries],
  );
  return integerReply(script, reply);
}
