import { type AsciiWriter, piece } from './ascii-writer.ts';
import { asciiJsonString, type Json, toPythonJson } from './json.ts';
import type { TaskMessage } from './message-reader.ts';
import { shortRepr } from './repr.ts';
import { celeryTime } from './task-message.ts';

/**
 * Celery's events on the wire (celery/events/dispatcher.py): JSON in a kombu envelope, published on a channel that is named
 * by database, exchange and type. A worker sends tens of thousands a second, so they are written from pieces that are ready.
 */
export const EVENT_EXCHANGE = 'celeryev';

/** The routing key of a list of task events. */
export const TASK_BATCH = 'task.multi';

/** `worker-elect-ack` -> `worker.elect.ack`. */
export function eventRoutingKey(type: string): string {
  return type.replaceAll('-', '.');
}

/** Where events of this routing key are heard; `*` hears all. */
export function eventChannel(db: number, routingKey: string): string {
  return `/${db}.${EVENT_EXCHANGE}/${routingKey}`;
}

/** Who sends an event, as each one tells. */
export interface EventSender {
  readonly hostname: string;
  readonly pid: number;
  /** Whole hours that local time is behind UTC, as Celery counts. */
  readonly utcOffset: number;
}

/** `utcOffset` of who is here at this time, ms since epoch: local time may change against UTC. */
export function utcOffsetAt(nowMs: number): number {
  // Whole hours, rounded as Python's // does.
  return Math.floor(new Date(nowMs).getTimezoneOffset() / 60);
}

/** What each event of a sender begins with; its clock follows. */
export function eventHead({ hostname, utcOffset, pid }: EventSender): Uint8Array {
  return piece(`{"hostname": ${asciiJsonString(hostname)}, "utcoffset": ${utcOffset}, "pid": ${pid}, "clock": `);
}

/** What each event of a type ends with; its time (s since epoch) comes before. */
export function eventTail(type: string): Uint8Array {
  return piece(`, "type": ${asciiJsonString(type)}}`);
}

const COMMA = piece(', ');
const TIMESTAMP = piece(', "timestamp": ');

/** Begins an event of this sender and logical time; its fields follow. */
export function beginEvent(to: AsciiWriter, head: Uint8Array, clock: number): void {
  to.raw(head);
  to.integer(clock);
  to.raw(COMMA);
}

/** Ends an event with its time, ms since epoch, and its type. */
export function endEvent(to: AsciiWriter, nowMs: number, tail: Uint8Array): void {
  to.raw(TIMESTAMP);
  to.millionths(nowMs / 1_000);
  to.raw(tail);
}

const ENVELOPE = piece('{"body": "');

/** A kombu envelope around one event, or around a list of them, whose JSON is `body`. */
export function writeEnvelope(
  to: AsciiWriter,
  message: {
    readonly body: Buffer;
    readonly hostname: string;
    readonly routingKey: string;
    readonly deliveryTag: string;
  },
): void {
  to.raw(ENVELOPE);
  to.base64(message.body);
  to.ascii(
    `", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"hostname": ${asciiJsonString(message.hostname)}}, "properties": {"delivery_mode": 1, "delivery_info": {"exchange": "${EVENT_EXCHANGE}", "routing_key": ${asciiJsonString(message.routingKey)}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "${message.deliveryTag}"}}`,
  );
}

const UUID = piece('"uuid": ');

/** Fields of an event that tells nothing but the task. */
export function writeTask(to: AsciiWriter, id: string): void {
  to.raw(UUID);
  to.text(id);
}

/** Fields of a task's own as they stand behind its id. Those that every event has are left out. */
export function customFields(fields: { readonly [key: string]: Json }): string {
  const { hostname, utcoffset, pid, clock, timestamp, type, uuid, ...own } = fields;
  const json = toPythonJson(own);
  return json === '{}' ? '' : `, ${json.slice(1, -1)}`;
}

/** Fields of an event of a task's own; `fields` are what `customFields` made. */
export function writeCustom(to: AsciiWriter, id: string, fields: string): void {
  writeTask(to, id);
  to.ascii(fields);
}

const NAME = piece(', "name": ');
const ARGS = piece(', "args": ');
const KWARGS = piece(', "kwargs": ');
const ROOT = piece(', "root_id": ');
const PARENT = piece(', "parent_id": ');
const RETRIES = piece(', "retries": ');
const NO_TIMES = piece(', "eta": null, "expires": null');

/** What is told of a message that a worker has taken. */
export interface ReceivedTask {
  readonly id: string;
  /** The name under which it is shown. */
  readonly name: string;
  /** As Python shows them. */
  readonly args: string;
  readonly kwargs: string;
  readonly rootId: string | null;
  readonly parentId: string | null;
  readonly retries: number;
  /** ms since epoch. */
  readonly etaMs: number | null;
  readonly expiresMs: number | null;
}

