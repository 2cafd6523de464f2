import type { Redis } from 'ioredis';
import { type ShardKeys, shardKeys } from '../../lua/keys.ts';
import { headerRecord } from './content.ts';
import type { Look } from './look.ts';
import type { JournalRecord } from './record-file.ts';

/** Schedules read at once: about 1 ms of Redis. */
const PAGE = 300;

/** How every file of a journal begins. */
export function openingRecords({ identity, sequences, meta, aliveMs }: Omit<Look, 'runId'>): JournalRecord[] {
  return [headerRecord({ ...identity, sequences }), ['meta', ...[...meta].flat()], ['alive', String(aliveMs)]];
}

/**
 * The records of a whole namespace, some at a time, read from Redis while it is in use. What changes meanwhile may be in
 * them or not; the change stream, from the start's sequences on, brings everything up to date.
 */
export async function* scanNamespace(redis: Redis, start: Look): AsyncGenerator<readonly JournalRecord[]> {
  yield openingRecords(start);
  const { namespace, shards } = start.identity;
  for (let shard = 0; shard < shards; shard++) {
    const keys = shardKeys(namespace, shard);
    yield [['shard', String(shard), (await redis.hget(keys.counts, 'templates')) ?? '0']];
    // Shared texts first: a definition without its own is left out when it is restored.
    for await (const page of scanHash(redis, keys.templates))
      yield page.map(([number, text]) => ['template', String(shard), `${number}\x1f${text}`]);
    for await (const page of scanHash(redis, keys.definitions)) yield await putRecords(redis, shard, keys, page);
  }
  yield [['end']];
}

type Pairs = readonly (readonly [field: string, value: string])[];

/** The fields and values of a hash, some at a time; those that are there throughout at least once. */
export async function* scanHash(redis: Redis, key: string): AsyncGenerator<Pairs> {
  let cursor = '0';
  do {
    const [next, flat] = await redis.hscan(key, cursor, 'COUNT', PAGE);
    cursor = next;
    const pairs: [string, string][] = [];
    for (let i = 0; i + 1 < flat.length; i += 2) pairs.push([flat[i]!, flat[i + 1]!]);
    // Small hashes come whole, whatever the count.
    for (let i = 0; i < pairs.length; i += PAGE) yield pairs.slice(i, i + PAGE);
  } while (cursor !== '0');
}

async function putRecords(redis: Redis, shard: number, keys: ShardKeys, page: Pairs): Promise<JournalRecord[]> {
  const ids = page.map(([id]) => id);
  const [due, completed, runs, held] = await Promise.all([
    redis.zmscore(keys.due, ...ids),
    redis.zmscore(keys.completed, ...ids),
    redis.hmget(keys.runs, ...ids),
    redis.hmget(keys.held, ...ids),
  ]);
  return page.map(([id, definition], i) => {
    const state = [due[i], completed[i], runs[i], held[i]].map((value) => value ?? '');
    return ['put', String(shard), [id, definition, ...state].join('\x1e')];
  });
}
