import type { Redis } from 'ioredis';
import { type AnnounceReply, announce } from '../../lua/announce.ts';
import { connect } from '../../lua/connection.ts';
import { type NamespaceKeys, namespaceKeys } from '../../lua/keys.ts';
import { takeAbsent } from '../../lua/take-absent.ts';
import { RingbeatError } from '../../protocol/errors.ts';
import { type Namespace, parseNamespace, readNamespace } from '../../registry/namespace.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { Log } from '../../runtime/log.ts';
import type { Service } from '../../runtime/service.ts';
import { headerRecord } from './content.ts';
import { claimOf, encodeClaim, isAwaited, judge } from './election.ts';
import { JournalFolder } from './folder.ts';
import { Follower } from './follower.ts';
import { type JournalSummary, readJournal } from './read-journal.ts';
import { RESTORE_LEASE_MS, restoreJournal } from './restore.ts';
import { Segments } from './segments.ts';

export interface JournalOptions {
  readonly dir: string;
  /** Of the schedule store. */
  readonly redisUrl: string;
  readonly namespace: string;
  readonly nodeId: string;
  readonly log: Log;
  /** Told how many schedules this node has put back into Redis. */
  onRestored(schedules: number): void;
}

/** What a node does about a namespace that is not in Redis. */
export type Absence =
  /** It is there again. */
  | { readonly is: 'over'; readonly namespace: Namespace }
  /** Somebody may restore it: nobody may create it. */
  | { readonly is: 'awaited' }
  /** Nobody says that he can. */
  | { readonly is: 'unclaimed' };

/**
 * A node's copy of the namespace on disk. While the namespace is in Redis it is followed; while it is not, the nodes that
 * have a journal agree who restores it.
 */
export class Journal implements Service {
  readonly #options: JournalOptions;
  readonly #names: NamespaceKeys;
  readonly #folder: JournalFolder;
  readonly #redis: Redis;
  /** Waits for changes most of the time. */
  readonly #blocking: Redis;
  readonly #follower: Follower;
  #isStarted = false;
  #isFollowing = false;
  /** What is in the folder; undefined while that is not known, or changes. */
  #summary: JournalSummary | null | undefined = undefined;