/** Fields of `task-received`. */
export function writeReceived(to: AsciiWriter, message: ReceivedTask): void {
  const { etaMs, expiresMs } = message;
  writeTask(to, message.id);
  to.raw(NAME);
  to.text(message.name);
  to.raw(ARGS);
  to.text(message.args);
  to.raw(KWARGS);
  to.text(message.kwargs);
  to.raw(ROOT);
  to.textOrNull(message.rootId);
  to.raw(PARENT);
  to.textOrNull(message.parentId);
  to.raw(RETRIES);
  to.integer(message.retries);
  if (etaMs === null && expiresMs === null) to.raw(NO_TIMES);
  else to.ascii(`, "eta": ${timeOrNull(etaMs)}, "expires": ${timeOrNull(expiresMs)}`);
}

/** Fields of `task-sent`: of a message as its producer has put it into its queue (celery/app/amqp.py, as_task_v2). */
export function writeSent(to: AsciiWriter, message: TaskMessage): void {
  const { id, task, args, kwargs, argsrepr, kwargsrepr, rootId, parentId, retries, etaMs, expiresMs, deliveryInfo } =
    message;
  const fields = toPythonJson({
    uuid: id,
    root_id: rootId,
    parent_id: parentId,
    name: task,
    args: argsrepr ?? shortRepr(args),
    kwargs: kwargsrepr ?? shortRepr(kwargs),
    retries,
    eta: etaMs === null ? null : celeryTime(etaMs),
    expires: expiresMs === null ? null : celeryTime(expiresMs),
    queue: deliveryInfo.routingKey,
    exchange: deliveryInfo.exchange,
    routing_key: deliveryInfo.routingKey,
  });
  to.ascii(fields.slice(1, -1));
}

const RESULT = piece(', "result": ');
const RUNTIME = piece(', "runtime": ');

/** Fields of `task-succeeded`; `runtimeSec` in s. */
export function writeSucceeded(to: AsciiWriter, id: string, resultRepr: string, runtimeSec: number): void {
  writeTask(to, id);
  to.raw(RESULT);
  to.text(resultRepr);
  to.raw(RUNTIME);
  to.millionths(runtimeSec);
}

/** Fields of `task-failed` and `task-retried`. */
export function writeFailed(to: AsciiWriter, id: string, exceptionRepr: string, traceback: string | null): void {
  writeTask(to, id);
  to.ascii(', "exception": ');
  to.text(exceptionRepr);
  if (traceback === null) return;
  to.ascii(', "traceback": ');
  to.text(traceback);
}

/** How a task came to be revoked. */
export interface Revocation {
  /** Whether it ran, and was ended. */
  readonly terminated: boolean;
  /** The signal that ended it. */
  readonly signum: number | null;
  readonly expired: boolean;
}

/** Fields of `task-revoked`. */
export function writeRevoked(to: AsciiWriter, id: string, { terminated, signum, expired }: Revocation): void {
  writeTask(to, id);
  to.ascii(`, "terminated": ${terminated}, "signum": ${signum}, "expired": ${expired}`);
}

/** Fields of `task-rejected`. */
export function writeRejected(to: AsciiWriter, id: string, requeue: boolean): void {
  writeTask(to, id);
  to.ascii(`, "requeue": ${requeue}`);
}

/** What a worker tells of itself in `worker-online`, `-heartbeat` and `-offline`. */
export interface WorkerState {
  /** Tasks that run, and that have been started so far. */
  readonly active: number;
  readonly processed: number;
  /** Over 1, 5 and 15 minutes. */
  readonly loadAverage: readonly number[];
}

/** The software of a sender. */
export interface Software {
  readonly name: string;
  readonly version: string;
  /** The operating system, as `uname` names it. */
  readonly system: string;
}

/** Fields of a worker's own events. `freq` is after how many s the next one follows. `state` null: it tells only who it is. */
export function writeWorker(to: AsciiWriter, freq: number, state: WorkerState | null, software: Software): void {
  if (state === null) {
    to.ascii(`"freq": ${freq}`);
  } else {
    const load = state.loadAverage.map(hundredths).join(', ');
    to.ascii(
      `"freq": ${float(freq)}, "active": ${state.active}, "processed": ${state.processed}, "loadavg": [${load}]`,
    );
  }
  const { name, version, system } = software;
  const [ident, number, uname] = [name, version, system].map(asciiJsonString);
  to.ascii(`, "sw_ident": ${ident}, "sw_ver": ${number}, "sw_sys": ${uname}`);
}

function timeOrNull(atMs: number | null): string {
  return atMs === null ? 'null' : `"${celeryTime(atMs)}"`;
}

function hundredths(value: number): string {
  return float(Math.round(value * 100) / 100);
}

/** Python tells whole numbers from floats by their looks. */
function float(value: number): string {
  return Number.isInteger(value) ? `${value}.0` : String(value);
}
