import { asciiJsonString } from './json.ts';

/** A text that is written often, as the bytes that it is. ASCII only. */
export function piece(text: string): Uint8Array {
  return Buffer.from(text, 'latin1');
}

const PLAIN = /^[\x20\x21\x23-\x5b\x5d-\x7e]*$/;

/**
 * Base64 is made in parts of this many bytes, a multiple of 3: as one long string it would take six times as long, most of it
 * in the garbage collector.
 */
const BASE64_PART = 24_576;

const ZERO = 0x30;
const POINT = 0x2e;
const QUOTE = 0x22;

/**
 * Writes JSON in ASCII, byte by byte into memory of its own that grows. It leaves nothing behind for the garbage collector,
 * which otherwise would cost more than the writing where tens of thousands of texts are made a second.
 */
export class AsciiWriter {
  #bytes: Buffer;
  #length = 0;

  constructor(size: number) {
    this.#bytes = Buffer.allocUnsafeSlow(size);
  }

  get length(): number {
    return this.#length;
  }

  /** How much fits before it grows. */
  get size(): number {
    return this.#bytes.length;
  }

  /** What was written so far: a view, good until the next change. */
  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  clear(): void {
    this.#length = 0;
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Text as it stands, which must be ASCII. */
  ascii(text: string): void {
    this.#reserve(text.length);
    this.#length += this.#bytes.write(text, this.#length, 'latin1');
  }

  /** A JSON string. */
  text(value: string): void {
    if (!PLAIN.test(value)) {
      this.ascii(asciiJsonString(value));
      return;
    }
    this.#reserve(value.length + 2);
    const bytes = this.#bytes;
    bytes[this.#length] = QUOTE;
    bytes.write(value, this.#length + 1, 'latin1');
    this.#length += value.length + 2;
    bytes[this.#length - 1] = QUOTE;
  }

  textOrNull(value: string | null): void {
    if (value === null) this.ascii('null');
    else this.text(value);
  }

  /** A whole number from 0 to 2^53; any other is written as JavaScript writes it. */
  integer(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) {
      this.ascii(JSON.stringify(value));
      return;
    }
    let digits = 1;
    for (let power = 10; power <= value; power *= 10) digits += 1;
    this.#digits(value, digits);
  }

  /** A number from 0 to 2^33, to the millionth, as Python writes a float. */
  millionths(value: number): void {
    let whole = Math.floor(value);
    let millionths = Math.round((value - whole) * 1_000_000);
    if (millionths === 1_000_000) {
      whole += 1;
      millionths = 0;
    }
    this.integer(whole);
    this.#reserve(1);
    this.#bytes[this.#length++] = POINT;
    this.#digits(millionths, 6);
  }

  /** The base64 of bytes. */
  base64(bytes: Buffer): void {
    this.#reserve(Math.ceil(bytes.length / 3) * 4);
    for (let start = 0; start < bytes.length; start += BASE64_PART) {
      const part = bytes.toString('base64', start, start + BASE64_PART);
      this.#length += this.#bytes.write(part, this.#length, 'latin1');
    }
  }

  #digits(value: number, digits: number): void {
    this.#reserve(digits);
    let rest = value;
    for (let at = this.#length + digits - 1; at >= this.#length; at--) {
      const tenth = Math.floor(rest / 10);
      this.#bytes[at] = ZERO + (rest - tenth * 10);
      rest = tenth;
    }
    this.#length += digits;
  }

  #reserve(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#bytes.length));
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }
}
