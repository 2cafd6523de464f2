import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { type NamespaceKeys, shardKeys } from '../../lua/keys.ts';
import { setSettings } from '../../lua/set-settings.ts';
import { RingbeatError } from '../../protocol/errors.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { Log } from '../../runtime/log.ts';
import { Loop, type Service } from '../../runtime/service.ts';
import { type Change, changeRecord, isSameIdentity } from './content.ts';
import type { JournalFolder } from './folder.ts';
import { type Look, lookAt } from './look.ts';
import type { JournalSummary } from './read-journal.ts';
import { type JournalRecord, RecordWriter } from './record-file.ts';
import { Segments } from './segments.ts';
import { openingRecords, scanNamespace } from './snapshot.ts';

/** How long a read waits for changes: what it costs to be told to stop, ms. */
const BLOCK_MS = 200;
/** Entries of each shard's stream that a read takes; one may be 1 MiB. */
const READ_ENTRIES = 16;
/** How often the file is flushed to disk and the namespace looked at, ms. A power failure undoes as much. */
const LOOK_EVERY_MS = 1_000;
/** How long streams are kept for the other nodes, ms; who falls further behind begins anew. */
const TRIM_EVERY_MS = 10_000;
/** Changes since the last snapshot that make a new one worth its while, unless the snapshot itself is larger. */
const COMPACT_BYTES = 32 * 1_048_576;
/** How often to try again after the disk refused to write, ms. */
const RETRY_MS = 2_000;
/** What must be free on the disk beside the room for a snapshot. */
const SPARE_BYTES = 65_536;
/** How often to look for a namespace that is not there, ms. */
const ABSENT_MS = 200;
const CATCH_UP_MS = 10;

export interface FollowerOptions {
  /** For short commands. */
  readonly redis: Redis;
  /** A connection that may wait. */
  readonly blocking: Redis;
  readonly names: NamespaceKeys;
  readonly namespace: string;
  readonly folder: JournalFolder;
  readonly log: Log;
  /** What is in the folder now; null when there is no journal. */
  inspect(): Promise<JournalSummary | null>;
}

/** What is followed at this moment. */
interface Following {
  readonly first: Look;
  readonly segments: Segments;
  /** By shard: the sequence of the last change that was written. */
  readonly sequences: number[];
  /** The namespace's record as it was last written. */
  meta: string;
  /** Up to which sequences the streams are trimmed next, and since when these are on disk. */
  trim: { readonly sequences: readonly number[]; readonly sinceMs: number };
  snapshot: { readonly done: Promise<void>; readonly abort: AbortController } | null;
  /** Why the last snapshot could not be written. */
  failure: unknown;
}

/**
 * Copies a namespace to disk: a snapshot first, then every change, from the shards' change streams. Begins anew where a
 * stream was trimmed before it was read, where Redis may have forgotten something, and after the disk refused to write.
 */
