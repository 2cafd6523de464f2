import type { Redis } from 'ioredis';
import { type NamespaceKeys, type ShardKeys, shardKeys } from '../../lua/keys.ts';
import { fieldsOf } from '../../lua/open-namespace.ts';
import { parseNamespace } from '../../registry/namespace.ts';
import type { JournalIdentity } from './content.ts';

/** A claim older than this does not hold the floor back: it has waited too long to be about to be found, ms. */
const CLAIM_PATIENCE_MS = 60_000;

/** How the namespace stands at one moment. */
export interface Look {
  readonly identity: JournalIdentity;
  readonly meta: ReadonlyMap<string, string>;
  /** Redis's own: another one after a restart or a failover, which may have forgotten the last changes. */
  readonly runId: string;
  /** By shard: the sequence of its last change. */
  readonly sequences: readonly number[];
  /** Until this Redis time nothing due was left undispatched, ms. */
  readonly aliveMs: number;
}

/** Reads how the namespace stands; null when it is not in Redis. Throws NAMESPACE_FORMAT. */
export async function lookAt(redis: Redis, names: NamespaceKeys, namespace: string): Promise<Look | null> {
  const [info, [seconds, micros], flat] = await Promise.all([
    redis.info('server'),
    redis.time(),
    redis.call('HGETALL', names.meta) as Promise<string[]>,
  ]);
  const meta = fieldsOf(flat);
  if (meta.size === 0) return null;
  const { epoch, shards } = parseNamespace(namespace, meta);
  const nowMs = Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
  // After the time: whatever is not due any more now was dispatched.
  const states = await Promise.all(
    Array.from({ length: shards }, (_, shard) => lookAtShard(redis, shardKeys(namespace, shard))),
  );
  return {
    identity: { namespace, epoch, restores: Number(meta.get('restores') ?? 0), shards },
    meta,
    runId: /^run_id:(\S+)/m.exec(info)?.[1] ?? '',
    sequences: states.map(({ sequence }) => sequence),
    aliveMs: Math.min(
      nowMs,
      ...states.map(({ dueMs }) => dueMs - 1),
      ...states.map(({ claimMs }) => Math.max(claimMs, nowMs - CLAIM_PATIENCE_MS)),
    ),
  };
}

async function lookAtShard(
  redis: Redis,
  keys: ShardKeys,
): Promise<{ sequence: number; dueMs: number; claimMs: number }> {
  const [sequence, due, claim] = await Promise.all([
    redis.hget(keys.counts, 'changes'),
    redis.zrange(keys.due, '0', '0', 'WITHSCORES'),
    redis.zrange(keys.claims, '0', '0', 'WITHSCORES'),
  ]);
  const scoreOf = (head: readonly string[]) => (head[1] === undefined ? Infinity : Math.floor(Number(head[1])));
  return { sequence: Number(sequence ?? 0), dueMs: scoreOf(due), claimMs: scoreOf(claim) };
}
