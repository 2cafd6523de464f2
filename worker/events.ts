import { randomUUID } from 'node:crypto';
import { type as operatingSystem } from 'node:os';
import type { Redis } from 'ioredis';
import { AsciiWriter, piece } from '../protocol/ascii-writer.ts';
import type { LogicalClock } from '../protocol/control-message.ts';
import {
  beginEvent,
  customFields,
  endEvent,
  eventChannel,
  eventHead,
  eventRoutingKey,
  eventTail,
  type Revocation,
  type Software,
  TASK_BATCH,
  type WorkerState,
  writeCustom,
  writeEnvelope,
  writeFailed,
  writeReceived,
  writeRejected,
  writeRevoked,
  writeSucceeded,
  writeTask,
  writeWorker,
} from '../protocol/event-message.ts';
import type { Json } from '../protocol/json.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { VERSION } from '../runtime/version.ts';
import type { Delivery } from './delivery.ts';
import { Lane } from './lane.ts';

/** Most that one message holds: monitors read each as a whole. */
const MAX_BATCH_EVENTS = 2_000;
const MAX_BATCH_BYTES = 1_048_576;

/** Most that waits for a Redis that is away, or slower than the tasks, bytes. */
const MAX_WAITING_BYTES = 16_777_216;

/** What a heartbeat that was asked for promises, s, as Celery (celery/worker/control.py, heartbeat). */
const ASKED_FREQ_SEC = 5;

/** Least time between two reports of what was dropped, ms. */
const DROPPED_EVERY_MS = 10_000;

/** What the open batch begins with, bytes; it doubles as needed. */
const MIN_BUFFER_BYTES = 16_384;

const EVENT_TYPE = /^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$/;

const SOFTWARE: Software = { name: 'ringbeat', version: VERSION, system: operatingSystem() };

/** How many task events became what. */
export interface EventCounts {
  sent: number;
  /** Not sent, because nobody listened. */
  unheard: number;
  dropped: number;
}

export interface EventsOptions {
  readonly redis: Redis;
  /** The worker's name. */
  readonly hostname: string;
  readonly clock: LogicalClock;
  /** Whether task events are sent from the start. */
  readonly isOn: boolean;
  /** Seconds from one heartbeat to the next; null: none are sent, nor is it told when the worker comes and goes. */
  readonly heartbeatSec: number | null;
  readonly log: Log;
  readonly counts: EventCounts;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /** What heartbeats tell. */
  state(): WorkerState;
  /** Told of every worker event but those that nobody sends. */
  onHeartbeat(): void;
}

const TAILS = {
  received: eventTail('task-received'),
  started: eventTail('task-started'),
  succeeded: eventTail('task-succeeded'),
  failed: eventTail('task-failed'),
  retried: eventTail('task-retried'),
  revoked: eventTail('task-revoked'),
  rejected: eventTail('task-rejected'),
  cancelled: eventTail('task-cancelled'),
};

/** Events that go in one message. */
interface Batch {
  readonly routingKey: string;
  /** A JSON list without its end; of a single event, that event. */
  readonly writer: AsciiWriter;
  events: number;
  /** Where the first event ends. */
  firstEnd: number;
}

const OPEN = 0x5b;
const CLOSE = 0x5d;

/**
 * Tells monitors what this worker does, as Celery's workers do: its own coming, beating and going at once, its tasks' life in
 * batches, one message in flight, so that batches grow with the load. A task costs no promise and no garbage: its events are
 * written into the next batch's bytes. While Redis is away, so much waits for it; of what is more the oldest is dropped and
 * counted.
 *
 * Redis answers how many heard a message. Where nobody heard the last one, only the first event of a batch is sent, and the
 * rest if that one is heard: what would be said to nobody costs next to nothing, and who begins to listen misses nothing.
 */
