import type { Redis } from 'ioredis';
import { KOMBU, workerKeys } from './keys.ts';
import { defineScript, integerReply, listReply, type Reply } from './script.ts';

const script = defineScript('forward');

export interface ForwardReply {
  /** Positions (from 0) of messages that the caller held no longer, so that nothing was done to them. */
  readonly late: readonly number[];
  /** Positions (from 0) of messages whose list is a key of another type: they are still held. */
  readonly stuck: readonly number[];
}

/** Moves 1 to 500 messages that `workerId` holds on into other lists, behind what waits there. */
export async function forward(
  redis: Redis,
  namespace: string,
  workerId: string,
  messages: readonly { readonly tag: string; readonly list: string }[],
): Promise<ForwardReply> {
  const { reserved, waiting } = workerKeys(namespace, workerId);
  const lists = [...new Set(messages.map(({ list }) => list))];
  const reply = await script.run(
    redis,
    [reserved, waiting, KOMBU.unacked, KOMBU.unackedIndex, ...lists],
    messages.flatMap(({ tag, list }) => [tag, lists.indexOf(list) + 1]),
  );
  const [late, stuck] = listReply(script, reply);
  const positions = (part: Reply | undefined) =>
    listReply(script, part ?? null).map((position) => integerReply(script, position) - 1);
  return { late: positions(late), stuck: positions(stuck) };
}
