import type { EndMessage } from './channel.ts';

/*
 * How the jobs of a thread ended, in memory that it shares with the worker, which reads it when it likes: a message would wake
 * the worker for each end, at the cost of the core that the threads compute on.
 *
 * The memory is two words and a ring of bytes. The words are how far the ring was written and read, as positions in the endless
 * text of all ends; they wrap around after 2^32 bytes. An end is its length in a word, and its text; none is broken at the
 * ring's end.
 */

const WRITTEN = 0;
const READ = 1;
const WORD = Int32Array.BYTES_PER_ELEMENT;
/** Bytes of the ring, a power of two: hundreds of ends. */
const SIZE = 65_536;
/** In place of a length: what follows is at the beginning of the ring. */
const WRAP = -1;

class Ring {
  readonly words: Int32Array;
  readonly lengths: Int32Array;
  readonly bytes: Buffer;

  constructor(shared: SharedArrayBuffer) {
    this.words = new Int32Array(shared, 0, 2);
    this.lengths = new Int32Array(shared, 2 * WORD);
    this.bytes = Buffer.from(shared, 2 * WORD);
  }
}

/** The worker's side. */
export class EndReader {
  /** For the thread. */
  readonly shared = new SharedArrayBuffer(2 * WORD + SIZE);
  readonly #ring = new Ring(this.shared);

  /** How far the thread has written. */
  get written(): number {
    return Atomics.load(this.#ring.words, WRITTEN);
  }

  /** The next end before this position; null when there is none. */
  read(before: number): EndMessage | null {
    const { words, lengths, bytes } = this.#ring;
    const position = Atomics.load(words, READ);
    if (((before - position) | 0) <= 0) return null;
    const at = position & (SIZE - 1);
    const length = lengths[at / WORD]!;
    if (length === WRAP) {
      Atomics.store(words, READ, (position + SIZE - at) | 0);
      return this.read(before);
    }
    const text = bytes.toString('utf8', at + WORD, at + WORD + length);
    Atomics.store(words, READ, (position + room(length)) | 0);
    return endOf(text, nowMs());
  }
}

/** The thread's side. */
export class EndWriter {
  readonly #ring: Ring;

  constructor(shared: SharedArrayBuffer) {
    this.#ring = new Ring(shared);
  }

  get written(): number {
    return Atomics.load(this.#ring.words, WRITTEN);
  }

  /** Answers false when there is no room for it. */
  write(end: EndMessage): boolean {
    const { words, lengths, bytes } = this.#ring;
    const text = textOf(end, nowMs());
    const length = Buffer.byteLength(text);
    const position = Atomics.load(words, WRITTEN);
    const at = position & (SIZE - 1);
    const isWrapping = at + room(length) > SIZE;
    const taken = (isWrapping ? SIZE - at : 0) + room(length);
    if (taken > SIZE - ((position - Atomics.load(words, READ)) | 0)) return false;
    if (isWrapping) lengths[at / WORD] = WRAP;
    const start = isWrapping ? 0 : at;
    lengths[start / WORD] = length;
    bytes.write(text, start + WORD, length);
    Atomics.store(words, WRITTEN, (position + taken) | 0);
    return true;
  }
}

/** Bytes that an end takes with its length: whole words. */
function room(length: number): number {
  return WORD + Math.ceil(length / WORD) * WORD;
}

/** On a clock that all threads share. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Its JSON texts have no line feeds. */
function textOf({ job, outcome, overweightKib }: EndMessage, atMs: number): string {
  return `${job}\n${atMs}\n${overweightKib ?? ''}\n${outcome.rest}\n${outcome.json ?? ''}`;
}

function endOf(text: string, heardAtMs: number): EndMessage {
  const [job = '', atMs = '', overweightKib = '', rest = '', json = ''] = text.split('\n');
  return {
    kind: 'end',
    job: Number(job),
    outcome: { json: json === '' ? null : json, rest },
    agoMs: heardAtMs - Number(atMs),
    overweightKib: overweightKib === '' ? null : Number(overweightKib),
  };
}