export class Events {
  readonly #options: EventsOptions;
  readonly #lane: Lane;
  /** The next batch. */
  #open = newBatch();
  /** Memory for the batch after that one. */
  #spare: Batch | null = null;
  readonly #closed: Batch[] = [];
  #closedBytes = 0;
  /** The message in flight. */
  #message = new AsciiWriter(MIN_BUFFER_BYTES);
  #isHeard = true;
  /** Dropped since that was last reported. */
  #dropped = 0;
  #reportedAtMs = -Infinity;
  #isOn: boolean;
  #isFlushDue = false;
  /** When the event began that is being written, ms since epoch. */
  #beganAtMs = 0;
  /** What each event begins with, and the hour for which that holds. */
  #head: Uint8Array = new Uint8Array();
  #hour = 0;

  constructor(options: EventsOptions) {
    this.#options = options;
    this.#isOn = options.isOn;
    // The connection may still hold the bytes of a message that was given up: then they must not be written to.
    this.#lane = new Lane('events', options.log, () => {
      this.#message = new AsciiWriter(MIN_BUFFER_BYTES);
    });
  }

  /** Whether task events are sent; look before telling any. */
  get isOn(): boolean {
    return this.#isOn;
  }

  /** Task events are sent from now on; answers whether that is new. */
  enable(): boolean {
    const isNew = !this.#isOn;
    this.#isOn = true;
    return isNew;
  }

  /** No more task events; answers whether that is new. */
  disable(): boolean {
    const isNew = this.#isOn;
    this.#isOn = false;
    return isNew;
  }

  received(delivery: Delivery): void {
    writeReceived(this.#begin(), delivery.message);
    this.#end(TAILS.received);
  }

  started(id: string): void {
    writeTask(this.#begin(), id);
    this.#end(TAILS.started);
  }

  succeeded(id: string, resultRepr: string, runtimeSec: number): void {
    writeSucceeded(this.#begin(), id, resultRepr, runtimeSec);
    this.#end(TAILS.succeeded);
  }

  failed(id: string, exceptionRepr: string, traceback: string | null): void {
    writeFailed(this.#begin(), id, exceptionRepr, traceback);
    this.#end(TAILS.failed);
  }

  /** A message names a task that this worker does not have. */
  unknown(id: string, exceptionRepr: string): void {
    this.failed(id, exceptionRepr, null);
  }

  retried(id: string, exceptionRepr: string, traceback: string | null): void {
    writeFailed(this.#begin(), id, exceptionRepr, traceback);
    this.#end(TAILS.retried);
  }

  revoked(id: string, revocation: Revocation): void {
    writeRevoked(this.#begin(), id, revocation);
    this.#end(TAILS.revoked);
  }

  rejected(id: string, requeue: boolean): void {
    writeRejected(this.#begin(), id, requeue);
    this.#end(TAILS.rejected);
  }

  /** A running task was left to others, because this worker ends. */
  cancelled(id: string): void {
    writeTask(this.#begin(), id);
    this.#end(TAILS.cancelled);
  }

  /**
   * An event of a task's own, sent whether task events are on or not, as in Celery. Throws TypeError for a type that is more
   * than letters, digits, `-` and `_`.
   */
  custom(type: string, id: string, fields: { readonly [key: string]: Json }): void {
    if (!EVENT_TYPE.test(type))
      throw new TypeError(`An event's type has letters, digits, - and _, got ${JSON.stringify(type)}.`);
    // Whatever cannot be written has to show before anything is.
    const text = customFields(fields);
    if (type.startsWith('task-')) {
      writeCustom(this.#begin(), id, text);
      this.#end(eventTail(type));
    } else {
      this.#closeOpen();
      const writer = this.#single(type, (to) => writeCustom(to, id, text));
      this.#close({ routingKey: eventRoutingKey(type), writer, events: 1, firstEnd: writer.length });
    }
    this.#flushSoon();
  }

  /** Sends what was told since, unless a batch is in flight: then that is followed by the next. */
  flush(): void {
    if (this.#lane.isBusy) return;
    const batch = this.#takeBatch();
    if (batch === null) return;
    if (batch.routingKey !== TASK_BATCH) {
      this.#send(batch, batch.writer.bytes, () => this.#sent(batch, batch.events));
    } else if (this.#isHeard || batch.events === 1) {
      this.#sendRest(batch, 0, batch.events);
    } else {
      this.#sendFirst(batch);
    }
  }

  /** Resolves when everything is sent that was told. */
  async idle(): Promise<void> {
    this.flush();
    while (this.#lane.isBusy) await this.#lane.idle();
  }

  /** Gives up what is not sent by now. */
  close(): void {
    this.#lane.close();
    this.#reportDropped(0);
  }

  /** Says that the worker is there. Rejects when Redis does not hear it. */
  online(): Promise<void> {
    return this.#beat('worker-online');
  }

  /** Says that the worker is still there. */
  heartbeat(): Promise<void> {
    return this.#beat('worker-heartbeat');
  }

  /** Says that the worker has gone, so that nobody waits for its next heartbeat. */
  offline(): Promise<void> {
    return this.#beat('worker-offline');
  }

  /** A heartbeat beside the regular ones, for who asked for it by remote control. */
  async heartbeatAsked(): Promise<void> {
    await this.#tell('worker-heartbeat', (to) => writeWorker(to, ASKED_FREQ_SEC, null, SOFTWARE));
    this.#options.onHeartbeat();
  }

  async #beat(type: string): Promise<void> {
    const { heartbeatSec, state, onHeartbeat } = this.#options;
    if (heartbeatSec === null) return;
    await this.#tell(type, (to) => writeWorker(to, heartbeatSec, state(), SOFTWARE));
    onHeartbeat();
  }

  async #tell(type: string, writeFields: (to: AsciiWriter) => void): Promise<void> {
    const routingKey = eventRoutingKey(type);
    const message = new AsciiWriter(MIN_BUFFER_BYTES);
    this.#wrap(message, routingKey, this.#single(type, writeFields).bytes);
    await this.#publish(routingKey, message.bytes);
  }

  /** One event in memory of its own. */
  #single(type: string, writeFields: (to: AsciiWriter) => void): AsciiWriter {
    const { clock, nowMs } = this.#options;
    const atMs = nowMs();
    const writer = new AsciiWriter(1_024);
    beginEvent(writer, this.#headAt(atMs), clock.forward());
    writeFields(writer);
    endEvent(writer, atMs, eventTail(type));
    return writer;
  }

  // The next batch

  #begin(): AsciiWriter {
    const { clock, nowMs } = this.#options;
    const { writer, events } = this.#open;
    this.#beganAtMs = nowMs();
    writer.raw(events === 0 ? LIST_BEGIN : LIST_NEXT);
    beginEvent(writer, this.#headAt(this.#beganAtMs), clock.forward());
    return writer;
  }

  #end(tail: Uint8Array): void {
    const batch = this.#open;
    endEvent(batch.writer, this.#beganAtMs, tail);
    if (batch.events === 0) batch.firstEnd = batch.writer.length;
    batch.events += 1;
    if (batch.events >= MAX_BATCH_EVENTS || batch.writer.length >= MAX_BATCH_BYTES) this.#closeOpen();
  }

  #takeBatch(): Batch | null {
    const closed = this.#closed.shift();
    if (closed !== undefined) {
      this.#closedBytes -= closed.writer.length;
      return closed;
    }
    return this.#open.events === 0 ? null : this.#replaceOpen();
  }

  #replaceOpen(): Batch {
    const batch = this.#open;
    this.#open = this.#spare ?? newBatch();
    this.#spare = null;
    return batch;
  }

  #closeOpen(): void {
    if (this.#open.events > 0) this.#close(this.#replaceOpen());
  }

  #close(batch: Batch): void {
    this.#closed.push(batch);
    this.#closedBytes += batch.writer.length;
    while (this.#closedBytes > MAX_WAITING_BYTES && this.#closed.length > 1) {
      const oldest = this.#closed.shift();
      if (oldest === undefined) return;
      this.#closedBytes -= oldest.writer.length;
      this.#dropped += oldest.events;
      this.#options.counts.dropped += oldest.events;
    }
  }

  // The message in flight

  /** Sends the first event of a batch, to learn whether anybody listens. */
  #sendFirst(batch: Batch): void {
    const { writer, firstEnd, events } = batch;
    writer.replace(firstEnd, CLOSE);
    this.#send(batch, writer.bytes.subarray(0, firstEnd + 1), (heardBy) => {
      if (heardBy > 0) {
        this.#options.counts.sent += 1;
        // Behind the first event: the end of the list that it was, and a blank.
        writer.replace(firstEnd + 1, OPEN);
        this.#sendRest(batch, firstEnd + 1, events - 1);
      } else {
        this.#options.counts.unheard += events - 1;
        this.#sent(batch, 1);
      }
    });
  }

  /** Sends a batch from this byte on. */
  #sendRest(batch: Batch, start: number, events: number): void {
    const { writer } = batch;
    writer.raw(LIST_END);
    this.#send(batch, writer.bytes.subarray(start), (heardBy) => {
      this.#isHeard = heardBy > 0;
      this.#sent(batch, events);
    });
  }

  #send({ routingKey }: Batch, body: Buffer, onAnswer: (heardBy: number) => void): void {
    this.#message.clear();
    this.#wrap(this.#message, routingKey, body);
    const { bytes } = this.#message;
    this.#lane.send(() => this.#publish(routingKey, bytes), onAnswer);
  }

  #sent(batch: Batch, events: number): void {
    this.#options.counts.sent += events;
    this.#reportDropped(DROPPED_EVERY_MS);
    if (batch.routingKey === TASK_BATCH && batch.writer.size <= 2 * MAX_BATCH_BYTES) {
      batch.writer.clear();
      batch.events = 0;
      this.#spare = batch;
    }
    this.flush();
  }

  #wrap(message: AsciiWriter, routingKey: string, body: Buffer): void {
    writeEnvelope(message, { body, hostname: this.#options.hostname, routingKey, deliveryTag: randomUUID() });
  }

  #publish(routingKey: string, message: Buffer): Promise<number> {
    const { redis } = this.#options;
    return redis.publish(eventChannel(redis.options.db ?? 0, routingKey), message);
  }

  #reportDropped(afterMs: number): void {
    const nowMs = monotonicMs();
    if (this.#dropped === 0 || nowMs - this.#reportedAtMs < afterMs) return;
    this.#options.log.warn({ event: 'events_dropped', events: this.#dropped });
    this.#dropped = 0;
    this.#reportedAtMs = nowMs;
  }

  /** Once this turn of the event loop is over, for what is told outside of the worker's own turns. */
  #flushSoon(): void {
    if (this.#isFlushDue) return;
    this.#isFlushDue = true;
    setImmediate(() => {
      this.#isFlushDue = false;
      this.flush();
    });
  }

  /** What an event of this time begins with: local time may have changed against UTC. */
  #headAt(nowMs: number): Uint8Array {
    const hour = Math.floor(nowMs / 3_600_000);
    if (hour !== this.#hour) {
      this.#hour = hour;
      // Whole hours, rounded as Python's // does.
      const utcOffset = Math.floor(new Date(nowMs).getTimezoneOffset() / 60);
      this.#head = eventHead({ hostname: this.#options.hostname, pid: process.pid, utcOffset });
    }
    return this.#head;
  }
}

const LIST_BEGIN = piece('[');
const LIST_NEXT = piece(', ');
const LIST_END = piece(']');

function newBatch(): Batch {
  return { routingKey: TASK_BATCH, writer: new AsciiWriter(MIN_BUFFER_BYTES), events: 0, firstEnd: 0 };
}
