import type { Redis } from 'ioredis';
import { KOMBU, namespaceKeys, queueList, type WorkerKeys, workerKeys } from './keys.ts';
import { defineScript, integerReply, listReply, textReply } from './script.ts';

const script = defineScript('reserve');

/** What is added to the number of a message's list when it was started (lua/reserve.lua). */
const STARTED = 1_000_000;

/** The dead letters of a namespace's workers keep about this many messages. */
export const WORKER_DEAD_LETTERS = 10_000;

export interface ReserveRequest {
  readonly workerId: string;
  /** Larger than that of the last answered call; a call that is repeated keeps its counter. */
  readonly counter: number;
  /** 1 to 1,000 messages. */
  readonly limit: number;
  /** Stop once this many bytes were taken. */
  readonly byteLimit: number;
  /** In the order in which they are looked at. */
  readonly queues: readonly string[];
  /** Messages that may start as they are taken; see `Reserved.isStarted`. Default: none. */
  readonly direct?: DirectStart;
}

/** What may start as it is taken: so many messages, of these tasks. */
export interface DirectStart {
  readonly room: number;
  /** Their names as JSON texts, a line each, behind a + those that are acknowledged late. */
  readonly tasks: string;
  /** How many workers may die of a message before it is given up. */
  readonly maxCrashes: number;
}

export interface Reserved {
  readonly tag: string;
  /** The list it was taken from. */
  readonly list: string;
  readonly envelope: string;
  /** It was started as it was taken: its task is to be entered now. */
  readonly isStarted: boolean;
  /** It was acknowledged with that. */
  readonly isAcked: boolean;
}

export interface ReserveReply {
  readonly nowMs: number;
  /** Elements that were no message; they are in the worker dead letters. */
  readonly deadLetters: number;
  /** Keys of our queues that hold something other than a list. */
  readonly wrongTypes: readonly string[];
  readonly messages: readonly Reserved[];
}

/**
 * Takes messages off their queues into unacked. Repeated with the same counter it answers the same messages, as far as
 * the worker still holds them.
 */
export async function reserve(redis: Redis, namespace: string, request: ReserveRequest): Promise<ReserveReply> {
  const worker = workerKeys(namespace, request.workerId);
  const lists = KOMBU.prioritySteps.flatMap((step) => request.queues.map((queue) => queueList(queue, step)));
  const reply = listReply(
    script,
    await script.run(
      redis,
      [
        ...holderKeys(namespace, request.workerId),
        worker.direct,
        worker.waiting,
        namespaceKeys(namespace).crashes,
        ...lists,
      ],
      [
        request.workerId,
        request.counter,
        request.limit,
        request.byteLimit,
        WORKER_DEAD_LETTERS,
        request.direct?.room ?? 0,
        request.direct?.tasks ?? '',
        request.direct?.maxCrashes ?? 0,
        ...request.queues.map((queue) => `, "", ${JSON.stringify(queue)}]`),
      ],
    ),
  );
  const messages: Reserved[] = [];
  for (let at = 3; at < reply.length; at += 3) {
    const number = integerReply(script, reply[at]);
    messages.push({
      list: lists[(Math.abs(number) % STARTED) - 1] ?? '',
      tag: textReply(script, reply[at + 1]!),
      envelope: textReply(script, reply[at + 2]!),
      isStarted: number < 0 || number > STARTED,
      isAcked: number < 0,
    });
  }
  return {
    nowMs: integerReply(script, reply[0]),
    deadLetters: integerReply(script, reply[1]),
    wrongTypes: listReply(script, reply[2]!).map(String),
    messages,
  };
}

/** KEYS[1..6] of `reserve` and `restore`. */
export function holderKeys(namespace: string, workerId: string): string[] {
  const names = namespaceKeys(namespace);
  const worker: WorkerKeys = workerKeys(namespace, workerId);
  return [names.workers, worker.state, worker.reserved, KOMBU.unacked, KOMBU.unackedIndex, names.workerDeadLetters];
}