  private constructor(options: JournalOptions, folder: JournalFolder) {
    const { redisUrl, namespace, nodeId, log } = options;
    this.#options = options;
    this.#names = namespaceKeys(namespace);
    this.#folder = folder;
    this.#redis = connect(redisUrl, { option: '--redis', name: `ringbeat-journal-${nodeId}` });
    this.#blocking = connect(redisUrl, { option: '--redis', name: `ringbeat-changes-${nodeId}` });
    this.#follower = new Follower({
      redis: this.#redis,
      blocking: this.#blocking,
      names: this.#names,
      namespace,
      folder,
      log,
      inspect: () => this.#inspect(),
    });
  }

  /** Takes the folder for this process. Throws JOURNAL_IN_USE, JOURNAL_FOLDER. */
  static async open(options: JournalOptions): Promise<Journal> {
    return new Journal(options, await JournalFolder.open(options.dir, options.namespace));
  }

  /** Shards of the namespace that the journal holds; null when it holds none that could be restored. */
  async shards(): Promise<number | null> {
    const summary = await this.#inspect();
    return summary === null || summary.isDeleted ? null : summary.shards;
  }

  /** Whether a complete snapshot and every change since lie on disk. */
  get isWhole(): boolean {
    return this.#follower.isWhole;
  }

  start(): void {
    this.#isStarted = true;
    this.#isFollowing = true;
    this.#follower.start();
  }

  async stop(): Promise<void> {
    this.#isStarted = false;
    const stopped = this.#follower.stop();
    // Nobody waits for a Redis that may be away.
    for (const connection of [this.#redis, this.#blocking]) connection.disconnect();
    await stopped;
    this.#folder.close();
  }

  /** One step while the namespace is not in Redis; to be called again and again, several times a second. */
  async absent(): Promise<Absence> {
    const { namespace, nodeId } = this.#options;
    const [redis, names] = [this.#redis, this.#names];
    if (this.#isFollowing) {
      await this.#follower.stop();
      this.#isFollowing = false;
      this.#summary = undefined;
    }
    const summary = await this.#inspect();
    const mine = summary === null ? null : claimOf(summary);
    // What this version could not read must not be restored by it.
    if (summary !== null && !summary.isDeleted) parseNamespace(namespace, summary.meta);
    const known = await announce(redis, names, nodeId, mine === null ? null : encodeClaim(mine));
    if (known.epoch !== null) {
      const found = await readNamespace(redis, names, namespace);
      return found === null ? { is: 'awaited' } : this.#over(found);
    }
    if (summary !== null && mine !== null) {
      const verdict = judge(nodeId, mine, known);
      if (verdict.is === 'deleted' && !mine.isDeleted) await this.#noteDeletion(summary);
      if (verdict.is === 'chosen' && (await takeAbsent(redis, names, nodeId, RESTORE_LEASE_MS))) {
        const restored = await this.#restore(summary, verdict.aliveMs);
        return restored === null ? { is: 'awaited' } : this.#over(restored);
      }
    }
    return { is: isFilled(known) ? 'awaited' : 'unclaimed' };
  }

  #over(namespace: Namespace): Absence {
    if (this.#isStarted) this.start();
    return { is: 'over', namespace };
  }

  async #restore(summary: JournalSummary, floorMs: number): Promise<Namespace | null> {
    const { namespace, nodeId, log, onRestored } = this.#options;
    const [redis, names] = [this.#redis, this.#names];
    const startedAtMs = monotonicMs();
    log.warn({
      event: 'journal_restoring',
      ...{ namespace, epoch: summary.epoch, folder: this.#folder.path },
      changes: summary.wholeUntil,
      dispatched_until: new Date(floorMs).toISOString(),
      damaged: summary.damage.length,
    });
    try {
      const { schedules, leftOut } = await restoreJournal({
        ...{ redis, names, floorMs, summary },
        node: nodeId,
        folder: this.#folder,
      });
      const ms = Math.round(monotonicMs() - startedAtMs);
      log.warn({ event: 'journal_restored', namespace, epoch: summary.epoch, schedules, left_out: leftOut, ms });
      onRestored(schedules);
    } catch (error) {
      if (!(error instanceof RingbeatError) || error.code !== 'RESTORE_TAKEN') throw error;
      log.warn({ event: 'journal_restoration_taken', namespace, reason: error.message });
    }
    return readNamespace(redis, names, namespace);
  }

  /** A journal of a deleted namespace keeps nothing but that. */
  async #noteDeletion(summary: JournalSummary): Promise<void> {
    const { namespace, log } = this.#options;
    try {
      await this.#folder.write(() => this.#folder.setAside());
      const opening = [headerRecord(summary), ['deleted', summary.epoch]];
      const segments = await Segments.begin(this.#folder, this.#folder.nextNumber(), opening);
      await segments.close();
      log.warn({ event: 'namespace_deleted', namespace, epoch: summary.epoch, folder: this.#folder.path });
    } catch (error) {
      log.error({ event: 'journal_write_failed', folder: this.#folder.path, err: error });
    }
    // Whether it could be written or not.
    this.#summary = { ...summary, isDeleted: true };
  }

  async #inspect(): Promise<JournalSummary | null> {
    if (this.#summary !== undefined) return this.#summary;
    const { log } = this.#options;
    const summary = await readJournal(this.#folder);
    for (const { file, offset, bytes, isTail, reason } of summary?.damage ?? []) {
      if (isTail && reason === null) log.warn({ event: 'journal_tail_cut', file, offset, bytes });
      else
        log.error({
          event: 'journal_damaged',
          ...{ file, offset, bytes, reason: reason ?? 'checksums do not match' },
          remedy: 'what can be read is used; check the disk',
        });
    }
    if (summary !== null && summary.lacks !== null)
      log.error({ event: 'journal_unusable', folder: this.#folder.path, epoch: summary.epoch, lacks: summary.lacks });
    this.#summary = summary?.lacks === null ? summary : null;
    return this.#summary;
  }
}

/** Whether somebody fills the namespace, or may yet. */
function isFilled(known: AnnounceReply): boolean {
  return known.filledBy !== null || isAwaited(known.announcements, known.tombstone);
}
