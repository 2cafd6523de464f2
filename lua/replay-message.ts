import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { defineScript, textReply } from './script.ts';

const script = defineScript('replay-message');

/** `gone`: there is no such letter (any more); `full`: the queue is at its cap; `wrong`: one of its keys is no list. */
export type ReplayMessageOutcome = 'replayed' | 'gone' | 'full' | 'wrong';

export interface ReplayMessageRequest {
  readonly epoch: string;
  /** Key of the stream that the letter lies in, and its entry there. */
  readonly stream: string;
  readonly entry: string;
  readonly queue: string;
  /** The one of the queue's lists that it goes to. */
  readonly list: string;
  /** Most messages in the queue. */
  readonly queueCap: number;
  /** The message, with a delivery tag that no other has. */
  readonly envelope: string;
}

/** Pushes a message that was given up to its queue again, once. Throws NAMESPACE_GONE. */
export async function replayMessage(
  redis: Redis,
  names: NamespaceKeys,
  { epoch, stream, entry, list, queue, queueCap, envelope }: ReplayMessageRequest,
): Promise<ReplayMessageOutcome> {
  const reply = await script.run(redis, [names.meta, stream], [epoch, entry, list, queue, queueCap, envelope]);
  return textReply(script, reply) as ReplayMessageOutcome;
}
