import { type FileHandle, open } from 'node:fs/promises';
import zlib from 'node:zlib';
import { messageOf } from '../../protocol/errors.ts';

/**
 * A file of records, each a list of texts, the first of which says what it is:
 *
 *   marker 0xfe 0xff | CRC-32 of the rest, u32 | length of the fields, u32 | fields: length u32, UTF-8
 *
 * All numbers little-endian. The marker occurs in no UTF-8, so that reading goes on behind a damaged record.
 */
export type JournalRecord = readonly string[];

/** Bytes of a file that are no record. */
export interface Damage {
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
  /** Nothing that can be read comes behind it: the writer was cut off, or the rest is lost. */
  readonly isTail: boolean;
  /** Why the file could not be read on; null when it could, and what was read makes no sense. */
  readonly reason: string | null;
}

const MARKER = Buffer.from([0xfe, 0xff]);
const CRC_AT = 2;
const LENGTH_AT = 6;
const HEAD = 10;
/** A length beyond this is no length: the largest script call is 1 MiB, and JSON may double it a few times. */
const MAX_LENGTH = 64 * 1_048_576;
const CHUNK = 1_048_576;

export function encodeRecords(records: readonly JournalRecord[]): Buffer {
  const lengths = records.map((fields) => fields.reduce((sum, field) => sum + 4 + Buffer.byteLength(field), 0));
  const bytes = Buffer.allocUnsafe(lengths.reduce((sum, length) => sum + HEAD + length, 0));
  let at = 0;
  records.forEach((fields, i) => {
    const start = at;
    MARKER.copy(bytes, start);
    bytes.writeUInt32LE(lengths[i]!, start + LENGTH_AT);
    at += HEAD;
    for (const field of fields) {
      const length = bytes.write(field, at + 4);
      bytes.writeUInt32LE(length, at);
      at += 4 + length;
    }
    bytes.writeUInt32LE(zlib.crc32(bytes.subarray(start + LENGTH_AT, at)), start + CRC_AT);
  });
  return bytes;
}

/** The records of a file, in its order, some at a time. What is damaged is told and left out. */
export async function* readRecords(
  file: string,
  onDamage: (damage: Damage) => void,
): AsyncGenerator<readonly JournalRecord[]> {
  let bytes = Buffer.alloc(0);
  /** Offset in the file of the first of `bytes`. */
  let offset = 0;
  let damagedFrom: number | null = null;
  let handle: FileHandle | null = null;
  const tell = (upTo: number, isTail: boolean, reason: string | null) => {
    const from = damagedFrom ?? upTo;
    damagedFrom = null;
    onDamage({ file, offset: from, bytes: upTo - from, isTail, reason });
  };
  try {
    handle = await open(file, 'r');
    for (let isEnd = false; !isEnd; ) {
      const chunk = Buffer.allocUnsafe(CHUNK);
      const { bytesRead } = await handle.read(chunk, 0, CHUNK, offset + bytes.length);
      isEnd = bytesRead === 0;
      bytes = Buffer.concat([bytes, chunk.subarray(0, bytesRead)]);
      const records: JournalRecord[] = [];
      let at = 0;
      while (at < bytes.length) {
        const found = recordAt(bytes, at);
        if (found === 'incomplete' && !isEnd) break;
        if (typeof found === 'string') {
          damagedFrom ??= offset + at;
          const next = bytes.indexOf(MARKER, at + 1);
          // The first half of a marker may be the last byte so far.
          at = next === -1 ? Math.max(at + 1, bytes.length - 1) : next;
          if (next === -1 && !isEnd) break;
          if (next === -1) at = bytes.length;
          continue;
        }
        if (damagedFrom !== null) tell(offset + at, false, null);
        records.push(found.fields);
        at = found.end;
      }
      offset += at;
      bytes = bytes.subarray(at);
      if (records.length > 0) yield records;
    }
    if (damagedFrom !== null) tell(offset, true, null);
  } catch (error) {
    tell(offset, true, messageOf(error));
  } finally {
    await handle?.close();
  }
}

function recordAt(bytes: Buffer, at: number): { fields: JournalRecord; end: number } | 'incomplete' | 'damaged' {
  if (bytes[at] !== MARKER[0]) return 'damaged';
  if (at + HEAD > bytes.length) return 'incomplete';
  const length = bytes.readUInt32LE(at + LENGTH_AT);
  if (bytes[at + 1] !== MARKER[1] || length > MAX_LENGTH) return 'damaged';
  const end = at + HEAD + length;
  if (end > bytes.length) return 'incomplete';
  if (zlib.crc32(bytes.subarray(at + LENGTH_AT, end)) !== bytes.readUInt32LE(at + CRC_AT)) return 'damaged';
  const fields: string[] = [];
  for (let from = at + HEAD; from < end; ) {
    const to = from + 4 + bytes.readUInt32LE(from);
    fields.push(bytes.toString('utf8', from + 4, to));
    from = to;
  }
  return { fields, end };
}

/** Appends records to a new file. One call at a time. */
export class RecordWriter {
  readonly file: string;
  readonly #handle: FileHandle;
  #bytes = 0;
  #isDirty = false;

  private constructor(file: string, handle: FileHandle) {
    this.file = file;
    this.#handle = handle;
  }

  /** Throws when the file exists. */
  static async create(file: string): Promise<RecordWriter> {
    return new RecordWriter(file, await open(file, 'wx'));
  }

  /** What is in the file. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Writes them whole or not at all, as far as the disk lets it. */
  async append(records: readonly JournalRecord[]): Promise<void> {
    const bytes = encodeRecords(records);
    this.#isDirty = true;
    try {
      for (let written = 0; written < bytes.length; ) {
        const { bytesWritten } = await this.#handle.write(
          bytes,
          written,
          bytes.length - written,
          this.#bytes + written,
        );
        written += bytesWritten;
      }
    } catch (error) {
      // A torn record is cut off by whoever reads; this only keeps the reader from having to say so.
      await this.#handle.truncate(this.#bytes).catch(() => {});
      throw error;
    }
    this.#bytes += bytes.length;
  }

  /** Resolves when everything that was appended would survive a power failure. */
  async sync(): Promise<void> {
    if (!this.#isDirty) return;
    this.#isDirty = false;
    await this.#handle.datasync();
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
