import {
  isSameIdentity,
  type JournalHeader,
  type JournalIdentity,
  pairsOf,
  readHeader,
  templateNumber,
} from './content.ts';
import type { FolderContents, JournalFolder } from './folder.ts';
import { type Damage, type JournalRecord, readRecords } from './record-file.ts';

/** What a journal knows. */
export interface JournalSummary extends JournalIdentity {
  /** The namespace's record as it was last seen. */
  readonly meta: ReadonlyMap<string, string>;
  /** By shard: the sequence of the last change. */
  readonly sequences: readonly number[];
  /** Sum over the shards of the sequence up to which nothing is missing. */
  readonly wholeUntil: number;
  /** By shard: the highest number that was given to a template. */
  readonly templateNumbers: readonly number[];
  /** Until this Redis time nothing due was left undispatched. */
  readonly aliveMs: number;
  /** Whether the namespace was deleted. Of one that was, nothing else is known. */
  readonly isDeleted: boolean;
  /** What is missing, without which nothing can be restored; null when nothing is. */
  readonly lacks: 'snapshot' | 'settings' | null;
  readonly damage: readonly Damage[];
}

/** Takes what is to be done to a shard, in order: kind, text, kind, text, … as in the change stream. */
export type TakeSteps = (shard: number, steps: readonly string[]) => Promise<void>;

/**
 * Reads a journal from its first to its last record; null when there is none. What is damaged is left out, and told in
 * the summary.
 */
export async function readJournal(
  folder: JournalFolder,
  take: TakeSteps = async () => {},
): Promise<JournalSummary | null> {
  const contents = await folder.contents();
  const damage: Damage[] = [];
  const header = await firstHeader(folder, contents);
  if (header === null) return null;
  const reading = new Reading(header, take);
  for (const file of filesOf(folder, contents)) {
    const before = damage.length;
    let isFirst = true;
    for await (const records of readRecords(file, (found) => damage.push(found))) {
      const own = isFirst ? readHeader(records[0]) : null;
      isFirst = false;
      // The journal of another life of the namespace was begun, and its snapshot never completed.
      if (own !== null && !reading.isContinuedBy(own)) return reading.summary(contents, damage);
      for (const record of records) await reading.take(record);
    }
    const isSnapshot = contents.snapshot !== null && file === folder.snapshotFile(contents.snapshot);
    if (isSnapshot && damage.length === before && !reading.hasEnd)
      damage.push({ file, offset: 0, bytes: 0, isTail: true, reason: 'it has no end' });
    if (isSnapshot && damage.length > before) reading.missSchedules();
  }
  return reading.summary(contents, damage);
}

function filesOf(folder: JournalFolder, { snapshot, segments }: FolderContents): string[] {
  const changes = segments.map((number) => folder.segmentFile(number));
  return snapshot === null ? changes : [folder.snapshotFile(snapshot), ...changes];
}

/** What the oldest file that can be read is about. */
async function firstHeader(folder: JournalFolder, contents: FolderContents): Promise<JournalHeader | null> {
  for (const file of filesOf(folder, contents)) {
    for await (const records of readRecords(file, () => {})) {
      const header = readHeader(records[0]);
      if (header !== null) return header;
      break;
    }
  }
  return null;
}

class Reading {
  readonly #header: JournalHeader;
  readonly #take: TakeSteps;
  #restores: number;
  readonly #sequences: number[];
  /** By shard: the sequence up to which nothing is missing. */
  readonly #whole: number[];
  readonly #templateNumbers: number[];
  #meta: ReadonlyMap<string, string> = new Map();
  #aliveMs = 0;
  #isDeleted = false;
  hasEnd = false;

  constructor(header: JournalHeader, take: TakeSteps) {
    this.#header = header;
    this.#take = take;
    this.#restores = header.restores;
    this.#sequences = [...header.sequences];
    this.#whole = [...header.sequences];
    this.#templateNumbers = header.sequences.map(() => 0);
  }

  /** Whether what a file holds comes after what was read: as it does if just this was put back into Redis meanwhile. */
  isContinuedBy(file: JournalHeader): boolean {
    if (!isSameIdentity({ ...file, restores: 0 }, { ...this.#header, restores: 0 })) return false;
    return (
      file.restores === this.#restores || file.sequences.every((sequence, shard) => sequence === this.#sequences[shard])
    );
  }

  /** Schedules are missing from the snapshot, and no telling which: nothing is whole. */
  missSchedules(): void {
    this.#whole.fill(0);
  }

  async take(record: JournalRecord): Promise<void> {
    const [kind, ...rest] = record;
    switch (kind) {
      case 'file':
        return this.#begin(readHeader(record) ?? this.#header);
      case 'end':
        this.hasEnd = true;
        return;
      case 'meta':
        this.#meta = pairsOf(rest);
        return;
      case 'alive':
        this.#aliveMs = Number(rest[0]);
        return;
      case 'deleted':
        this.#isDeleted = rest[0] === this.#header.epoch;
        return;
      case 'shard':
        this.#number(Number(rest[0]), Number(rest[1]));
        return;
      case 'template':
      case 'put':
        return this.#step(Number(rest[0]), [kind, rest[1]!]);
      case 'change':
        return this.#change(Number(rest[0]), Number(rest[1]), rest.slice(2));
    }
  }

  summary({ snapshot }: FolderContents, damage: readonly Damage[]): JournalSummary {
    const { namespace, epoch, shards } = this.#header;
    return {
      ...{ namespace, epoch, shards },
      restores: this.#restores,
      meta: this.#meta,
      sequences: this.#sequences,
      wholeUntil: this.#whole.reduce((sum, sequence) => sum + sequence, 0),
      templateNumbers: this.#templateNumbers,
      aliveMs: this.#aliveMs,
      isDeleted: this.#isDeleted,
      lacks: this.#isDeleted ? null : snapshot === null ? 'snapshot' : this.#meta.size === 0 ? 'settings' : null,
      damage,
    };
  }

  /** Redis may have forgotten what was written before, after a restart: then its changes are numbered like those again. */
  #begin({ restores, sequences }: JournalHeader): void {
    this.#restores = restores;
    sequences.forEach((sequence, shard) => {
      this.#sequences[shard] = Math.min(this.#sequences[shard]!, sequence);
      this.#whole[shard] = Math.min(this.#whole[shard]!, sequence);
    });
  }

  async #change(shard: number, sequence: number, steps: readonly string[]): Promise<void> {
    // What a snapshot has already, or a connection that broke brought twice.
    if (sequence <= this.#sequences[shard]!) return;
    if (sequence === this.#whole[shard]! + 1) this.#whole[shard] = sequence;
    this.#sequences[shard] = sequence;
    await this.#step(shard, steps);
  }

  async #step(shard: number, steps: readonly string[]): Promise<void> {
    for (let i = 0; i < steps.length; i += 2)
      if (steps[i] === 'template') this.#number(shard, templateNumber(steps[i + 1]!));
    await this.#take(shard, steps);
  }

  #number(shard: number, number: number): void {
    this.#templateNumbers[shard] = Math.max(this.#templateNumbers[shard]!, number);
  }
}
