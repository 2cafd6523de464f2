const HEADER = '"ringbeat": {"schedule": "';
const DUE = '", "due": ';

/** Ids of the load: `t12/m1234` is schedule 1,234, of the tenant that its first hundred share. */
export function scheduleId(index: number): string {
  return `t${Math.floor(index / 100)}/m${index}`;
}

/** The index of an id that `scheduleId` made; -1 of any other. */
export function scheduleIndex(id: string): number {
  return numberAt(id, id.lastIndexOf('m') + 1);
}

export interface Occurrence {
  /** -1 where the id is none of `scheduleId`. */
  readonly index: number;
  readonly dueMs: number;
}

/** Which occurrence a message is, by searching its text: an independent reader of what the dispatch script wrote. */
export function readOccurrence(message: string): Occurrence | null {
  const at = message.indexOf(HEADER);
  if (at < 0) return null;
  const idAt = at + HEADER.length;
  const idEnd = message.indexOf(DUE, idAt);
  if (idEnd < 0) return null;
  const index = numberAt(message, message.lastIndexOf('m', idEnd) + 1);
  const dueMs = numberAt(message, idEnd + DUE.length);
  return { index, dueMs };
}

/** The digits that stand at `from`, as a number; -1 where there are none. */
function numberAt(text: string, from: number): number {
  let value = -1;
  for (let at = from; at < text.length; at++) {
    const digit = text.charCodeAt(at) - 48;
    if (digit < 0 || digit > 9) break;
    value = (value < 0 ? 0 : value * 10) + digit;
  }
  return value;
}
