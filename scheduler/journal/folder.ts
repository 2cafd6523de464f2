import { mkdir, open, readdir, rename, rm, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import zlib from 'node:zlib';
import { messageOf, RingbeatError } from '../../protocol/errors.ts';
import { type FolderLock, lockFolder } from './folder-lock.ts';

/** Which files there are, by number, ascending. */
export interface FolderContents {
  /** The newest complete one; null when there is none. */
  readonly snapshot: number | null;
  /** Those to be read after it; all of them when there is no snapshot. */
  readonly segments: readonly number[];
}

const SNAPSHOT = /^snapshot-(\d{8})$/;
const SEGMENT = /^changes-(\d{8})$/;
const PART = '.part';
const REPLACED = 'replaced';

/**
 * The folder of one namespace's journal, used by one process at a time:
 *
 *   snapshot-00000007        every schedule, as of about when changes-00000007 was begun
 *   changes-00000007, …      what changed since, in the order of their numbers
 *   snapshot-00000009.part   a snapshot that is being written; worth nothing
 *   replaced/                the files of the namespace that this one replaced, or that was deleted
 *   lock                     the process that uses the folder
 */
export class JournalFolder {
  readonly path: string;
  readonly #lock: FolderLock;
  #highest = 0;

  private constructor(path: string, lock: FolderLock) {
    this.path = path;
    this.#lock = lock;
  }

  /** Makes the folder `<dir>/<namespace>.journal` where it is not there. Throws JOURNAL_IN_USE, JOURNAL_FOLDER. */
  static async open(dir: string, namespace: string): Promise<JournalFolder> {
    if (typeof zlib.crc32 !== 'function')
      throw new RingbeatError('NOT_YET_SUPPORTED', {
        what: `--journal-dir on Node ${process.versions.node}`,
        remedy: 'Use Node 20.15 or newer.',
      });
    // A namespace may be called "..".
    const path = join(resolve(dir), `${namespace}.journal`);
    try {
      await mkdir(path, { recursive: true });
      const folder = new JournalFolder(path, lockFolder(path, join(path, 'lock')));
      await folder.#begin();
      return folder;
    } catch (error) {
      if (error instanceof RingbeatError) throw error;
      throw new RingbeatError('JOURNAL_FOLDER', { folder: path, reason: messageOf(error) }, { cause: error });
    }
  }

  async contents(): Promise<FolderContents> {
    const { snapshots, segments } = await this.#numbers();
    const snapshot = snapshots.at(-1) ?? null;
    return { snapshot, segments: segments.filter((number) => number >= (snapshot ?? 0)) };
  }

  snapshotFile(number: number): string {
    return join(this.path, nameOf('snapshot', number));
  }

  segmentFile(number: number): string {
    return join(this.path, nameOf('changes', number));
  }

  /** Where to write a snapshot until `completeSnapshot`. */
  partFile(number: number): string {
    return `${this.snapshotFile(number)}${PART}`;
  }

  /** A number for the next segment or snapshot. */
  nextNumber(): number {
    this.#highest += 1;
    return this.#highest;
  }

  /** Puts the written snapshot in its place, and removes what it makes superfluous. */
  async completeSnapshot(number: number): Promise<void> {
    await rename(this.partFile(number), this.snapshotFile(number));
    await this.sync();
    const { snapshots, segments } = await this.#numbers();
    for (const older of snapshots) if (older < number) await rm(this.snapshotFile(older), { force: true });
    for (const older of segments) if (older < number) await rm(this.segmentFile(older), { force: true });
  }

  /** Moves all files of the journal out of the way, into `replaced`, from where those of the time before go. */
  async setAside(): Promise<void> {
    const names = await this.#names();
    if (names.length === 0) return;
    const replaced = join(this.path, REPLACED);
    await rm(replaced, { recursive: true, force: true });
    await mkdir(replaced);
    for (const name of names) await rename(join(this.path, name), join(replaced, name));
    await this.sync();
  }

  /** Removes all files of the journal. */
  async clear(): Promise<void> {
    for (const name of await this.#names()) await rm(join(this.path, name), { force: true });
    await this.sync();
  }

  /** Whether the disk has room for this many bytes more. */
  async hasRoom(bytes: number): Promise<boolean> {
    const { bavail, bsize } = await statfs(this.path);
    return bavail * bsize >= bytes;
  }

  /** Does something with the files; whatever the disk has against it is a JOURNAL_WRITE. */
  async write<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } catch (error) {
      throw new RingbeatError('JOURNAL_WRITE', { folder: this.path, reason: messageOf(error) }, { cause: error });
    }
  }

  /** Resolves when the names of its files would survive a power failure. */
  async sync(): Promise<void> {
    const handle = await open(this.path, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  close(): void {
    this.#lock.release();
  }

  async #begin(): Promise<void> {
    for (const name of await readdir(this.path)) if (name.endsWith(PART)) await rm(join(this.path, name));
    const { snapshots, segments } = await this.#numbers();
    this.#highest = Math.max(0, ...snapshots, ...segments);
  }

  /** Snapshots first: without one the rest is no journal. */
  async #names(): Promise<string[]> {
    const { snapshots, segments } = await this.#numbers();
    return [
      ...snapshots.map((number) => nameOf('snapshot', number)),
      ...segments.map((number) => nameOf('changes', number)),
    ];
  }

  async #numbers(): Promise<{ snapshots: number[]; segments: number[] }> {
    const names = await readdir(this.path);
    const matching = (pattern: RegExp) =>
      names
        .flatMap((name) => pattern.exec(name)?.[1] ?? [])
        .map(Number)
        .sort((a, b) => a - b);
    return { snapshots: matching(SNAPSHOT), segments: matching(SEGMENT) };
  }
}

function nameOf(kind: 'snapshot' | 'changes', number: number): string {
  return `${kind}-${String(number).padStart(8, '0')}`;
}
