import type { Redis } from 'ioredis';
import { type NamespaceKeys, shardKeys } from './keys.ts';

/**
 * What was given up: runs and parked messages that a shard could not send (`lua/dispatch.lua`), and messages that no worker
 * could use or finish (`lua/reserve.lua`, `settle.lua`, `restore.lua`, `recover-runs.lua`).
 */
export interface DeadLetter {
  /** `<shard>:<entry of its stream>`; `w:<entry>` for those of workers. */
  readonly id: string;
  /** When it was given up, ms since epoch. */
  readonly atMs: number;
  readonly kind: LetterKind;
  /** The schedule's id; null for a message. */
  readonly schedule: string | null;
  /** When the run was due, ms since epoch; null for a message. */
  readonly dueMs: number | null;
  /** The list or queue that a worker took it from; null where that is not known. */
  readonly queue: string | null;
  readonly reason: string;
  /** The definition of the schedule, or the message, as it was found. */
  readonly data: Buffer;
}

export const LETTER_KINDS = ['schedule', 'parked', 'message'] as const;

export type LetterKind = (typeof LETTER_KINDS)[number];

/** The streams of a namespace that has so many shards, each under the name that letters' ids begin with. */
export function letterStreams(namespace: string, names: NamespaceKeys, shards: number): Map<string, string> {
  const streams = new Map([['w', names.workerDeadLetters]]);
  for (let shard = 0; shard < shards; shard++) streams.set(String(shard), shardKeys(namespace, shard).deadLetters);
  return streams;
}

/** Letters of one stream, newest first, from `newest` back (`+`, an entry's id, or one after `(`, which is left out). */
export async function readLetters(
  redis: Redis,
  [name, key]: readonly [name: string, key: string],
  newest: string,
  count: number,
): Promise<DeadLetter[]> {
  const entries = await redis.xrevrangeBuffer(key, newest, '-', 'COUNT', count);
  return entries.map((entry) => letterOf(name, entry));
}

/** The same, oldest first, from `oldest` up to the entry `newest`. */
export async function readLettersUp(
  redis: Redis,
  [name, key]: readonly [name: string, key: string],
  oldest: string,
  newest: string,
  count: number,
): Promise<DeadLetter[]> {
  const entries = await redis.xrangeBuffer(key, oldest, newest, 'COUNT', count);
  return entries.map((entry) => letterOf(name, entry));
}

/** The part of a letter's id that names its entry. */
export function entryOf(letter: Pick<DeadLetter, 'id'>): string {
  return letter.id.slice(letter.id.indexOf(':') + 1);
}

function letterOf(stream: string, [entryId, flat]: [Buffer, Buffer[]]): DeadLetter {
  const fields = new Map<string, Buffer>();
  for (let i = 0; i + 1 < flat.length; i += 2) fields.set(String(flat[i]), flat[i + 1]!);
  const text = (name: string) => fields.get(name)?.toString() ?? '';
  const entry = entryId.toString();
  const kind = stream === 'w' ? 'message' : text('kind') === 'schedule' ? 'schedule' : 'parked';
  const queue = text('queue').replace(/\x06\x16\d$/, '');
  return {
    id: `${stream}:${entry}`,
    atMs: Number(entry.slice(0, entry.indexOf('-'))),
    kind,
    schedule: kind === 'schedule' ? text('id') : null,
    dueMs: kind === 'schedule' ? Number(text('due')) : null,
    queue: queue === '' ? null : queue,
    reason: text('reason'),
    data: fields.get(stream === 'w' ? 'message' : 'data') ?? Buffer.alloc(0),
  };
}
