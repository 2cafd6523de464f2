import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { announce } from '../lua/announce.ts';
import type { NamespaceKeys } from '../lua/keys.ts';
import {
  joinNamespace,
  type Namespace,
  readNamespace,
  requireShards,
  type WantedNamespace,
} from '../registry/namespace.ts';
import { monotonicMs } from '../runtime/clock.ts';
import { isAwaited } from './journal/election.ts';
import type { Journal } from './journal/journal.ts';

/** How long nobody may have announced a journal before a node creates the namespace, ms. */
const QUIET_MS = 2_000;
const LOOK_EVERY_MS = 100;

export interface JoinOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  readonly name: string;
  readonly nodeId: string;
  readonly wanted: WantedNamespace;
  /** This node's own; null when it keeps none. */
  readonly journal: Journal | null;
  /** Create it at once where it is not there, without asking the other nodes. */
  readonly createAtOnce: boolean;
}

/**
 * Joins the namespace of a node that starts. Where it is not in Redis, it may have been lost: whoever has it in his
 * journal restores it, and only when nobody says that he has for a while is it created.
 * Throws NAMESPACE_SHARDS, NAMESPACE_FORMAT.
 */
export async function joinAtStart(options: JoinOptions): Promise<Namespace> {
  const { redis, names, name, wanted, journal, createAtOnce } = options;
  let quietSinceMs = monotonicMs();
  for (;;) {
    const found = await readNamespace(redis, names, name);
    if (found !== null) {
      requireShards(found, wanted.shards);
      return found;
    }
    const isExpected = await isAnnounced(options);
    // Before it restores what it could not join then.
    const shards = journal === null ? null : await journal.shards();
    if (shards !== null) requireShards({ name, shards }, wanted.shards);
    if (isExpected) quietSinceMs = monotonicMs();
    else if (createAtOnce || monotonicMs() - quietSinceMs >= QUIET_MS) return joinNamespace(redis, names, name, wanted);
    await sleep(LOOK_EVERY_MS);
  }
}

/** Whether somebody restores the namespace, or may yet: this node itself among them, which then does its part. */
async function isAnnounced({ redis, names, nodeId, journal }: JoinOptions): Promise<boolean> {
  if (journal !== null) return (await journal.absent()).is !== 'unclaimed';
  const known = await announce(redis, names, nodeId, null);
  return known.epoch !== null || known.filledBy !== null || isAwaited(known.announcements, known.tombstone);
}
