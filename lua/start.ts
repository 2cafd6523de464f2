import type { Redis } from 'ioredis';
import { KOMBU, namespaceKeys, workerKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('start');

export interface StartRequest {
  readonly workerId: string;
  /** Larger than that of the last answered call; a call that is repeated keeps its counter. */
  readonly counter: number;
  /** How many workers may die of a message before it is given up. */
  readonly maxCrashes: number;
  /**
   * Whether one message may start that would be given up if the worker died once more. Only one of them runs at a time, so
   * that no two are given up for what one of them does.
   */
  readonly mayStartLastChance: boolean;
  /** Delivery tags that are acknowledged now, before their functions are entered. */
  readonly early: readonly string[];
  /** Delivery tags that are acknowledged when their tasks have ended. 1 to 1,000 of both together. */
  readonly late: readonly string[];
}

export interface StartReply {
  readonly nowMs: number;
  /** Tags that the worker holds no longer: it must not run them. */
  readonly refused: ReadonlySet<string>;
  /** The one that started on its last chance. */
  readonly lastChance: string | null;
  /** Tags that have to wait for their last chance: they are held, and not started. */
  readonly putOff: ReadonlySet<string>;
}

/** Says that the functions of these messages are about to be entered. */
export async function start(redis: Redis, namespace: string, request: StartRequest): Promise<StartReply> {
  const worker = workerKeys(namespace, request.workerId);
  const tags = [...request.early, ...request.late];
  const reply = await script.run(
    redis,
    [
      worker.state,
      worker.reserved,
      worker.waiting,
      KOMBU.unacked,
      KOMBU.unackedIndex,
      namespaceKeys(namespace).crashes,
    ],
    [request.counter, request.early.length, request.maxCrashes, request.mayStartLastChance ? 1 : 0, ...tags],
  );
  const [nowMs, last, ...rest] = listReply(script, reply);
  const positions = rest.map((position) => integerReply(script, position));
  const tagsAt = (wanted: readonly number[]) => new Set(wanted.flatMap((position) => tags[position - 1] ?? []));
  return {
    nowMs: integerReply(script, nowMs),
    refused: tagsAt(positions.filter((position) => position > 0)),
    lastChance: tags[integerReply(script, last) - 1] ?? null,
    putOff: tagsAt(positions.filter((position) => position < 0).map((position) => -position)),
  };
}
