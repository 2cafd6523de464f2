import type { Redis } from 'ioredis';
import { type Action, actionArgs } from './actions.ts';
import { listQueue, type NamespaceKeys, requestKey } from './keys.ts';
import type { SendOutcome } from './push-tasks.ts';
import { WORKER_DEAD_LETTERS } from './reserve.ts';
import { defineScript, textReply } from './script.ts';

const script = defineScript('apply-canvas');

export interface ApplyCanvasRequest {
  readonly namespace: string;
  readonly epoch: string;
  readonly queueCap: number;
  readonly shards: number;
  /** Remembered for 10 minutes: what it did is not done again. */
  readonly requestId: string;
  /** Seconds for which the sizes of chords are kept; 0: for ever. */
  readonly resultExpiresSec: number;
  readonly actions: readonly Action[];
}

/** `taken`, or the queue that keeps all of it from being sent, and why. */
export type ApplyOutcome = 'taken' | { readonly queue: string; readonly outcome: Exclude<SendOutcome, 'taken'> };

/** Sends a workflow: all of it or nothing. Throws NAMESPACE_GONE. */
export async function applyCanvas(
  redis: Redis,
  names: NamespaceKeys,
  request: ApplyCanvasRequest,
): Promise<ApplyOutcome> {
  const { namespace, epoch, queueCap, shards, requestId, resultExpiresSec, actions } = request;
  const counts = new Map<string, number>();
  for (const action of actions) {
    if (action.kind !== 'push') continue;
    const queue = listQueue(action.list);
    counts.set(queue, (counts.get(queue) ?? 0) + 1);
  }
  const reply = await script.run(
    redis,
    [names.meta, requestKey(namespace, requestId), names.workerDeadLetters],
    [
      epoch,
      queueCap,
      resultExpiresSec,
      WORKER_DEAD_LETTERS,
      shards,
      counts.size,
      ...[...counts].flat(),
      ...actions.flatMap((action) => actionArgs(action, namespace, shards)),
    ],
  );
  const text = textReply(script, reply);
  if (text === 't') return 'taken';
  return { queue: text.slice(1), outcome: text[0] === 'f' ? 'full' : 'not a list' };
}
