import type { JournalFolder } from './folder.ts';
import { type JournalRecord, RecordWriter } from './record-file.ts';

/** Where the next segment begins. */
const SEGMENT_BYTES = 16 * 1_048_576;

/** The end of a journal, where records are appended. Its calls may overlap; they are carried out one after the other. */
export class Segments {
  readonly #folder: JournalFolder;
  #writer: RecordWriter;
  #closedBytes = 0;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(folder: JournalFolder, writer: RecordWriter) {
    this.#folder = folder;
    this.#writer = writer;
  }

  /** Begins the segment of this number. Throws JOURNAL_WRITE, as all that follow. */
  static async begin(folder: JournalFolder, number: number, opening: readonly JournalRecord[]): Promise<Segments> {
    return new Segments(folder, await beginSegment(folder, number, opening));
  }

  /** Bytes since the beginning, or since `compacts`. */
  get bytes(): number {
    return this.#closedBytes + this.#writer.bytes;
  }

  get isLong(): boolean {
    return this.#writer.bytes >= SEGMENT_BYTES;
  }

  append(records: readonly JournalRecord[]): Promise<void> {
    return this.#inTurn(() => this.#folder.write(() => this.#writer.append(records)));
  }

  /** Resolves when everything appended before would survive a power failure. */
  sync(): Promise<void> {
    return this.#inTurn(() => this.#folder.write(() => this.#writer.sync()));
  }

  /** Goes on in the segment of this number; `compacts` when a snapshot makes those before superfluous. */
  roll(number: number, opening: readonly JournalRecord[], compacts: boolean): Promise<void> {
    return this.#inTurn(async () => {
      const next = await beginSegment(this.#folder, number, opening);
      const { bytes } = this.#writer;
      await this.#close();
      this.#closedBytes = compacts ? 0 : this.#closedBytes + bytes;
      this.#writer = next;
    });
  }

  close(): Promise<void> {
    return this.#inTurn(() => this.#close());
  }

  async #close(): Promise<void> {
    await this.#folder.write(async () => {
      try {
        await this.#writer.sync();
      } finally {
        await this.#writer.close();
      }
    });
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(act);
    this.#last = turn.catch(() => {});
    return turn;
  }
}

function beginSegment(folder: JournalFolder, number: number, opening: readonly JournalRecord[]): Promise<RecordWriter> {
  return folder.write(async () => {
    const writer = await RecordWriter.create(folder.segmentFile(number));
    try {
      await writer.append(opening);
      await writer.sync();
    } catch (error) {
      await writer.close();
      throw error;
    }
    return writer;
  });
}
