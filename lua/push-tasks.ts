import type { Redis } from 'ioredis';
import { type NamespaceKeys, requestKey, type ShardKeys } from './keys.ts';
import { defineScript, textReply } from './script.ts';

const script = defineScript('push-tasks');

/** What became of a task: `taken` now or by an earlier call of this request; its queue is `full` or `not a list`. */
export type SendOutcome = 'taken' | 'full' | 'not a list';

const OUTCOMES: Readonly<Record<string, SendOutcome>> = { t: 'taken', f: 'full', w: 'not a list' };

export interface PushRequest {
  readonly epoch: string;
  readonly queueCap: number;
  /** Remembered for 10 minutes: what it did is not done again. */
  readonly requestId: string;
  /** 1 to 500. */
  readonly tasks: readonly TaskToPush[];
}

export interface TaskToPush {
  /** Which of the request's tasks it is, from 0. */
  readonly position: number;
  readonly queue: string;
  readonly list: string;
  readonly envelope: string;
}

/** Pushes tasks to their queues; an outcome for each. `shard` is where the request is remembered. Throws NAMESPACE_GONE. */
export async function pushTasks(
  redis: Redis,
  names: NamespaceKeys,
  shard: ShardKeys,
  request: PushRequest,
): Promise<SendOutcome[]> {
  const letters = await script.run(
    redis,
    [names.meta, requestKey(shard, request.requestId)],
    [
      request.epoch,
      request.queueCap,
      ...request.tasks.flatMap(({ position, list, queue, envelope }) => [position, list, queue, envelope]),
    ],
  );
  return [...textReply(script, letters)].map((letter) => OUTCOMES[letter]!);
}
