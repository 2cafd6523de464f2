import type { Redis } from 'ioredis';
import { KOMBU, workerKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('start');

export interface StartRequest {
  readonly workerId: string;
  /** Larger than that of the last answered call; a call that is repeated keeps its counter. */
  readonly counter: number;
  /** How many workers may die of a message before it is given up. */
  readonly maxCrashes: number;
  /** Delivery tags that are acknowledged now, before their functions are entered. */
  readonly early: readonly string[];
  /** Delivery tags that are acknowledged when their tasks have ended. 1 to 1,000 of both together. */
  readonly late: readonly string[];
}

export interface StartReply {
  readonly nowMs: number;
  /** Tags that the worker holds no longer: it must not run them. */
  readonly refused: ReadonlySet<string>;
}

/** Says that the functions of these messages are about to be entered. */
export async function start(redis: Redis, namespace: string, request: StartRequest): Promise<StartReply> {
  const worker = workerKeys(namespace, request.workerId);
  const tags = [...request.early, ...request.late];
  const reply = await script.run(
    redis,
    [worker.state, worker.reserved, worker.started, KOMBU.unacked, KOMBU.unackedIndex],
    [request.counter, request.early.length, request.maxCrashes, ...tags],
  );
  const [nowMs, ...refused] = listReply(script, reply);
  return {
    nowMs: integerReply(script, nowMs),
    refused: new Set(refused.map((position) => tags[integerReply(script, position) - 1]!)),
  };
}
