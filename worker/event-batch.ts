import { type AsciiWriter, piece } from '../protocol/ascii-writer.ts';
import {
  beginEvent,
  endEvent,
  eventTail,
  type ReceivedTask,
  writeReceived,
  writeSucceeded,
  writeTask,
} from '../protocol/event-message.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { RESULT_REPR_LENGTH, shortRepr } from '../protocol/repr.ts';
import { JsonText } from '../protocol/result.ts';

/** Most events that a batch takes. */
const MAX_EVENTS = 8_192;

/** Most events of one message: monitors read each as a whole. */
const MAX_MESSAGE_EVENTS = 2_000;

/** A message gets no more events once it has so many bytes. */
const MAX_BYTES = 1_048_576;

/** What an event is: those that are told thousands of times a second have columns of their own. */
const RECEIVED = 0;
const STARTED = 1;
const SUCCEEDED = 2;
const OTHER = 3;

const RECEIVED_TAIL = eventTail('task-received');
const STARTED_TAIL = eventTail('task-started');
const SUCCEEDED_TAIL = eventTail('task-succeeded');

const LIST_BEGIN = piece('[');
const LIST_NEXT = piece(', ');
const LIST_END = piece(']');

/** Writes the fields of an event. */
export type WriteFields = (to: AsciiWriter) => void;

/**
 * Events that have not been written yet, in columns: to tell one costs a few stores, and what nobody wants to hear is never
 * written. Of messages only what is told is kept: they would cost the garbage collector more than the events cost.
 */
export class EventBatch {
  readonly #kinds = new Uint8Array(MAX_EVENTS);
  readonly #clocks = new Float64Array(MAX_EVENTS);
  readonly #times = new Float64Array(MAX_EVENTS);
  readonly #runtimes = new Float64Array(MAX_EVENTS);
  readonly #ids: string[] = new Array(MAX_EVENTS).fill('');
  readonly #names: string[] = new Array(MAX_EVENTS).fill('');
  readonly #args: string[] = new Array(MAX_EVENTS).fill('');
  readonly #kwargs: string[] = new Array(MAX_EVENTS).fill('');
  readonly #roots: (string | null)[] = new Array(MAX_EVENTS).fill(null);
  readonly #parents: (string | null)[] = new Array(MAX_EVENTS).fill(null);
  readonly #retries = new Float64Array(MAX_EVENTS);
  /** NaN: none. */
  readonly #etas = new Float64Array(MAX_EVENTS);
  readonly #expiries = new Float64Array(MAX_EVENTS);
  readonly #results: unknown[] = new Array(MAX_EVENTS).fill(null);
  readonly #others: ({ readonly tail: Uint8Array; readonly write: WriteFields } | null)[] = new Array(MAX_EVENTS).fill(
    null,
  );
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get isFull(): boolean {
    return this.#size === MAX_EVENTS;
  }

  received(clock: number, atMs: number, message: TaskMessage): void {
    const at = this.#add(RECEIVED, clock, atMs);
    this.#ids[at] = message.id;
    this.#names[at] = message.shadow ?? message.task;
    this.#args[at] = message.argsrepr ?? shortRepr(message.args);
    this.#kwargs[at] = message.kwargsrepr ?? shortRepr(message.kwargs);
    this.#roots[at] = message.rootId;
    this.#parents[at] = message.parentId;
    this.#retries[at] = message.retries;
    this.#etas[at] = message.etaMs ?? Number.NaN;
    this.#expiries[at] = message.expiresMs ?? Number.NaN;
  }

  started(clock: number, atMs: number, id: string): void {
    this.#ids[this.#add(STARTED, clock, atMs)] = id;
  }

  succeeded(clock: number, atMs: number, id: string, result: unknown, runtimeSec: number): void {
    const at = this.#add(SUCCEEDED, clock, atMs);
    this.#ids[at] = id;
    this.#results[at] = result;
    this.#runtimes[at] = runtimeSec;
  }

  other(clock: number, atMs: number, tail: Uint8Array, write: WriteFields): void {
    this.#others[this.#add(OTHER, clock, atMs)] = { tail, write };
  }

  /** Writes events as a JSON list from this one on, as many as go into a message, `most` at most; answers how many. */
  write(to: AsciiWriter, head: Uint8Array, from: number, most = MAX_MESSAGE_EVENTS): number {
    const until = Math.min(this.#size, from + most);
    let at = from;
    do {
      to.raw(at === from ? LIST_BEGIN : LIST_NEXT);
      beginEvent(to, head, this.#clocks[at] ?? 0);
      this.#writeRest(to, at, this.#times[at] ?? 0);
      at += 1;
    } while (at < until && to.length < MAX_BYTES);
    to.raw(LIST_END);
    return at - from;
  }

  /** Forgets them. */
  clear(): void {
    for (const texts of [this.#ids, this.#names, this.#args, this.#kwargs]) texts.fill('', 0, this.#size);
    this.#roots.fill(null, 0, this.#size);
    this.#parents.fill(null, 0, this.#size);
    this.#results.fill(null, 0, this.#size);
    this.#others.fill(null, 0, this.#size);
    this.#size = 0;
  }

  #add(kind: number, clock: number, atMs: number): number {
    const at = this.#size++;
    this.#kinds[at] = kind;
    this.#clocks[at] = clock;
    this.#times[at] = atMs;
    return at;
  }

  #receivedAt(at: number, id: string): ReceivedTask {
    return {
      id,
      name: this.#names[at] ?? '',
      args: this.#args[at] ?? '',
      kwargs: this.#kwargs[at] ?? '',
      rootId: this.#roots[at] ?? null,
      parentId: this.#parents[at] ?? null,
      retries: this.#retries[at] ?? 0,
      etaMs: instant(this.#etas[at]),
      expiresMs: instant(this.#expiries[at]),
    };
  }

  #writeRest(to: AsciiWriter, at: number, atMs: number): void {
    const id = this.#ids[at] ?? '';
    switch (this.#kinds[at]) {
      case RECEIVED:
        writeReceived(to, this.#receivedAt(at, id));
        endEvent(to, atMs, RECEIVED_TAIL);
        return;
      case STARTED:
        writeTask(to, id);
        endEvent(to, atMs, STARTED_TAIL);
        return;
      case SUCCEEDED:
        writeSucceeded(to, id, resultRepr(this.#results[at]), this.#runtimes[at] ?? 0);
        endEvent(to, atMs, SUCCEEDED_TAIL);
        return;
    }
    const other = this.#others[at] ?? null;
    if (other !== null) {
      other.write(to);
      endEvent(to, atMs, other.tail);
    }
  }
}

function instant(atMs: number | undefined): number | null {
  return atMs === undefined || Number.isNaN(atMs) ? null : atMs;
}

/** Texts longer than this are shown as JSON rather than read for what little is shown of them, characters. */
const MAX_PARSED = 16_384;

function resultRepr(value: unknown): string {
  if (!(value instanceof JsonText)) return shortRepr(value);
  const { text } = value;
  return text.length > MAX_PARSED ? shortText(text) : shortRepr(JSON.parse(text));
}

function shortText(text: string): string {
  return `${text.slice(0, RESULT_REPR_LENGTH - 3)}...`;
}
