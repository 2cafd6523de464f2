import type { Redis } from 'ioredis';
import { connect } from '../lua/connection.ts';
import { namespaceKeys } from '../lua/keys.ts';
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
  /** Something to end before Redis does. */
  onClose(end: () => Promise<unknown>): void;
  close(): Promise<void>;
}

/** What is still running, for the signal handler of the main program. */
const open = new Set<Stage>();

export async function closeAllStages(): Promise<void> {
  await Promise.all([...open].map((stage) => stage.close()));
}

export async function openStage(aof: boolean): Promise<Stage> {
  const server = await startEmbeddedRedis({ appendOnly: aof });
  const redis = connect(server.url, { option: '--redis', name: 'ringbeat-bench', commandTimeoutMs: 60_000 });
  const endings: (() => Promise<unknown>)[] = [];
  let closing: Promise<void> | null = null;
  const stage: Stage = {
    server,
    redis,
    aof,
    async startNodes(count, others = []) {
      const nodes = await Promise.all(
        Array.from({ length: count }, async () => {
          const node = await startNode(server.url);
          endings.push(() => node.child.stop(10_000));
          return node;
        }),
      );
      await awaitRing([...others, ...nodes]);
      return nodes;
    },
    onClose: (end) => endings.push(end),
    close() {
      closing ??= (async () => {
        await Promise.allSettled(endings.map((end) => end()));
        redis.disconnect();
        await server.stop();
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

export async function shardCount(redis: Redis): Promise<number> {
  return Number(await redis.hget(namespaceKeys(NAMESPACE).meta, 'shards'));
}
