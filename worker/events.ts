import { randomUUID } from 'node:crypto';
import { type as operatingSystem } from 'node:os';
import type { Redis } from 'ioredis';
import type { EntryAction } from '../lua/settle.ts';
import { AsciiWriter } from '../protocol/ascii-writer.ts';
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
  utcOffsetAt,
  type WorkerState,
  writeCustom,
  writeEnvelope,
  writeFailed,
  writeRejected,
  writeRevoked,
  writeSent,
  writeTask,
  writeWorker,
} from '../protocol/event-message.ts';
import type { Json } from '../protocol/json.ts';
import { readableMessage } from '../protocol/message-reader.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { VERSION } from '../runtime/version.ts';
import type { Delivery } from './delivery.ts';
import { EventBatch, type WriteFields } from './event-batch.ts';
import { Lane } from './lane.ts';

/** Most that waits for a Redis that is away, or slower than the tasks, bytes. */
const MAX_WAITING_BYTES = 16_777_216;

/** What a heartbeat that was asked for promises, s, as Celery (celery/worker/control.py, heartbeat). */
const ASKED_FREQ_SEC = 5;

/** Least time between two reports of what was dropped, ms. */
const DROPPED_EVERY_MS = 10_000;

/** Most events of one message that waits; it may be dropped as a whole. */
const EVENTS_WAITING = 100;

/** Memory of messages that were larger is given back, bytes. */
const MAX_BUFFER_BYTES = 4_194_304;

/** What messages begin with, bytes; they grow as needed. */
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
  /** Whether it is told which tasks are sent. */
  readonly tellsSent: boolean;
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
  sent: eventTail('task-sent'),
  failed: eventTail('task-failed'),
  retried: eventTail('task-retried'),
  revoked: eventTail('task-revoked'),
  rejected: eventTail('task-rejected'),
  cancelled: eventTail('task-cancelled'),
};

/** A message that waits for Redis. */
interface Waiting {
  readonly routingKey: string;
  readonly body: Buffer;
  readonly events: number;
}

/**
 * Tells monitors what this worker does, as Celery's workers do: its own coming, beating and going at once, its tasks' life in
 * batches, one message in flight, so that batches grow with the load. A task costs no promise and no garbage. While Redis is
 * away, so much waits for it; of what is more the oldest is dropped and counted.
 *
 * Redis answers how many heard a message. Where nobody heard the last one, only the first event of a batch is sent, and the
 * rest if that one is heard: what would be said to nobody is not even written, and who begins to listen misses nothing.
 */
export class Events {
  readonly #options: EventsOptions;
  readonly #lane: Lane;
  /** What was told since the last message, and memory for what is told while that is in flight. */
  #batch: EventBatch | null = null;
  #spare: EventBatch | null = null;
  readonly #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #body = new AsciiWriter(MIN_BUFFER_BYTES);
  /** The message in flight. */
  #message = new AsciiWriter(MIN_BUFFER_BYTES);
  #isHeard = true;
  /** Dropped since that was last reported. */
  #dropped = 0;
  #reportedAtMs = -Infinity;
  #isOn: boolean;
  #isFlushDue = false;
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

