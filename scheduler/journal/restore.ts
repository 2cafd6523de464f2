import type { Redis } from 'ioredis';
import { finishRestore } from '../../lua/finish-restore.ts';
import { type NamespaceKeys, type ShardKeys, shardKeys } from '../../lua/keys.ts';
import { type RestoreRequest, restoreSchedules } from '../../lua/restore-schedules.ts';
import type { JournalFolder } from './folder.ts';
import { type JournalSummary, readJournal } from './read-journal.ts';
import { scanHash } from './snapshot.ts';

/** Pairs and bytes of one script call: a few ms of Redis, which has nothing else to do. */
const BATCH_STEPS = 500;
const BATCH_BYTES = 524_288;
/** Calls on their way: enough that Redis never waits for us, and few enough to hold in memory. */
const IN_FLIGHT = 8;
/** After this long without a call another node may begin anew, ms. */
export const RESTORE_LEASE_MS = 5_000;
/** Ids that are looked at to tell how many were left out. */
const MAX_LEFT_OUT = 10_000;

export interface RestoreOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  /** The node that restores; it has taken the right to (`takeAbsent`). */
  readonly node: string;
  readonly floorMs: number;
  readonly folder: JournalFolder;
  readonly summary: JournalSummary;
}

export interface Restored {
  readonly schedules: number;
  /** Schedules whose template is not in the journal. */
  readonly leftOut: number;
}

/** Streams a journal into Redis, the namespace's record last. Throws RESTORE_TAKEN, and whatever Redis throws. */
export async function restoreJournal(options: RestoreOptions): Promise<Restored> {
  const { redis, names, node, floorMs, folder, summary } = options;
  const sender = new Sender(redis, names, { node, floorMs, leaseMs: RESTORE_LEASE_MS });
  const shards = Array.from({ length: summary.shards }, (_, shard) => shardKeys(summary.namespace, shard));
  for (const [shard, keys] of shards.entries()) {
    const begin = { sequence: summary.sequences[shard]!, templateNumber: summary.templateNumbers[shard]! };
    await sender.send(keys, begin, []);
  }
  const batches = shards.map((keys) => new Batch(keys));
  await readJournal(folder, async (shard, steps) => {
    const batch = batches[shard]!;
    for (let i = 0; i < steps.length; i += 2) {
      batch.add(steps[i]!, steps[i + 1]!);
      if (batch.isFull) await sender.send(batch.keys, null, batch.take());
    }
  });
  for (const batch of batches) await sender.send(batch.keys, null, batch.take());
  await sender.finish();
  for (const keys of shards) await tidyTexts(redis, keys, sender);
  await sender.finish();
  const leftOut = await countMissing(redis, sender.leftOut);
  const counts = await Promise.all(shards.map((keys) => redis.hlen(keys.definitions)));
  await finishRestore(redis, names, node, new Map([...summary.meta, ['restores', String(summary.restores + 1)]]));
  return { schedules: counts.reduce((sum, count) => sum + count, 0), leftOut };
}

/** Keeps some calls on their way. They run in the order in which they were sent: one connection is used. */
class Sender {
  readonly #redis: Redis;
  readonly #names: NamespaceKeys;
  readonly #request: Pick<RestoreRequest, 'node' | 'floorMs' | 'leaseMs'>;
  readonly #onTheirWay: Promise<void>[] = [];
  #failure: unknown = null;
  /** Schedules that could not be stored when they came; a later call may have stored them. */
  readonly leftOut: { readonly keys: ShardKeys; readonly id: string }[] = [];

  constructor(redis: Redis, names: NamespaceKeys, request: Pick<RestoreRequest, 'node' | 'floorMs' | 'leaseMs'>) {
    this.#redis = redis;
    this.#names = names;
    this.#request = request;
  }

  async send(keys: ShardKeys, begin: RestoreRequest['begin'], steps: readonly string[]): Promise<void> {
    if (begin === null && steps.length === 0) return;
    if (this.#onTheirWay.length >= IN_FLIGHT) await this.#onTheirWay.shift();
    if (this.#failure !== null) throw this.#failure;
    const call = restoreSchedules(this.#redis, this.#names, keys, { ...this.#request, begin, steps }).then(
      (ids) => {
        for (const id of ids) if (this.leftOut.length < MAX_LEFT_OUT) this.leftOut.push({ keys, id });
      },
      (error: unknown) => {
        this.#failure ??= error;
      },
    );
    this.#onTheirWay.push(call);
  }

  async finish(): Promise<void> {
    await Promise.all(this.#onTheirWay.splice(0));
    if (this.#failure !== null) throw this.#failure;
  }
}

/** What is to be done to one shard next. */
class Batch {
  readonly keys: ShardKeys;
  #steps: string[] = [];
  #bytes = 0;

  constructor(keys: ShardKeys) {
    this.keys = keys;
  }

  get isFull(): boolean {
    return this.#steps.length >= 2 * BATCH_STEPS || this.#bytes >= BATCH_BYTES;
  }

  add(kind: string, text: string): void {
    this.#steps.push(kind, text);
    this.#bytes += text.length;
  }

  take(): readonly string[] {
    const steps = this.#steps;
    this.#steps = [];
    this.#bytes = 0;
    return steps;
  }
}

/** Shared texts whose last schedule went while the journal was written have no use now. */
async function tidyTexts(redis: Redis, keys: ShardKeys, sender: Sender): Promise<void> {
  for await (const texts of scanHash(redis, keys.templates))
    await sender.send(
      keys,
      null,
      texts.flatMap(([number]) => ['tidy', number]),
    );
}

async function countMissing(redis: Redis, left: Sender['leftOut']): Promise<number> {
  const there = await Promise.all(left.map(({ keys, id }) => redis.hexists(keys.definitions, id)));
  return new Set(left.filter((_, i) => there[i] === 0).map(({ id }) => id)).size;
}
