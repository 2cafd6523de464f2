import type { Redis } from 'ioredis';
import { KOMBU, namespaceKeys, workerKeys } from './keys.ts';
import { WORKER_DEAD_LETTERS } from './reserve.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('recover-runs');

/** A run is given up when its worker died in each of so many attempts. */
const ATTEMPTS = 5;

/** A run in flight that a dead worker held, with its next attempt. */
export interface LostRun {
  readonly tag: string;
  /** As it was read from kombu's index. */
  readonly score: string;
  /** What the keys of its shard begin with. */
  readonly shard: string;
  readonly schedule: string;
  readonly list: string;
  readonly nextTag: string;
  readonly envelope: string;
}

export interface RecoverReply {
  readonly recovered: number;
  readonly givenUp: number;
  /** Positions in `runs` of messages for whose run nobody waits any more. */
  readonly ordinary: ReadonlySet<number>;
}

/** Starts the next attempts of runs that a dead worker held; of several who do so, one does. At most 100. */
export async function recoverRuns(
  redis: Redis,
  namespace: string,
  workerId: string,
  leaseMs: number,
  runs: readonly LostRun[],
): Promise<RecoverReply> {
  const names = namespaceKeys(namespace);
  const { reserved, waiting } = workerKeys(namespace, workerId);
  const reply = await script.run(
    redis,
    [names.workers, reserved, waiting, KOMBU.unacked, KOMBU.unackedIndex, names.workerDeadLetters],
    [
      workerId,
      leaseMs,
      ATTEMPTS,
      WORKER_DEAD_LETTERS,
      ...runs.flatMap(({ tag, score, shard, schedule, list, nextTag, envelope }) => [
        tag,
        score,
        `${shard}due`,
        schedule,
        list,
        nextTag,
        envelope,
      ]),
    ],
  );
  const [, recovered, givenUp, ...ordinary] = listReply(script, reply).map((value) => integerReply(script, value));
  return { recovered: recovered!, givenUp: givenUp!, ordinary: new Set(ordinary.map((position) => position - 1)) };
}
