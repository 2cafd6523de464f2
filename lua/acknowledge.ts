import type { Redis } from 'ioredis';
import { KOMBU, workerKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('acknowledge');

export interface AcknowledgeRequest {
  readonly workerId: string;
  /** Larger than that of the last answered call; a call that is repeated keeps its counter. */
  readonly counter: number;
  /** 1 to 1,000 delivery tags. */
  readonly tags: readonly string[];
}

export interface AcknowledgeReply {
  readonly nowMs: number;
  /** Indexes into `tags` (from 0) of those that the worker holds no longer: it must not run them. */
  readonly refused: ReadonlySet<number>;
}

/** Takes messages off unacked before their functions are entered. */
export async function acknowledge(
  redis: Redis,
  namespace: string,
  request: AcknowledgeRequest,
): Promise<AcknowledgeReply> {
  const worker = workerKeys(namespace, request.workerId);
  const reply = await script.run(
    redis,
    [worker.state, worker.reserved, KOMBU.unacked, KOMBU.unackedIndex],
    [request.counter, ...request.tags],
  );
  const [nowMs, ...refused] = listReply(script, reply);
  return {
    nowMs: integerReply(script, nowMs),
    refused: new Set(refused.map((position) => integerReply(script, position) - 1)),
  };
}
