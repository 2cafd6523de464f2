import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Redis } from 'ioredis';
import { connect } from '../lua/connection.ts';
import { namespaceKeys, type ShardKeys, shardKeys } from '../lua/keys.ts';
import { type EmbeddedRedis, startEmbeddedRedis } from '../runtime/embedded-redis.ts';
import { awaitValue, type Node, startNode } from './processes.ts';

export const NAMESPACE = 'rb';
export const QUEUE = 'celery';

/** A Redis of its own with the processes around it; `close` ends them all, Redis last. */
export interface Stage {
  readonly server: EmbeddedRedis;
  readonly redis: Redis;
  readonly aof: boolean;
  /** Starts `count` beat nodes and waits until they and the `others` share the shards. */
  startNodes(count: number, others?: readonly Node[]): Promise<Node[]>;
  /** A new temporary folder, removed with the stage. */
  makeFolder(): string;
  /** Kills Redis and starts one with nothing in it at the same address; resolves when that answers. */
  loseRedis(): Promise<void>;
  /** Something to end before Redis does. */
  onClose(end: () => Promise<unknown>): void;
  close(): Promise<void>;
}

/** What is still running, for the signal handler of the main program. */
const open = new Set<Stage>();

export async function closeAllStages(): Promise<void> {
  await Promise.all([...open].map((stage) => stage.close()));
}

export interface StageOptions {
  /** More options of each beat node. */
  readonly nodeArgs?: (stage: Stage) => readonly string[];
}

export async function openStage(aof: boolean, options: StageOptions = {}): Promise<Stage> {
  let server = await startEmbeddedRedis({ appendOnly: aof });
  const redis = connect(server.url, { option: '--redis', name: 'ringbeat-bench', commandTimeoutMs: 60_000 });
  const endings: (() => Promise<unknown>)[] = [];
  const folders: string[] = [];
  let closing: Promise<void> | null = null;
  const stage: Stage = {
    get server() {
      return server;
    },
    redis,
    aof,
    async startNodes(count, others = []) {
      const nodes = await Promise.all(
        Array.from({ length: count }, async () => {
          // Nobody else uses this Redis, so no node need wait for another that may know its namespace.
          const node = await startNode(server.url, ['--create-at-once', ...(options.nodeArgs?.(stage) ?? [])]);
          endings.push(() => node.child.stop(10_000));
          return node;
        }),
      );
      await awaitRing([...others, ...nodes]);
      return nodes;
    },
    makeFolder() {
      const folder = mkdtempSync(join(tmpdir(), 'ringbeat-bench-'));
      folders.push(folder);
      return folder;
    },
    async loseRedis() {
      server.kill('SIGKILL');
      await server.exited;
      server = await startEmbeddedRedis({ appendOnly: aof, port: server.port });
    },
    onClose: (end) => endings.push(end),
    close() {
      closing ??= (async () => {
        await Promise.allSettled(endings.map((end) => end()));
        redis.disconnect();
        await server.stop();
        for (const folder of folders) rmSync(folder, { recursive: true, force: true });
        open.delete(stage);
      })();
      return closing;
    },
  };
  open.add(stage);
  return stage;
}

/** Until each of `nodes` says that there are only these and that every shard is one's of theirs. */
export async function awaitRing(nodes: readonly Node[]): Promise<void> {
  const pids = new Set(nodes.map((node) => node.pid));
  for (const { api } of nodes) {
    await awaitValue(`${nodes.length} nodes sharing the shards`, async () => {
      const [listed, shards] = await Promise.all([listNodes(api), listShards(api)]);
      const ids = new Set(listed.map((node) => node.id));
      const isComplete = listed.length === pids.size && listed.every((node) => pids.has(node.pid));
      return isComplete && shards.every((shard) => shard.owner !== null && ids.has(shard.owner)) ? true : null;
    });
  }
}

export async function listNodes(api: string): Promise<readonly { readonly id: string; readonly pid: number }[]> {
  return (await getJson<{ nodes: [] }>(`${api}/v1/nodes?limit=1000`)).nodes;
}

export async function listShards(api: string): Promise<readonly { readonly owner: string | null }[]> {
  return (await getJson<{ shards: [] }>(`${api}/v1/shards?limit=1000`)).shards;
}

export async function getJson<T>(url: string): Promise<T> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`GET ${url}: ${response.status} ${await response.text()}`);
  // The API's answers are described by its own tests; a figure that is missing here shows as NaN.
  return (await response.json()) as T;
}

/** Redis's clock, ms since epoch. */
export async function redisNowMs(redis: Redis): Promise<number> {
  const [seconds, microseconds] = await redis.time();
  return Number(seconds) * 1_000 + Number(microseconds) / 1_000;
}

/** The keys of every shard. */
export async function shardsOf(redis: Redis): Promise<ShardKeys[]> {
  const shards = Number(await redis.hget(namespaceKeys(NAMESPACE).meta, 'shards'));
  return Array.from({ length: shards }, (_, shard) => shardKeys(NAMESPACE, shard));
}

/** How many entries these keys have over all shards: sorted sets by ZCARD, hashes by HLEN. */
export async function countEntries(
  redis: Redis,
  shards: readonly ShardKeys[],
  kind: 'zcard' | 'hlen',
  key: keyof ShardKeys,
): Promise<number> {
  const pipeline = redis.pipeline();
  for (const shard of shards) pipeline[kind](shard[key]);
  const replies = (await pipeline.exec()) ?? [];
  return replies.reduce((sum, [, reply]) => sum + Number(reply), 0);
}

/** Redis's `used_memory`, bytes: everything, its own overhead included. */
export async function usedMemory(redis: Redis): Promise<number> {
  return Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1]);
}
