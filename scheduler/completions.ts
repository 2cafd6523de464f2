import type { Redis } from 'ioredis';
import { completeRuns, type EndedRun } from '../lua/complete-runs.ts';
import { keepSubscribed } from '../lua/connection.ts';
import { type NamespaceKeys, resultKey, type ShardKeys } from '../lua/keys.ts';
import { messageOf } from '../protocol/errors.ts';
import { loopWishOf } from '../protocol/loop.ts';
import type { Namespace } from '../registry/namespace.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';

const EVERY_MS = 1_000;

/** Results that arrive within this time go into one call per shard, ms. */
const GATHER_MS = 5;

/** Runs in one call, and runs of a shard whose results are looked for in one second. */
const BATCH = 400;

/** Task ids of runs in flight: their fourth group names the shard (lua/include/message-template.lua). */
const RESULTS = resultKey('????????-????-8???-a???-*');
const TASK_ID = /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a([0-9a-f]{3})-[0-9a-f]{12}$/;

/** States of a result record in which a run has ended; RETRY is none. */
const OUTCOMES: Readonly<Record<string, EndedRun['outcome']>> = {
  SUCCESS: 'success',
  FAILURE: 'failure',
  REVOKED: 'failure',
};

export interface CompletionsOptions {
  readonly redis: Redis;
  /** A connection of its own, for the subscription. */
  readonly subscriber: Redis;
  readonly names: NamespaceKeys;
  readonly log: Log;
  /** Keys of every shard by its number. */
  readonly allShards: readonly ShardKeys[];
  /** The numbers of this node's shards. */
  owned(): readonly number[];
  namespace(): Namespace | null;
}

/**
 * Learns how runs that Celery workers took have ended: from the result records that they publish, of which one message may
 * be lost; so each second a page of the runs in flight is looked up as well, and those that can no longer be running end.
 */
export class Completions implements Service {
  readonly #options: CompletionsOptions;
  readonly #loop: Loop;
  readonly #gathered = new Map<number, Map<string, EndedRun>>();
  readonly #cursors = new Map<number, string>();
  #flushTimer: NodeJS.Timeout | null = null;

  constructor(options: CompletionsOptions) {
    this.#options = options;
    this.#loop = new Loop('completions', options.log, () => this.#look());
  }

  start(): void {
    const { subscriber, log } = this.#options;
    subscriber.on('pmessage', (_pattern: string, channel: string, record: string) => this.#published(channel, record));
    keepSubscribed(subscriber, 'psubscribe', RESULTS).catch((error: unknown) =>
      log.warn({ event: 'subscribe_failed', reason: messageOf(error) }),
    );
    this.#loop.start();
  }

  async stop(): Promise<void> {
    if (this.#flushTimer !== null) clearTimeout(this.#flushTimer);
    await this.#loop.stop();
  }

  #published(channel: string, record: string): void {
    const taskId = channel.slice(resultKey('').length);
    const shard = shardOfTask(taskId);
    // Every node hears of it; the shard's owner acts, and the others find it in their turn should it have died.
    if (shard === null || !this.#options.owned().includes(shard)) return;
    const ended = endedRun(taskId, record);
    if (ended === null) return;
    const ofShard = this.#gathered.get(shard);
    if (ofShard === undefined) this.#gathered.set(shard, new Map([[taskId, ended]]));
    else ofShard.set(taskId, ended);
    this.#flushTimer ??= setTimeout(() => this.#flush(), GATHER_MS);
  }

  #flush(): void {
    this.#flushTimer = null;
    for (const [shard, runs] of this.#gathered) {
      this.#complete(shard, [...runs.values()], false).catch((error: unknown) => {
        // Looked up again within seconds.
        this.#options.log.warn({ event: 'completion_failed', shard, reason: messageOf(error) });
      });
    }
    this.#gathered.clear();
  }

  async #look(): Promise<number> {
    if (this.#options.namespace() === null) return EVERY_MS;
    await Promise.all(this.#options.owned().map((shard) => this.#lookAt(shard)));
    return EVERY_MS;
  }

  async #lookAt(shard: number): Promise<void> {
    const { redis, allShards } = this.#options;
    const keys = allShards[shard]!;
    const [cursor, flat] = await redis.hscan(keys.flights, this.#cursors.get(shard) ?? '0', 'COUNT', BATCH);
    this.#cursors.set(shard, cursor);
    const taskIds = flat.filter((_, at) => at % 2 === 0);
    const [records, deadlines] = await Promise.all([
      taskIds.length === 0 ? [] : redis.mget(...taskIds.map(resultKey)),
      redis.exists(keys.deadlines),
    ]);
    const runs = taskIds.flatMap((taskId, at) => {
      const record = records[at];
      const ended = record == null ? null : endedRun(taskId, record);
      return ended === null ? [] : [ended];
    });
    if (runs.length > 0 || deadlines > 0) await this.#complete(shard, runs, deadlines > 0);
  }

  async #complete(shard: number, runs: readonly EndedRun[], checksDeadlines: boolean): Promise<void> {
    const { redis, names, allShards, log } = this.#options;
    const namespace = this.#options.namespace();
    if (namespace === null) return;
    for (let from = 0; from === 0 || from < runs.length; from += BATCH) {
      const { lost } = await completeRuns(redis, names, allShards[shard]!, {
        epoch: namespace.epoch,
        shard,
        runs: runs.slice(from, from + BATCH),
        checksDeadlines: checksDeadlines && from === 0,
      });
      if (lost > 0) {
        log.warn({
          event: 'runs_lost',
          shard,
          runs: lost,
          reason: 'no result came while they could still have been running; what waited for them goes on',
        });
      }
    }
  }
}

function shardOfTask(taskId: string): number | null {
  const match = TASK_ID.exec(taskId);
  return match === null ? null : Number.parseInt(match[1]!, 16);
}

/** How a run ended, by its result record; null when it has not, or when that is no record. */
function endedRun(taskId: string, record: string): EndedRun | null {
  let decoded: unknown;
  try {
    decoded = JSON.parse(record);
  } catch {
    // Not Celery's JSON: whatever it is, it tells nothing.
    return null;
  }
  if (typeof decoded !== 'object' || decoded === null || !('status' in decoded)) return null;
  const outcome = OUTCOMES[String(decoded.status)];
  if (outcome === undefined) return null;
  const wish = outcome === 'success' && 'result' in decoded ? loopWishOf(decoded.result) : null;
  return { taskId, outcome, wish };
}
