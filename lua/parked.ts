import { createHash } from 'node:crypto';

/**
 * Names of parked messages. `parked` maps a task id to a message, `extra` maps it to when that goes back to its queue.
 * A message whose id is taken, by a message with another delivery tag, is `<task id>\x1f<number>`, from 1. How a message
 * is written there is told by `lua/include/parked.lua`.
 */
const SEPARATOR = '\x1f';

const MAX_ID_BYTES = 200;

/** A task id as a key of `parked`: as it is, unless it is very long or holds control characters. */
export function parkedId(taskId: string): string {
  const isPlain = taskId !== '' && Buffer.byteLength(taskId) <= MAX_ID_BYTES && /^\P{Cc}*$/u.test(taskId);
  return isPlain ? taskId : `sha1-${createHash('sha1').update(taskId).digest('hex')}`;
}

/** The first keys under which messages with this id may be. */
export function parkedMembers(taskId: string, count: number): string[] {
  const id = parkedId(taskId);
  return Array.from({ length: count }, (_, copy) => (copy === 0 ? id : `${id}${SEPARATOR}${copy}`));
}
