import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { deleteNamespace } from '../lua/delete-namespace.ts';
import type { NamespaceKeys } from '../lua/keys.ts';
import { openNamespace } from '../lua/open-namespace.ts';
import { RingbeatError } from '../protocol/errors.ts';

/** Version of the key model. */
const FORMAT = '1';

/** Settings that `ringbeat namespace set` changes, with the name of each in the meta record. */
export const SETTINGS = {
  queueCap: 'queue_cap',
  misfireThresholdMs: 'misfire_threshold_ms',
  keepCompletedMs: 'keep_completed_ms',
} as const;

export interface NamespaceSettings {
  /** Most messages in a queue whose schedule does not say otherwise. */
  readonly queueCap: number;
  /** A schedule whose oldest undispatched run is more overdue has missed runs. */
  readonly misfireThresholdMs: number;
  /** How long a completed one-shot is kept. */
  readonly keepCompletedMs: number;
}

export interface Namespace extends NamespaceSettings {
  readonly name: string;
  /** Unique to this creation of the namespace. */
  readonly epoch: string;
  readonly shards: number;
}

/** The namespace's record; null when there is none. Throws NAMESPACE_FORMAT. */
export async function readNamespace(redis: Redis, names: NamespaceKeys, name: string): Promise<Namespace | null> {
  const meta = await openNamespace(redis, names, null);
  return meta.size === 0 ? null : parseNamespace(name, meta);
}

/**
 * Creates the namespace with these settings, or joins the one that is there. Throws NAMESPACE_SHARDS when it has
 * another number of shards than the one asked for (`shards` null: any), NAMESPACE_FORMAT when it is of another version.
 */
export async function joinNamespace(
  redis: Redis,
  names: NamespaceKeys,
  name: string,
  wanted: NamespaceSettings & { readonly shards: number | null },
): Promise<Namespace> {
  await finishDeletion(redis, names, name);
  const meta = await openNamespace(redis, names, {
    epoch: randomUUID(),
    settings: {
      format: FORMAT,
      shards: String(wanted.shards ?? DEFAULT_SHARDS),
      ...Object.fromEntries(
        Object.entries(SETTINGS).map(([key, field]) => [field, String(wanted[key as keyof NamespaceSettings])]),
      ),
    },
  });
  const namespace = parseNamespace(name, meta);
  if (wanted.shards !== null && namespace.shards !== wanted.shards) {
    throw new RingbeatError('NAMESPACE_SHARDS', { namespace: name, stored: namespace.shards, given: wanted.shards });
  }
  return namespace;
}

/**
 * Clears what a deletion that was cut off has left, so that nobody takes it for his own; the epoch of what was deleted,
 * null when nothing was. Looks at every key of the database, but only where a namespace was deleted and none is now.
 */
export async function finishDeletion(redis: Redis, names: NamespaceKeys, name: string): Promise<string | null> {
  const [exists, epoch] = await Promise.all([redis.exists(names.meta), redis.get(names.tombstone)]);
  if (exists === 1 || epoch === null) return null;
  await deleteNamespace(redis, names, name, epoch);
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
  };
}
