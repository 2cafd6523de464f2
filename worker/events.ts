import { randomUUID } from 'node:crypto';
import { type as operatingSystem } from 'node:os';
import type { Redis } from 'ioredis';
import type { LogicalClock } from '../protocol/control-message.ts';
import {
  customFields,
  eventChannel,
  eventEnvelope,
  eventHead,
  eventRoutingKey,
  eventText,
  failedFields,
  type Revocation,
  receivedFields,
  rejectedFields,
  revokedFields,
  type Software,
  succeededFields,
  TASK_BATCH,
  taskFields,
  type WorkerState,
  workerFields,
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

interface Batch {
  readonly routingKey: string;
  /** JSON in ASCII. */
  readonly body: Buffer;
  readonly events: number;
  /** Whether its bytes are its own: no more are written to them. */
  readonly isClosed: boolean;
}

/**
 * Tells monitors what this worker does, as Celery's workers do: its own coming, beating and going at once, its tasks' life in
 * batches, one message in flight, so that batches grow with the load. A task costs a few joins of text and no promise: each
 * event is written into the batch's bytes while its text is young. While Redis is away, so much waits for it; of what is more
 * the oldest is dropped and counted.
 */
export class Events {
  readonly #options: EventsOptions;
  readonly #lane: Lane;
  /** The next batch: a JSON list without its end, how long that is, and how many events it has. */
  #open = Buffer.allocUnsafeSlow(MIN_BUFFER_BYTES);
  #openBytes = 0;
  #openEvents = 0;
  readonly #closed: Batch[] = [];
  #closedBytes = 0;
  /** Dropped since that was last reported. */
  #dropped = 0;
  #reportedAtMs = -Infinity;
  #isOn: boolean;
  #isFlushDue = false;
  #head = '';
  /** The second that the last event fell into, and how its time is written. */
  #second = 0;
  #secondText = '';

  constructor(options: EventsOptions) {
    this.#options = options;
    this.#isOn = options.isOn;
    this.#lane = new Lane('events', options.log);
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
    this.#add('task-received', receivedFields(delivery.message));
  }

  started(id: string): void {
    this.#add('task-started', taskFields(id));
  }

  succeeded(id: string, resultRepr: string, runtimeSec: number): void {
    this.#add('task-succeeded', succeededFields(id, resultRepr, runtimeSec));
  }

  failed(id: string, exceptionRepr: string, traceback: string | null): void {
    this.#add('task-failed', failedFields(id, exceptionRepr, traceback));
  }

  /** A message names a task that this worker does not have. */
  unknown(id: string, exceptionRepr: string): void {
    this.failed(id, exceptionRepr, null);
  }

  retried(id: string, exceptionRepr: string, traceback: string | null): void {
    this.#add('task-retried', failedFields(id, exceptionRepr, traceback));
  }

  revoked(id: string, revocation: Revocation): void {
    this.#add('task-revoked', revokedFields(id, revocation));
  }

  rejected(id: string, requeue: boolean): void {
    this.#add('task-rejected', rejectedFields(id, requeue));
  }

  /** A running task was left to others, because this worker ends. */
  cancelled(id: string): void {
    this.#add('task-cancelled', taskFields(id));
  }

  /**
   * An event of a task's own, sent whether task events are on or not, as in Celery. Throws TypeError for a type that is more
   * than letters, digits, `-` and `_`.
   */
  custom(type: string, id: string, fields: { readonly [key: string]: Json }): void {
    if (!EVENT_TYPE.test(type))
      throw new TypeError(`An event's type has letters, digits, - and _, got ${JSON.stringify(type)}.`);
    const text = customFields(id, fields);
    if (type.startsWith('task-')) {
      this.#add(type, text);
    } else {
      this.#closeOpen();
      const body = Buffer.from(this.#event(type, text));
      this.#close({ routingKey: eventRoutingKey(type), body, events: 1, isClosed: true });
    }
    this.#flushSoon();
  }

  /** Sends what was told since, unless a batch is in flight: then that is followed by the next. */
  flush(): void {
    if (this.#lane.isBusy) return;
    const batch = this.#closed.shift() ?? this.#openBatch();
    if (batch === null) return;
    const { routingKey, events } = batch;
    const message = this.#message(routingKey, batch.body);
    if (batch.isClosed) this.#closedBytes -= batch.body.length;
    else this.#reopen();
    this.#lane.send(
      () => this.#publish(routingKey, message),
      () => {
        this.#options.counts.sent += events;
        this.#reportDropped(DROPPED_EVERY_MS);
        this.flush();
      },
    );
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
    await this.#tell('worker-heartbeat', workerFields(ASKED_FREQ_SEC, null, SOFTWARE));
    this.#options.onHeartbeat();
  }

  async #beat(type: string): Promise<void> {
    const { heartbeatSec, state, onHeartbeat } = this.#options;
    if (heartbeatSec === null) return;
    await this.#tell(type, workerFields(heartbeatSec, state(), SOFTWARE));
    onHeartbeat();
  }

  async #tell(type: string, fields: string): Promise<void> {
    const routingKey = eventRoutingKey(type);
    await this.#publish(routingKey, this.#message(routingKey, Buffer.from(this.#event(type, fields))));
  }

  #add(type: string, fields: string): void {
    const event = this.#event(type, fields);
    this.#write(this.#openEvents === 0 ? `[${event}` : `, ${event}`);
    this.#openEvents += 1;
    if (this.#openEvents >= MAX_BATCH_EVENTS || this.#openBytes >= MAX_BATCH_BYTES) this.#closeOpen();
  }

  #write(text: string): void {
    const end = this.#openBytes + text.length;
    if (end > this.#open.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(end, 2 * this.#open.length));
      this.#open.copy(larger, 0, 0, this.#openBytes);
      this.#open = larger;
    }
    // ASCII, as all of it was made.
    this.#open.write(text, this.#openBytes, 'latin1');
    this.#openBytes = end;
  }

  /** The batch that is still being written; null while it has no event. */
  #openBatch(): Batch | null {
    if (this.#openEvents === 0) return null;
    this.#write(']');
    const body = this.#open.subarray(0, this.#openBytes);
    return { routingKey: TASK_BATCH, body, events: this.#openEvents, isClosed: false };
  }

  #reopen(): void {
    this.#openBytes = 0;
    this.#openEvents = 0;
    if (this.#open.length > 2 * MAX_BATCH_BYTES) this.#open = Buffer.allocUnsafeSlow(MIN_BUFFER_BYTES);
  }

  #closeOpen(): void {
    const batch = this.#openBatch();
    if (batch === null) return;
    this.#close({ ...batch, body: Buffer.from(batch.body), isClosed: true });
    this.#reopen();
  }

  #close(batch: Batch): void {
    this.#closed.push(batch);
    this.#closedBytes += batch.body.length;
    while (this.#closedBytes > MAX_WAITING_BYTES && this.#closed.length > 1) {
      const oldest = this.#closed.shift();
      if (oldest === undefined) return;
      this.#closedBytes -= oldest.body.length;
      this.#dropped += oldest.events;
      this.#options.counts.dropped += oldest.events;
    }
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

  #event(type: string, fields: string): string {
    const timestamp = this.#timestamp();
    return eventText(this.#head, this.#options.clock.forward(), fields, timestamp, type);
  }

  #message(routingKey: string, body: Buffer): Buffer {
    return eventEnvelope({ body, hostname: this.#options.hostname, routingKey, deliveryTag: randomUUID() });
  }

  async #publish(routingKey: string, message: Buffer): Promise<void> {
    const { redis } = this.#options;
    await redis.publish(eventChannel(redis.options.db ?? 0, routingKey), message);
  }

  /** Seconds since epoch with microseconds, joined from tables: to write a double costs more than the rest of an event. */
  #timestamp(): string {
    const nowMs = this.#options.nowMs();
    const second = Math.floor(nowMs / 1_000);
    if (second !== this.#second) this.#newSecond(second);
    const micros = Math.floor((nowMs - second * 1_000) * 1_000);
    return `${this.#secondText}${THREE_DIGITS[Math.floor(micros / 1_000)]}${THREE_DIGITS[micros % 1_000]}`;
  }

  #newSecond(second: number): void {
    this.#second = second;
    this.#secondText = `${second}.`;
    // Whole hours, rounded as Python's // does; it changes with daylight saving time.
    const utcOffset = Math.floor(new Date(second * 1_000).getTimezoneOffset() / 60);
    this.#head = eventHead({ hostname: this.#options.hostname, pid: process.pid, utcOffset });
  }
}

const THREE_DIGITS = Array.from({ length: 1_000 }, (_, number) => String(number).padStart(3, '0'));