  /** What is done so that tasks are sent, among whatever else these actions do. */
  sent(actions: readonly EntryAction[]): void {
    if (!this.#options.tellsSent) return;
    for (const action of actions) {
      const message = action.kind === 'push' || action.kind === 'park' ? readableMessage(action.envelope) : null;
      if (message !== null) this.#other(TAILS.sent, (to) => writeSent(to, message));
    }
  }

  received({ message }: Delivery): void {
    const { clock, nowMs } = this.#options;
    this.#room().received(clock.forward(), nowMs(), message);
  }

  started(id: string): void {
    const { clock, nowMs } = this.#options;
    this.#room().started(clock.forward(), nowMs(), id);
  }

  /** `result` is what the task returned, or the JsonText of it. */
  succeeded(id: string, result: unknown, runtimeSec: number): void {
    const { clock, nowMs } = this.#options;
    this.#room().succeeded(clock.forward(), nowMs(), id, result, runtimeSec);
  }

  failed(id: string, exceptionRepr: string, traceback: string | null): void {
    this.#other(TAILS.failed, (to) => writeFailed(to, id, exceptionRepr, traceback));
  }

  /** A message names a task that this worker does not have. */
  unknown(id: string, exceptionRepr: string): void {
    this.failed(id, exceptionRepr, null);
  }

  retried(id: string, exceptionRepr: string, traceback: string | null): void {
    this.#other(TAILS.retried, (to) => writeFailed(to, id, exceptionRepr, traceback));
  }

  revoked(id: string, revocation: Revocation): void {
    this.#other(TAILS.revoked, (to) => writeRevoked(to, id, revocation));
  }

  rejected(id: string, requeue: boolean): void {
    this.#other(TAILS.rejected, (to) => writeRejected(to, id, requeue));
  }

  /** A running task was left to others, because this worker ends. */
  cancelled(id: string): void {
    this.#other(TAILS.cancelled, (to) => writeTask(to, id));
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
      this.#other(eventTail(type), (to) => writeCustom(to, id, text));
    } else {
      if (this.#batch !== null) this.#writeOut(this.#batch);
      const body = this.#single(type, (to) => writeCustom(to, id, text));
      this.#wait({ routingKey: eventRoutingKey(type), body, events: 1 });
    }
    this.#flushSoon();
  }

  /** Sends what was told since, unless a message is in flight: then that is followed by the next. */
  flush(): void {
    if (this.#lane.isBusy) return;
    const next = this.#waiting.shift();
    if (next !== undefined) {
      this.#waitingBytes -= next.body.length;
      this.#send(next.routingKey, next.body, () => this.#sent(next.events));
      return;
    }
    const batch = this.#batch;
    if (batch === null || batch.size === 0) return;
    this.#batch = this.#spare;
    this.#spare = null;
    if (this.#isHeard || batch.size === 1) this.#sendFrom(batch, 0);
    else this.#sendFirst(batch);
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

  async #tell(type: string, writeFields: WriteFields): Promise<void> {
    const routingKey = eventRoutingKey(type);
    const message = new AsciiWriter(MIN_BUFFER_BYTES);
    this.#wrap(message, routingKey, this.#single(type, writeFields));
    await this.#publish(routingKey, message.bytes);
  }

  /** One event that is in no list. */
  #single(type: string, writeFields: WriteFields): Buffer {
    const { clock, nowMs } = this.#options;
    const atMs = nowMs();
    const writer = new AsciiWriter(1_024);
    beginEvent(writer, this.#headAt(atMs), clock.forward());
    writeFields(writer);
    endEvent(writer, atMs, eventTail(type));
    return writer.bytes;
  }

  // What was told

  #other(tail: Uint8Array, write: WriteFields): void {
    const { clock, nowMs } = this.#options;
    this.#room().other(clock.forward(), nowMs(), tail, write);
  }

  /** The batch that the next event goes into. */
  #room(): EventBatch {
    if (this.#batch?.isFull) this.#makeRoom(this.#batch);
    this.#batch ??= new EventBatch();
    return this.#batch;
  }

  /** Redis is away, or slow. */
  #makeRoom(batch: EventBatch): void {
    if (this.#isHeard) {
      this.#writeOut(batch);
      return;
    }
    // When it answered last, nobody listened.
    this.#dropped += batch.size;
    this.#options.counts.dropped += batch.size;
    batch.clear();
  }

  /** Writes what was told, so that it can wait for longer. */
  #writeOut(batch: EventBatch): void {
    for (let from = 0; from < batch.size; ) {
      const events = this.#write(batch, from, EVENTS_WAITING);
      this.#wait({ routingKey: TASK_BATCH, body: Buffer.from(this.#body.bytes), events });
      from += events;
    }
    batch.clear();
  }

  #wait(message: Waiting): void {
    this.#waiting.push(message);
    this.#waitingBytes += message.body.length;
    while (this.#waitingBytes > MAX_WAITING_BYTES && this.#waiting.length > 1) {
      const oldest = this.#waiting.shift();
      if (oldest === undefined) return;
      this.#waitingBytes -= oldest.body.length;
      this.#dropped += oldest.events;
      this.#options.counts.dropped += oldest.events;
    }
  }

  // The message in flight

  /** Sends the first event of a batch, to learn whether anybody listens. */
  #sendFirst(batch: EventBatch): void {
    this.#write(batch, 0, 1);
    this.#send(TASK_BATCH, this.#body.bytes, (heardBy) => {
      if (heardBy > 0) {
        this.#options.counts.sent += 1;
        this.#sendFrom(batch, 1);
        return;
      }
      this.#options.counts.unheard += batch.size - 1;
      this.#release(batch);
      this.#sent(1);
    });
  }

  /** Sends a batch from this event on. */
  #sendFrom(batch: EventBatch, from: number): void {
    const events = this.#write(batch, from);
    this.#send(TASK_BATCH, this.#body.bytes, (heardBy) => {
      this.#isHeard = heardBy > 0;
      const next = from + events;
      if (next < batch.size) {
        this.#options.counts.sent += events;
        this.#sendFrom(batch, next);
        return;
      }
      this.#release(batch);
      this.#sent(events);
    });
  }

  /** Writes so many events into `#body` as a list; answers how many they are. */
  #write(batch: EventBatch, from: number, most?: number): number {
    this.#body = emptied(this.#body);
    return batch.write(this.#body, this.#headAt(this.#options.nowMs()), from, most);
  }

  #release(batch: EventBatch): void {
    batch.clear();
    this.#spare = batch;
  }

  #send(routingKey: string, body: Buffer, onAnswer: (heardBy: number) => void): void {
    this.#message = emptied(this.#message);
    this.#wrap(this.#message, routingKey, body);
    const { bytes } = this.#message;
    this.#lane.send(() => this.#publish(routingKey, bytes), onAnswer);
  }

  #sent(events: number): void {
    this.#options.counts.sent += events;
    this.#reportDropped(DROPPED_EVERY_MS);
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
      this.#head = eventHead({
        hostname: this.#options.hostname,
        pid: process.pid,
        utcOffset: utcOffsetAt(nowMs),
      });
    }
    return this.#head;
  }
}

function emptied(writer: AsciiWriter): AsciiWriter {
  if (writer.size > MAX_BUFFER_BYTES) return new AsciiWriter(MIN_BUFFER_BYTES);
  writer.clear();
  return writer;
}
