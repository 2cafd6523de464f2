import type { Redis } from 'ioredis';
import type { LoopWish } from '../protocol/loop.ts';
import { KOMBU, namespaceKeys, resultKey, workerKeys } from './keys.ts';
import { WORKER_DEAD_LETTERS } from './reserve.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('settle');

/** How one message ends. */
export interface Settlement {
  readonly tag: string;
  /**
   * - `acked`: it was acknowledged before it ran.
   * - `held`: it is acknowledged now; nothing happens if it was restored meanwhile.
   * - `dead`: as `held`, and it is kept as a dead letter.
   */
  readonly mode: 'acked' | 'held' | 'dead';
  /** The result to store and publish. */
  readonly result: { readonly taskId: string; readonly record: string } | null;
  /** Why it is kept as a dead letter, and which queue it came from. */
  readonly letter: { readonly queue: string; readonly reason: string } | null;
  /** The run that ends with it, where a schedule waits for that. */
  readonly run: SettledRun | null;
}

/** How a run in flight (lua/journal.ts) ends. */
export interface SettledRun {
  /** What the keys of its shard begin with. */
  readonly shard: string;
  readonly schedule: string;
  readonly outcome: 'success' | 'failure';
  readonly wish: LoopWish | null;
}

export interface SettleRequest {
  readonly workerId: string;
  /** Larger than that of the last answered call; a call that is repeated keeps its counter. */
  readonly counter: number;
  /** Seconds for which results are kept; 0: for ever. */
  readonly resultExpiresSec: number;
  /** 1 to 1,000. */
  readonly settlements: readonly Settlement[];
}

export interface SettleReply {
  readonly nowMs: number;
  /** How many came too late: their messages had been restored meanwhile, so nothing was stored. */
  readonly late: number;
}

/** Finishes a batch of messages and stores their results as Celery's Redis backend does. */
export async function settle(redis: Redis, namespace: string, request: SettleRequest): Promise<SettleReply> {
  const worker = workerKeys(namespace, request.workerId);
  const keys = [
    worker.state,
    worker.reserved,
    KOMBU.unacked,
    KOMBU.unackedIndex,
    namespaceKeys(namespace).workerDeadLetters,
  ];
  const args: (string | number)[] = [request.counter, request.resultExpiresSec, WORKER_DEAD_LETTERS];
  for (const { tag, mode, result, letter, run } of request.settlements) {
    if (result !== null) keys.push(resultKey(result.taskId));
    args.push(
      tag,
      mode,
      result === null ? '' : result.record,
      letter === null ? '' : `${letter.queue}\n${letter.reason}`,
      run === null ? '' : [run.shard, run.outcome, run.wish ?? '', run.schedule].join('\x1f'),
    );
  }
  const [nowMs, late] = listReply(script, await script.run(redis, keys, args));
  return { nowMs: integerReply(script, nowMs), late: integerReply(script, late) };
}
