import { asciiJsonString, type Json, toPythonJson } from './json.ts';
import type { TaskMessage } from './message-reader.ts';
import { shortRepr } from './repr.ts';
import { celeryTime } from './task-message.ts';

/**
 * Celery's events on the wire (celery/events/dispatcher.py): JSON in a kombu envelope, published on a channel that is named
 * by database, exchange and type. A worker sends tens of thousands a second, so each is joined from text that is ready.
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

/** What each event of a sender begins with; its clock follows. */
export function eventHead({ hostname, utcOffset, pid }: EventSender): string {
  return `{"hostname": ${text(hostname)}, "utcoffset": ${utcOffset}, "pid": ${pid}, "clock": `;
}

/** One event: its sender, logical time, fields, time (s since epoch) and type. */
export function eventText(head: string, clock: number, fields: string, timestamp: string, type: string): string {
  return `${head}${clock}, ${fields}, "timestamp": ${timestamp}, "type": "${type}"}`;
}

/**
 * Base64 is made in parts of this many bytes, a multiple of 3: as one long string it would take six times as long, most of it
 * in the garbage collector.
 */
const BASE64_PART = 24_576;

/** The bytes of a kombu envelope around one event, or around a list of them, whose JSON is `body`. */
export function eventEnvelope(message: {
  readonly body: Buffer;
  readonly hostname: string;
  readonly routingKey: string;
  readonly deliveryTag: string;
}): Buffer {
  const { body } = message;
  const before = '{"body": "';
  const after = `", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"hostname": ${text(message.hostname)}}, "properties": {"delivery_mode": 1, "delivery_info": {"exchange": "${EVENT_EXCHANGE}", "routing_key": ${text(message.routingKey)}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "${message.deliveryTag}"}}`;
  const envelope = Buffer.allocUnsafe(before.length + Math.ceil(body.length / 3) * 4 + after.length);
  let end = envelope.write(before, 0, 'latin1');
  for (let start = 0; start < body.length; start += BASE64_PART)
    end += envelope.write(body.toString('base64', start, start + BASE64_PART), end, 'latin1');
  envelope.write(after, end, 'latin1');
  return envelope;
}

/** Fields of any event, as JSON writes them. Fields that every event has are left out. */
export function customFields(id: string, fields: { readonly [key: string]: Json }): string {
  const { hostname, utcoffset, pid, clock, timestamp, type, uuid, ...own } = fields;
  const json = toPythonJson(own);
  return json === '{}' ? taskFields(id) : `${taskFields(id)}, ${json.slice(1, -1)}`;
}

/** Fields of an event that tells nothing but the task. */
export function taskFields(id: string): string {
  return `"uuid": ${text(id)}`;
}

/** Fields of `task-received`. */
export function receivedFields(message: TaskMessage): string {
  const { id, rootId, parentId, etaMs, expiresMs } = message;
  const args = message.argsrepr ?? shortRepr(message.args);
  const kwargs = message.kwargsrepr ?? shortRepr(message.kwargs);
  return `"uuid": ${text(id)}, "name": ${text(message.shadow ?? message.task)}, "args": ${text(args)}, "kwargs": ${text(kwargs)}, "root_id": ${idOrNull(rootId)}, "parent_id": ${idOrNull(parentId)}, "retries": ${message.retries}, "eta": ${timeOrNull(etaMs)}, "expires": ${timeOrNull(expiresMs)}`;
}

/** Fields of `task-succeeded`; `runtime` in s. */
export function succeededFields(id: string, resultRepr: string, runtime: number): string {
  return `"uuid": ${text(id)}, "result": ${text(resultRepr)}, "runtime": ${float(runtime)}`;
}

/** Fields of `task-failed` and `task-retried`. */
export function failedFields(id: string, exceptionRepr: string, traceback: string | null): string {
  const fields = `"uuid": ${text(id)}, "exception": ${text(exceptionRepr)}`;
  return traceback === null ? fields : `${fields}, "traceback": ${text(traceback)}`;
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
export function revokedFields(id: string, { terminated, signum, expired }: Revocation): string {
  return `"uuid": ${text(id)}, "terminated": ${terminated}, "signum": ${signum}, "expired": ${expired}`;
}

/** Fields of `task-rejected`. */
export function rejectedFields(id: string, requeue: boolean): string {
  return `"uuid": ${text(id)}, "requeue": ${requeue}`;
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
export function workerFields(freq: number, state: WorkerState | null, { name, version, system }: Software): string {
  const software = `"sw_ident": ${text(name)}, "sw_ver": ${text(version)}, "sw_sys": ${text(system)}`;
  if (state === null) return `"freq": ${freq}, ${software}`;
  const { active, processed, loadAverage } = state;
  return `"freq": ${float(freq)}, "active": ${active}, "processed": ${processed}, "loadavg": [${loadAverage.map(hundredths).join(', ')}], ${software}`;
}

const PLAIN = /^[\x20\x21\x23-\x5b\x5d-\x7e]*$/;

/** A JSON string in ASCII. Most hold nothing that would have to be written differently, and are found out fast. */
function text(value: string): string {
  return PLAIN.test(value) ? `"${value}"` : asciiJsonString(value);
}

function idOrNull(id: string | null): string {
  return id === null ? 'null' : text(id);
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
