import type { Redis } from 'ioredis';
import type { ShardKeys } from './keys.ts';

/**
 * Runs worth telling one by one: all while few are sent; those more than 100 ms late, of a trigger or backfill, and those
 * that were not sent, always (at most 16 per shard and call of `dispatch`). One entry of the stream per call, its items joined
 * by U+001E: id, kind, due ms, run, how many, lateness ms, task id.
 */
export interface Occurrence {
  readonly kind: 'dispatched' | 'misfired' | 'refused' | 'skipped';
  readonly dueMs: number;
  readonly run: number;
  /** How many occurrences from `dueMs` on the policy dropped; 1 for all other kinds. */
  readonly count: number;
  /** When it was sent or dropped, Redis time, ms since epoch. */
  readonly atMs: number;
  /** ms; null where it was not sent. */
  readonly latenessMs: number | null;
  readonly taskId: string | null;
}

const KINDS: Readonly<Record<string, Occurrence['kind']>> = {
  d: 'dispatched',
  m: 'misfired',
  r: 'refused',
  s: 'skipped',
};

/** Entries read in one go, and in all: what one question may cost. */
const PAGE = 500;
const MOST_READ = 5_000;

/** The noted runs of a schedule, newest first, at most `limit`. */
export async function readOccurrences(redis: Redis, keys: ShardKeys, id: string, limit: number): Promise<Occurrence[]> {
  const found: Occurrence[] = [];
  let before = '+';
  for (let read = 0; read < MOST_READ && found.length < limit; read += PAGE) {
    const entries = await redis.xrevrange(keys.occurrences, before, '-', 'COUNT', PAGE);
    for (const [entryId, [, items = '']] of entries) {
      const atMs = Number(entryId.slice(0, entryId.indexOf('-')));
      if (items.includes(`${id}\x1f`)) found.push(...occurrencesOf(items, id, atMs).reverse());
      before = `(${entryId}`;
    }
    if (entries.length < PAGE) break;
  }
  return found.slice(0, limit);
}

function occurrencesOf(items: string, id: string, atMs: number): Occurrence[] {
  return items.split('\x1e').flatMap((item) => {
    const [itemId, kind = '', due, run, count, lateness, taskId] = item.split('\x1f');
    if (itemId !== id) return [];
    return [
      {
        kind: KINDS[kind]!,
        dueMs: Number(due),
        run: Number(run),
        count: Number(count),
        atMs,
        latenessMs: lateness === '' ? null : Number(lateness),
        taskId: taskId === '' || taskId === undefined ? null : taskId,
      },
    ];
  });
}
