const NEWLINE = 0x0a;

export interface Line {
  /** Counted from 1. */
  readonly number: number;
  /** Without its newline; null when the line is longer than allowed. */
  readonly bytes: Buffer | null;
}

/** Cuts a stream of bytes into lines, holding at most one line of `maxBytes` whatever comes. */
export class LineSplitter {
  readonly #maxBytes: number;
  #held: Buffer;
  #heldBytes = 0;
  #tooLong = false;
  #number = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#held = Buffer.alloc(0);
  }

  /** The lines that end within this chunk. Their bytes are valid until the next call. */
  *split(chunk: Buffer): Generator<Line> {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      yield this.#endLine(chunk.subarray(start, end));
      start = end + 1;
    }
    this.#hold(chunk.subarray(start));
  }

  /** The last line, where the stream did not end with a newline. */
  rest(): Line | null {
    return this.#heldBytes === 0 && !this.#tooLong ? null : this.#endLine(Buffer.alloc(0));
  }

  #endLine(tail: Buffer): Line {
    this.#number += 1;
    const isWhole = this.#heldBytes === 0 && !this.#tooLong;
    if (!isWhole) this.#hold(tail);
    const bytes = isWhole ? tail : this.#held.subarray(0, this.#heldBytes);
    const line = { number: this.#number, bytes: this.#tooLong || bytes.length > this.#maxBytes ? null : bytes };
    this.#heldBytes = 0;
    this.#tooLong = false;
    return line;
  }

  /** Copies, since a slice would keep the whole chunk in memory for the sake of a few bytes. */
  #hold(part: Buffer): void {
    if (this.#tooLong || part.length === 0) return;
    const length = this.#heldBytes + part.length;
    if (length > this.#maxBytes) {
      this.#tooLong = true;
      this.#heldBytes = 0;
      return;
    }
    if (length > this.#held.length) {
      const larger = Buffer.allocUnsafe(Math.min(Math.max(length, 2 * this.#held.length, 1_024), this.#maxBytes));
      this.#held.copy(larger, 0, 0, this.#heldBytes);
      this.#held = larger;
    }
    part.copy(this.#held, this.#heldBytes);
    this.#heldBytes = length;
  }
}
