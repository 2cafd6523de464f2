import type { Redis } from 'ioredis';
import { KOMBU, workerKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('refresh');

export interface RefreshReply {
  readonly nowMs: number;
  /** Indexes into the tags (from 0) of those that the worker holds no longer. */
  readonly lost: ReadonlySet<number>;
}

/** Says that the worker still holds these 1 to 1,000 messages, so that no consumer takes them for lost. */
export async function refresh(
  redis: Redis,
  namespace: string,
  workerId: string,
  tags: readonly string[],
): Promise<RefreshReply> {
  const keys = [workerKeys(namespace, workerId).reserved, KOMBU.unacked, KOMBU.unackedIndex];
  const [nowMs, ...lost] = listReply(script, await script.run(redis, keys, tags));
  return {
    nowMs: integerReply(script, nowMs),
    lost: new Set(lost.map((position) => integerReply(script, position) - 1)),
  };
}
