import type { Redis } from 'ioredis';
import { resultKey } from './keys.ts';

/** Enough of a result record to hold its state, with which Celery begins it; what a task returned may be large. */
const HEAD_BYTES = 64;

/** Celery's state of each of these tasks (`SUCCESS`, `RETRY`, …), in order; null where no result record tells one. */
export async function readStates(redis: Redis, taskIds: readonly string[]): Promise<(string | null)[]> {
  if (taskIds.length === 0) return [];
  const pipeline = redis.pipeline();
  for (const taskId of taskIds) pipeline.getrange(resultKey(taskId), 0, HEAD_BYTES - 1);
  const replies = (await pipeline.exec()) ?? [];
  return replies.map(([error, head]) => {
    // A key of another type is no result record.
    if (error !== null && !error.message.startsWith('WRONGTYPE')) throw error;
    return /^\{"status": "([A-Z_]+)"/.exec(String(head))?.[1] ?? null;
  });
}
