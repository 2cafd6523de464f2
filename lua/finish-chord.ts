import type { Redis } from 'ioredis';
import { type Action, actionArgs, type PartAction } from './actions.ts';
import { namespaceKeys } from './keys.ts';
import { WORKER_DEAD_LETTERS } from './reserve.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('finish-chord');

export interface FinishChordRequest {
  readonly groupId: string;
  /** Who counted its last part, or anything else where it was left over. */
  readonly token: string;
  /** What becomes of it: its body is sent, or cannot be. */
  readonly outcome: 'sent' | 'failed';
  /** Seconds for which results are kept; 0: for ever. */
  readonly resultExpiresSec: number;
  /** How many shards the namespace has; 0: no beat node lives, so that nothing can be parked. */
  readonly shards: number;
  readonly actions: readonly Action[];
}

export interface FinishChordReply {
  /** Whether this call did it; otherwise nothing was done. */
  readonly isFinished: boolean;
  /** Parts of other chords that completed those. */
  readonly completed: readonly PartAction[];
}

/** Ends a chord with these actions, once. */
export async function finishChord(
  redis: Redis,
  namespace: string,
  request: FinishChordRequest,
): Promise<FinishChordReply> {
  const names = namespaceKeys(namespace);
  const { groupId, token, outcome, resultExpiresSec, shards } = request;
  const reply = await script.run(
    redis,
    [names.chords, names.workerDeadLetters, names.meta],
    [
      groupId,
      token,
      outcome,
      resultExpiresSec,
      WORKER_DEAD_LETTERS,
      shards,
      ...request.actions.flatMap((action) => actionArgs(action, namespace, shards)),
    ],
  );
  const [isFinished, ...positions] = listReply(script, reply);
  const completed = positions.flatMap((position) => {
    const action = request.actions[integerReply(script, position) - 1];
    return action?.kind === 'chord' ? [action] : [];
  });
  return { isFinished: integerReply(script, isFinished) === 1, completed };
}