export class Follower implements Service {
  readonly #options: FollowerOptions;
  readonly #loop: Loop;
  #following: Following | null = null;
  #isStopping = false;
  #lookedAtMs = -Infinity;
  /** What a snapshot needs, as far as it is known. */
  #snapshotBytes = 0;
  /** Epoch of the namespace whose files may be in the folder. */
  #madeWayFor = '';
  #isRefused = false;
  #isWhole = false;

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#loop = new Loop('journal', options.log, () => this.#turn());
  }

  /** Whether a complete snapshot and every change since lie on disk. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  start(): void {
    this.#isStopping = false;
    this.#loop.start();
  }

  /** What was read is on disk when it resolves. May be started again. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#loop.stop();
    await this.#end();
  }

  async #turn(): Promise<number> {
    try {
      return await this.#step();
    } catch (error) {
      // What is on disk is not touched by a Redis that does not answer; it may be another one when it does.
      this.#lookedAtMs = -Infinity;
      if (this.#isStopping) return 0;
      if (!(error instanceof RingbeatError) || error.code !== 'JOURNAL_WRITE') throw error;
      await this.#end();
      this.#noteRefusal(error);
      return RETRY_MS;
    }
  }

  async #step(): Promise<number> {
    const following = this.#following;
    if (following === null) return (await this.#begin()) ? 0 : ABSENT_MS;
    if (following.failure !== null) {
      await this.#end();
      throw following.failure;
    }
    let seen: Look | null = null;
    if (monotonicMs() - this.#lookedAtMs >= LOOK_EVERY_MS) {
      seen = await this.#look(following);
      if (seen === null) return 0;
    }
    const entries = await this.#read(following);
    const why = reasonToBeginAnew(following, entries, seen);
    if (why !== null) return this.#beginAnew(why);
    if (entries.length === 0) return 0;
    await following.segments.append(entries.map(({ change }) => changeRecord(change)));
    for (const { change } of entries) following.sequences[change.shard] = change.sequence;
    const compacts = following.snapshot === null && following.segments.bytes > this.#compactBytes();
    if (compacts || following.segments.isLong) await this.#roll(following, compacts);
    return 0;
  }

  /** Begins a segment and a snapshot; false while there is no namespace. */
  async #begin(): Promise<boolean> {
    const { redis, names, namespace, folder } = this.#options;
    const before = await lookAt(redis, names, namespace);
    if (before === null) return false;
    const { epoch } = before.identity;
    await folder.write(async () => {
      if (!(await folder.hasRoom(this.#snapshotBytes + SPARE_BYTES))) throw new Error('there is no room on the disk');
      await this.#makeWay(epoch);
    });
    // From now on scripts tell what they change; what they changed before is in the snapshot.
    if (before.meta.get('journal') !== '1') await setSettings(redis, names, epoch, [['journal', '1']]);
    const first = await lookAt(redis, names, namespace);
    if (first === null || !isSameIdentity(first.identity, before.identity)) return false;
    const number = folder.nextNumber();
    this.#following = {
      first,
      segments: await Segments.begin(folder, number, openingRecords(first)),
      sequences: [...first.sequences],
      meta: textOf(first.meta),
      trim: { sequences: first.sequences, sinceMs: monotonicMs() },
      snapshot: null,
      failure: null,
    };
    this.#lookedAtMs = monotonicMs();
    this.#startSnapshot(this.#following, number, first);
    return true;
  }

  /** The journal of another namespace of this name, from before, is not this one's. */
  async #makeWay(epoch: string): Promise<void> {
    const { folder, log, inspect } = this.#options;
    if (this.#madeWayFor === epoch) return;
    const old = await inspect();
    this.#madeWayFor = epoch;
    if (old === null || old.epoch === epoch) return;
    if (old.isDeleted) return folder.clear();
    await folder.setAside();
    log.warn({
      event: 'journal_set_aside',
      folder: folder.path,
      epoch: old.epoch,
      remedy: 'another namespace of this name is in Redis; the old journal is kept in replaced/ until the next time',
    });
  }

  async #end(): Promise<void> {
    const following = this.#following;
    if (following === null) return;
    this.#following = null;
    this.#isWhole = false;
    following.snapshot?.abort.abort();
    await following.snapshot?.done;
    await following.segments.close().catch((error: unknown) => this.#noteRefusal(error));
  }

  async #beginAnew(reason: string): Promise<number> {
    const { log, folder } = this.#options;
    log.warn({ event: 'journal_begins_anew', folder: folder.path, reason });
    await this.#end();
    return 0;
  }

  /** The disk refused to write: said once, until it does again. */
  #noteRefusal(error: unknown): void {
    if (this.#isRefused) return;
    this.#isRefused = true;
    const { log, folder } = this.#options;
    log.error({ event: 'journal_write_failed', folder: folder.path, err: error });
  }

  /** Notes that Redis lives, flushes to disk, trims the streams; null when what was followed is no longer there. */
  async #look(following: Following): Promise<Look | null> {
    const { redis, names, namespace } = this.#options;
    this.#lookedAtMs = monotonicMs();
    const seen = await lookAt(redis, names, namespace);
    if (seen === null || !isSameIdentity(seen.identity, following.first.identity)) {
      await this.#end();
      return null;
    }
    // After a restart or a failover, changes may be undone that are on disk here.
    if (seen.runId !== following.first.runId) {
      await this.#beginAnew('another_redis');
      return null;
    }
    const records: JournalRecord[] = [['alive', String(seen.aliveMs)]];
    if (textOf(seen.meta) !== following.meta) records.push(['meta', ...[...seen.meta].flat()]);
    await following.segments.append(records);
    following.meta = textOf(seen.meta);
    await following.segments.sync();
    if (monotonicMs() - following.trim.sinceMs >= TRIM_EVERY_MS) await this.#trim(following);
    return seen;
  }

  /** Removes from the streams what is on disk here since some time: the other nodes have had theirs to read it. */
  async #trim(following: Following): Promise<void> {
    const { redis, namespace } = this.#options;
    const { sequences } = following.trim;
    following.trim = { sequences: [...following.sequences], sinceMs: monotonicMs() };
    await Promise.all(
      sequences.map((sequence, shard) =>
        redis.xtrim(shardKeys(namespace, shard).changes, 'MINID', `${sequence + 1}-0`),
      ),
    );
  }

  async #read(following: Following): Promise<Entry[]> {
    const { blocking, namespace } = this.#options;
    const keys = following.sequences.map((_, shard) => shardKeys(namespace, shard).changes);
    const shardOfKey = new Map(keys.map((key, shard) => [key, shard]));
    const ids = following.sequences.map((sequence) => `${sequence}-0`);
    const reply = await blocking.xread('COUNT', READ_ENTRIES, 'BLOCK', BLOCK_MS, 'STREAMS', ...keys, ...ids);
    return (reply ?? []).flatMap(([key, entries]) =>
      entries.map(([id, [, epoch = '', ...steps]]) => ({
        epoch,
        change: { shard: shardOfKey.get(key)!, sequence: Number.parseInt(id, 10), steps },
      })),
    );
  }

  /** Goes on in a new segment, and takes a snapshot where that makes the others superfluous. */
  async #roll(following: Following, compacts: boolean): Promise<void> {
    const { redis, names, namespace, folder } = this.#options;
    const seen = await lookAt(redis, names, namespace);
    if (seen === null || !isSameIdentity(seen.identity, following.first.identity)) return;
    const number = folder.nextNumber();
    const start = { ...seen, sequences: [...following.sequences] };
    await following.segments.roll(number, openingRecords(start), compacts);
    if (compacts) this.#startSnapshot(following, number, start);
  }

  #compactBytes(): number {
    return Math.max(COMPACT_BYTES, this.#snapshotBytes);
  }

  #startSnapshot(following: Following, number: number, start: Look): void {
    const abort = new AbortController();
    const done = this.#takeSnapshot(following, number, start, abort.signal).then(
      () => {
        following.snapshot = null;
      },
      (error: unknown) => {
        if (!abort.signal.aborted) following.failure = error;
      },
    );
    following.snapshot = { done, abort };
  }

  async #takeSnapshot(following: Following, number: number, start: Look, signal: AbortSignal): Promise<void> {
    const { folder, log } = this.#options;
    const startedAtMs = monotonicMs();
    const schedules = await this.#writeSnapshot(number, start, signal);
    try {
      await this.#confirm(following, signal);
      await following.segments.sync();
    } catch (error) {
      await rm(folder.partFile(number), { force: true });
      throw error;
    }
    await folder.write(() => folder.completeSnapshot(number));
    this.#isWhole = true;
    const ms = Math.round(monotonicMs() - startedAtMs);
    log.info({ event: 'journal_snapshot', folder: folder.path, schedules, bytes: this.#snapshotBytes, ms });
    if (this.#isRefused) log.info({ event: 'journal_whole_again', folder: folder.path });
    this.#isRefused = false;
  }

  /** Resolves when a snapshot that was just written may take the place of the one before. */
  async #confirm({ first, sequences }: Following, signal: AbortSignal): Promise<void> {
    const { redis, names, namespace } = this.#options;
    const seen = await lookAt(redis, names, namespace);
    // A Redis that was emptied meanwhile gave a part of it: that must never replace the last that is left of the whole.
    if (seen === null || !isSameIdentity(seen.identity, first.identity) || seen.runId !== first.runId)
      throw new Error(`Namespace ${namespace} went away while a snapshot of it was taken`);
    // Without what changed while it was taken it is no state that ever was.
    while (seen.sequences.some((sequence, shard) => sequence > sequences[shard]!))
      await sleep(CATCH_UP_MS, undefined, { signal });
  }

  /** Writes the snapshot's file; how many schedules are in it. */
  async #writeSnapshot(number: number, start: Look, signal: AbortSignal): Promise<number> {
    const { redis, folder } = this.#options;
    const file = folder.partFile(number);
    const writer = await folder.write(() => RecordWriter.create(file));
    let schedules = 0;
    try {
      for await (const records of scanNamespace(redis, start)) {
        signal.throwIfAborted();
        await folder.write(() => writer.append(records));
        for (const [kind] of records) if (kind === 'put') schedules += 1;
      }
      await folder.write(() => writer.sync());
      this.#snapshotBytes = writer.bytes;
    } catch (error) {
      this.#snapshotBytes = Math.max(this.#snapshotBytes, writer.bytes);
      // Worth nothing, and somebody may need the room.
      await rm(file, { force: true });
      throw error;
    } finally {
      await writer.close();
    }
    return schedules;
  }
}

interface Entry {
  readonly epoch: string;
  readonly change: Change;
}

/** Why what was read cannot be appended; null when it can. */
function reasonToBeginAnew(following: Following, entries: readonly Entry[], seen: Look | null): string | null {
  const next = [...following.sequences];
  for (const { epoch, change } of entries) {
    if (epoch !== following.first.identity.epoch) return 'another_namespace';
    next[change.shard]! += 1;
    if (change.sequence !== next[change.shard]) return 'changes_trimmed';
  }
  // The look came first: what it saw was there to be read.
  if (entries.length === 0 && seen?.sequences.some((sequence, shard) => sequence !== next[shard]))
    return 'changes_trimmed';
  return null;
}

function textOf(meta: ReadonlyMap<string, string>): string {
  return JSON.stringify([...meta]);
}
