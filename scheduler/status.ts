import type { Redis } from 'ioredis';
import { countShard, type ShardCounts } from '../lua/count-shard.ts';
import { decodeShared, decodeTemplate } from '../lua/definition.ts';
import { KOMBU, type NamespaceKeys, queueLists, shardKeys } from '../lua/keys.ts';
import { readLateness } from '../lua/lateness.ts';
import { decodeScore } from '../lua/score.ts';
import type { Namespace } from '../registry/namespace.ts';
import type { NodeStatus, QueueStatus, ShardStatus, SystemStats } from './api/system.ts';

/** What is further past due than this counts as overdue. */
const OVERDUE_MS = 100;
const RATE_WINDOW_MS = 10_000;
/** Templates of one shard that are read for their queues' names. */
const MAX_TEMPLATES = 5_000;

/** What a node writes of itself with every heartbeat. */
export interface NodeInfo {
  readonly hostname: string;
  readonly pid: number;
  readonly version: string;
  readonly startedAtMs: number;
  readonly rate: number;
}

export async function readNodes(
  redis: Redis,
  names: NamespaceKeys,
  owners: ReadonlyMap<string, readonly number[]>,
): Promise<NodeStatus[]> {
  const flat = (await redis.zrange(names.nodes, '0', '999', 'WITHSCORES')).map(String);
  const ids = flat.filter((_, i) => i % 2 === 0);
  if (ids.length === 0) return [];
  const infos = await redis.hmget(names.nodeInfo, ...ids);
  return ids.flatMap((id, i) => {
    const text = infos[i];
    if (text == null) return [];
    const info = JSON.parse(text) as NodeInfo;
    return [{ id, ...info, lastSeenAtMs: Number(flat[2 * i + 1]), shards: owners.get(id) ?? [] }];
  });
}

export async function readShards(
  redis: Redis,
  { name, shards }: Namespace,
  ownerOf: (shard: number) => string | null,
): Promise<ShardStatus[]> {
  const ids = Array.from({ length: shards }, (_, shard) => shard);
  return Promise.all(
    ids.map(async (id) => {
      const keys = shardKeys(name, id);
      const [head, { schedules, overdue }] = await Promise.all([
        redis.zrange(keys.due, '0', '0', 'WITHSCORES'),
        countShard(redis, keys, OVERDUE_MS),
      ]);
      const nextDueAtMs = head[1] === undefined ? null : decodeScore(head[1]).atMs;
      return { id, owner: ownerOf(id), schedules, nextDueAtMs, overdue };
    }),
  );
}

/** Every queue that a schedule is sent to, by name. */
export async function readQueues(redis: Redis, namespace: Namespace): Promise<QueueStatus[]> {
  const caps = new Map<string, number>();
  const refused = new Map<string, number>();
  const shards = Array.from({ length: namespace.shards }, (_, shard) => shardKeys(namespace.name, shard));
  await Promise.all(
    shards.map(async (keys) => {
      let cursor = '0';
      let seen = 0;
      do {
        const [next, flat] = await redis.hscan(keys.templates, cursor, 'COUNT', 500);
        cursor = next;
        for (let i = 1; i < flat.length; i += 2) {
          // Calendars and exclusions lie among them.
          if (decodeShared(flat[i]!).kind !== 'template') continue;
          const { queue, queueCap } = decodeTemplate(flat[i]!);
          caps.set(queue, Math.max(caps.get(queue) ?? 0, queueCap ?? namespace.queueCap));
          seen += 1;
        }
      } while (cursor !== '0' && seen < MAX_TEMPLATES);
      for (const [field, count] of Object.entries(await redis.hgetall(keys.counts))) {
        if (!field.startsWith('refused:')) continue;
        const queue = field.slice('refused:'.length);
        refused.set(queue, (refused.get(queue) ?? 0) + Number(count));
      }
    }),
  );
  const queues = [...new Set([...caps.keys(), ...refused.keys()])].sort();
  return Promise.all(
    queues.map(async (name) => {
      const lengths = await Promise.all(queueLists(name).map((list) => listLength(redis, list)));
      return {
        name,
        length: lengths.reduce((sum, length) => sum + length, 0),
        byPriority: new Map(KOMBU.prioritySteps.map((step, i) => [step, lengths[i]!])),
        cap: caps.get(name) ?? namespace.queueCap,
        refused: refused.get(name) ?? 0,
      };
    }),
  );
}

export async function readStats(
  redis: Redis,
  names: NamespaceKeys,
  { name, shards }: Namespace,
  nowMs: number,
): Promise<SystemStats> {
  const all = Array.from({ length: shards }, (_, shard) => shardKeys(name, shard));
  const [lateness, counts, totals, workerDeadLetters] = await Promise.all([
    readLateness(redis, all, nowMs - RATE_WINDOW_MS, nowMs),
    Promise.all(all.map((keys) => countShard(redis, keys, OVERDUE_MS))),
    Promise.all(all.map((keys) => redis.hmget(keys.counts, ...TOTALS))),
    redis.xlen(names.workerDeadLetters),
  ]);
  const sum = (field: keyof ShardCounts) => counts.reduce((total, shard) => total + shard[field], 0);
  const total = (name: (typeof TOTALS)[number]) =>
    totals.reduce((sum, shard) => sum + Number(shard[TOTALS.indexOf(name)] ?? 0), 0);
  const percentile = (share: number) => (lateness.count === 0 ? null : lateness.percentile(share));
  return {
    schedules: sum('schedules'),
    enabled: sum('enabled'),
    parked: sum('parked'),
    overdue: sum('overdue'),
    inFlight: sum('inFlight'),
    missed: sum('missed'),
    deadLetters: sum('deadLetters') + workerDeadLetters,
    dispatched: total('dispatched'),
    rate: lateness.sweptCount / (RATE_WINDOW_MS / 1_000),
    lateness: { p50: percentile(0.5), p99: percentile(0.99), p999: percentile(0.999), max: percentile(1) },
    refused: total('refused'),
    misfired: total('misfired'),
    skipped: total('skipped'),
    recovered: total('recovered'),
  };
}

/** What a shard counts from the creation of the namespace on. */
const TOTALS = ['dispatched', 'refused', 'misfired', 'skipped', 'recovered'] as const;

/** A key of another type is no queue, and has no messages. */
async function listLength(redis: Redis, list: string): Promise<number> {
  return redis.llen(list).catch((error: unknown) => {
    if (error instanceof Error && error.message.startsWith('WRONGTYPE')) return 0;
    throw error;
  });
}
