import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { clearNamespace } from '../lua/delete-namespace.ts';
import type { NamespaceKeys } from '../lua/keys.ts';
import { openNamespace } from '../lua/open-namespace.ts';
import { takeAbsent } from '../lua/take-absent.ts';
import { RingbeatError } from '../protocol/errors.ts';

/** Version of the key model. */
const FORMAT = '1';

/** How long others keep out of a namespace that is being cleared, and how often to look whether they have filled it, ms. */
const CLEARING_MS = 60_000;
const LOOK_AGAIN_MS = 100;

/** Settings that `ringbeat namespace set` changes, with the name of each in the meta record. */
export const SETTINGS = {
  queueCap: 'queue_cap',
  misfireThresholdMs: 'misfire_threshold_ms',
  keepCompletedMs: 'keep_completed_ms',
  recoveryRate: 'recovery_rate',
  missedFirst: 'missed_first',
  delayedQueues: 'delayed_queues',
} as const;

export interface NamespaceSettings {
  /** Most messages in a queue whose schedule does not say otherwise. */
  readonly queueCap: number;
  /** A schedule whose oldest undispatched run is more overdue has missed runs. */
  readonly misfireThresholdMs: number;
  /** How long a completed one-shot is kept. */
  readonly keepCompletedMs: number;
  /** Missed runs that all nodes together send per second; 0: as fast as it goes. */
  readonly recoveryRate: number;
  /** 1 when missed runs go before current ones, else 0. */
  readonly missedFirst: number;
  /** Queues with a list `<queue>.delayed` beside them, from which beat nodes take messages to park them. */
  readonly delayedQueues: readonly string[];
}

export interface Namespace extends NamespaceSettings {
  readonly name: string;
  /** Unique to this creation of the namespace; later ones are greater, as texts. */
  readonly epoch: string;
  readonly shards: number;
}

/** The namespace's record; null when there is none. Throws NAMESPACE_FORMAT. */
export async function readNamespace(redis: Redis, names: NamespaceKeys, name: string): Promise<Namespace | null> {
  const meta = await openNamespace(redis, names, null);
  return meta.size === 0 ? null : parseNamespace(name, meta);
}

/** What a beat node wants of its namespace; `shards` null: any number. */
export type WantedNamespace = NamespaceSettings & { readonly shards: number | null };

/**
 * Creates the namespace with these settings, or joins the one that is there, waiting while somebody restores it. Throws
 * NAMESPACE_SHARDS when it has another number of shards than the one asked for, NAMESPACE_FORMAT when it is of another
 * version.
 */
export async function joinNamespace(
  redis: Redis,
  names: NamespaceKeys,
  name: string,
  wanted: WantedNamespace,
): Promise<Namespace> {
  for (;;) {
    const namespace = (await readNamespace(redis, names, name)) ?? (await createNamespace(redis, names, name, wanted));
    if (namespace !== null) {
      requireShards(namespace, wanted.shards);
      return namespace;
    }
    await sleep(LOOK_AGAIN_MS);
  }
}

/** Throws NAMESPACE_SHARDS when the namespace has another number of shards than this; null: any will do. */
export function requireShards({ name, shards }: Pick<Namespace, 'name' | 'shards'>, wanted: number | null): void {
  if (wanted !== null && shards !== wanted)
    throw new RingbeatError('NAMESPACE_SHARDS', { namespace: name, stored: shards, given: wanted });
}

/** Null when somebody else fills it at this moment. */
async function createNamespace(
  redis: Redis,
  names: NamespaceKeys,
  name: string,
  wanted: WantedNamespace,
): Promise<Namespace | null> {
  const cleared = await clearRemains(redis, names, name);
  if (cleared === 'taken') return null;
  const meta = await openNamespace(redis, names, {
    epoch: await newEpoch(redis),
    settings: {
      format: FORMAT,
      shards: String(wanted.shards ?? DEFAULT_SHARDS),
      ...Object.fromEntries(
        Object.entries(SETTINGS).map(([key, field]) => [field, String(wanted[key as keyof NamespaceSettings])]),
      ),
    },
    node: cleared.by,
  });
  return meta.size === 0 ? null : parseNamespace(name, meta);
}

/** A UUID of version 7 by Redis's clock: of two namespaces of one name, the later one has the greater epoch. */
async function newEpoch(redis: Redis): Promise<string> {
  const [seconds, micros] = await redis.time();
  const ms = Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
  const hex = ms.toString(16).padStart(12, '0');
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7${randomUUID().slice(15)}`;
}

/**
 * Clears what a deletion or a restoration that was cut off has left, so that nobody takes it for his own. Answers who has
 * the right to fill the namespace now, '' where nothing was left; `taken` when somebody else fills it at this moment.
 * Looks at every key of the database, but only where something was left.
 */
async function clearRemains(redis: Redis, names: NamespaceKeys, name: string): Promise<{ by: string } | 'taken'> {
  if ((await redis.exists(names.tombstone, names.restoring)) === 0) return { by: '' };
  const by = randomUUID();
  if (!(await takeAbsent(redis, names, by, CLEARING_MS))) return 'taken';
  await clearNamespace(redis, names, name);
  return { by };
}

/** Ends a deletion that was cut off; the epoch of what was deleted, null when nothing was or the namespace is there. */
export async function finishDeletion(redis: Redis, names: NamespaceKeys, name: string): Promise<string | null> {
  const [exists, epoch] = await Promise.all([redis.exists(names.meta), redis.get(names.tombstone)]);
  if (exists === 1 || epoch === null) return null;
  if ((await clearRemains(redis, names, name)) === 'taken') return null;
  await redis.del(names.restoring);
  return epoch;
}

export const DEFAULT_SHARDS = 16;

/** Reads a meta record. Throws NAMESPACE_FORMAT. */
export function parseNamespace(name: string, meta: ReadonlyMap<string, string>): Namespace {
  const format = meta.get('format') ?? 'none';
  if (format !== FORMAT)
    throw new RingbeatError('NAMESPACE_FORMAT', { namespace: name, stored: format, known: FORMAT });
  const numberOf = (field: string) => Number(meta.get(field));
  return {
    name,
    epoch: meta.get('epoch')!,
    shards: numberOf('shards'),
    queueCap: numberOf(SETTINGS.queueCap),
    misfireThresholdMs: numberOf(SETTINGS.misfireThresholdMs),
    keepCompletedMs: numberOf(SETTINGS.keepCompletedMs),
    recoveryRate: numberOf(SETTINGS.recoveryRate),
    missedFirst: numberOf(SETTINGS.missedFirst),
    delayedQueues: (meta.get(SETTINGS.delayedQueues) ?? '').split(',').filter((queue) => queue !== ''),
  };
}
