import { unzipSync } from 'node:zlib';
import { messageOf, RingbeatError } from './errors.ts';
import { type Json, parseJson } from './json.ts';

/** A task's value as it arrives: JSON, and Celery's typed values where a producer sent them. */
export type Value =
  | null
  | boolean
  | number
  | string
  | Date
  | Uint8Array
  | readonly Value[]
  | { readonly [key: string]: Value };

/** Header that Ringbeat's beat nodes write into every message. */
export interface ScheduleHeader {
  readonly schedule: string;
  /** When the occurrence was due, ms since epoch. */
  readonly due: number;
  readonly run: number;
  readonly attempt: number;
  /** What the keys of its shard begin with, where the end of the run is waited for; null where it is not. */
  readonly journal: string | null;
}

/** A task message, of protocol 1 or 2, read once and checked. */
export interface TaskMessage {
  readonly id: string;
  readonly task: string;
  readonly args: readonly Value[];
  readonly kwargs: { readonly [key: string]: Value };
  readonly retries: number;
  /** ms since epoch, or null. */
  readonly etaMs: number | null;
  /** ms since epoch, or null. */
  readonly expiresMs: number | null;
  readonly ignoreResult: boolean;
  readonly groupId: string | null;
  /** Its place in the group. */
  readonly groupIndex: number | null;
  /** Hard and soft limit of its run time, s; null where the task's own applies. */
  readonly timeLimit: readonly [hard: number | null, soft: number | null];
  /** The name under which it is shown; null: that of its task. */
  readonly shadow: string | null;
  /** Its arguments as text, as the sender wants them shown. */
  readonly argsrepr: string | null;
  readonly kwargsrepr: string | null;
  readonly rootId: string | null;
  readonly parentId: string | null;
  readonly headers: { readonly [key: string]: unknown };
  readonly deliveryInfo: DeliveryInfo;
  readonly schedule: ScheduleHeader | null;
  /** How often tasks took each other's place until this one came. */
  readonly replacedTaskNesting: number;
  /** Whether its sender's Celery reads typed values in results: 5.3 and newer. */
  readonly isTyped: boolean;
  /** What is to be sent when it has ended. */
  readonly workflow: Workflow;
}

/** A task that is to be sent later, as Celery serialises it (celery/canvas.py), with every number and typed value as it came. */
export type Signature = { readonly [field: string]: Json };

/** What follows a task: signatures for its success, its failure, the rest of its chain (the next one last), and its chord's body. */
export interface Workflow {
  readonly callbacks: readonly Signature[];
  readonly errbacks: readonly Signature[];
  readonly chain: readonly Signature[];
  readonly chord: Signature | null;
}

/** The workflow of a task that nothing follows: always this very object. */
export const NO_WORKFLOW: Workflow = { callbacks: [], errbacks: [], chain: [], chord: null };

/** As Celery shows it to tasks (celery/worker/request.py). */
export interface DeliveryInfo {
  readonly exchange: string;
  readonly routingKey: string;
  readonly priority: number;
  readonly redelivered: boolean;
}

/** Decompressed bodies larger than this are refused, bytes. */
const MAX_BODY = 64 * 1024 * 1024;

/** Reads a kombu envelope with its task. Throws UNDECODABLE_MESSAGE, saying why. */
export function readMessage(envelope: string): TaskMessage {
  const message = record(parse(envelope, 'the envelope is not JSON'), 'the envelope is no object');
  const properties = record(message.properties, 'it has no properties');
  const delivery = record(properties.delivery_info, 'it has no delivery_info');
  const headers = optionalRecord(message.headers, 'its headers are no object');
  const json = readBody(message, headers, properties);
  const body = readValue(json);

  if (Array.isArray(body)) {
    if (headers.task === undefined || headers.task === null) throw bad('it names no task');
    if (body.length !== 3) throw bad(`its body has ${body.length} parts instead of 3`);
    const [args, kwargs, third] = body;
    const embed = optionalRecord(third, 'the third part of its body is no object');
    const exact = hasWorkflow(embed) ? exactValue(json) : null;
    const workflow = Array.isArray(exact) ? workflowOf(exact[2]) : NO_WORKFLOW;
    return assemble(headers, headers, args, kwargs, workflow, properties, delivery);
  }
  // Protocol 1 keeps everything in the body; where headers are there as well, they win.
  const fields = record(body, 'its body is neither a list nor an object');
  const merged = { ...fields, ...headers };
  if (merged.task === undefined || merged.task === null) throw bad('it names no task');
  const workflow = hasWorkflow(fields) ? workflowOf(record(exactValue(json), 'its body is no object')) : NO_WORKFLOW;
  return assemble(merged, headers, fields.args ?? [], fields.kwargs ?? {}, workflow, properties, delivery);
}

/** The same; null for what is unreadable. Whoever takes it from its queue says what is wrong with it. */
export function readableMessage(envelope: string): TaskMessage | null {
  try {
    return readMessage(envelope);
  } catch {
    return null;
  }
}

type Fields = { readonly [key: string]: unknown };

/**
 * The task id and eta (ms since epoch, or null) of a kombu envelope, whatever its body is written in; null when it does not
 * tell them.
 */
export function readDelay(envelope: string): { readonly id: string; readonly etaMs: number | null } | null {
  try {
    const message = record(parse(envelope, 'the envelope is not JSON'), 'the envelope is no object');
    const headers = optionalRecord(message.headers, 'its headers are no object');
    const { id, etaMs } =
      typeof headers.task === 'string'
        ? { id: text(headers.id), etaMs: instant(headers.eta, 'eta') }
        : readMessage(envelope);
    return id === null ? null : { id, etaMs };
  } catch {
    // Whoever takes it from its queue says what is wrong with it.
    return null;
  }
}

function assemble(
  fields: Fields,
  headers: Fields,
  args: unknown,
  kwargs: unknown,
  workflow: Workflow,
  properties: Fields,
  delivery: Fields,
): TaskMessage {
  const { task, id } = fields;
  if (typeof task !== 'string' || task === '') throw bad('its task is no text');
  if (typeof id !== 'string' || id === '') throw bad('its id is no text');
  if (!Array.isArray(args)) throw bad('its args are no list');
  return {
    id,
    task,
    args,
    kwargs: valueRecord(kwargs),
    retries: typeof fields.retries === 'number' ? fields.retries : 0,
    etaMs: instant(fields.eta, 'eta'),
    expiresMs: instant(fields.expires, 'expires'),
    ignoreResult: fields.ignore_result === true,
    groupId: text(fields.taskset) ?? text(fields.group),
    groupIndex: typeof fields.group_index === 'number' ? fields.group_index : null,
    timeLimit: limitsOf(fields.timelimit),
    shadow: text(fields.shadow),
    argsrepr: text(fields.argsrepr),
    kwargsrepr: text(fields.kwargsrepr),
    rootId: text(fields.root_id),
    parentId: text(fields.parent_id),
    headers,
    deliveryInfo: {
      exchange: text(delivery.exchange) ?? '',
      routingKey: text(delivery.routing_key) ?? '',
      priority: typeof properties.priority === 'number' ? properties.priority : 0,
      redelivered: delivery.redelivered === true,
    },
    schedule: scheduleHeader(headers.ringbeat),
    replacedTaskNesting: typeof headers.replaced_task_nesting === 'number' ? headers.replaced_task_nesting : 0,
    isTyped: 'stamped_headers' in headers,
    workflow,
  };
}

function valueRecord(kwargs: unknown): { readonly [key: string]: Value } {
  if (typeof kwargs !== 'object' || kwargs === null || Array.isArray(kwargs)) throw bad('its kwargs are no object');
  return kwargs as { readonly [key: string]: Value };
}

function hasWorkflow({ callbacks, errbacks, chain, chord }: Fields): boolean {
  return isPresent(callbacks) || isPresent(errbacks) || isPresent(chain) || isPresent(chord);
}

function workflowOf({ callbacks, errbacks, chain, chord }: Fields): Workflow {
  return {
    callbacks: signatures(callbacks, 'callbacks'),
    errbacks: signatures(errbacks, 'errbacks'),
    chain: signatures(chain, 'chain'),
    chord: isPresent(chord) ? signature(chord, 'its chord is no signature') : null,
  };
}

function isPresent(part: unknown): boolean {
  return part !== undefined && part !== null && !(Array.isArray(part) && part.length === 0);
}

function signatures(part: unknown, name: string): Signature[] {
  if (part === undefined || part === null) return [];
  // Protocol 1 knows a single one beside lists.
  const list: readonly unknown[] = Array.isArray(part) ? part : [part];
  return list.map((member) => signature(member, `one of its ${name} is no signature`));
}

/** What `exactValue` made is JSON. */
function signature(value: unknown, reason: string): Signature {
  return record(value, reason) as Signature;
}

const NO_LIMITS = [null, null] as const;

function limitsOf(limits: unknown): TaskMessage['timeLimit'] {
  if (!Array.isArray(limits)) return NO_LIMITS;
  const [hard, soft] = limits.map((limit) => (typeof limit === 'number' && limit > 0 ? limit : null));
  return hard === null && soft === null ? NO_LIMITS : [hard ?? null, soft ?? null];
}

/** `rb:{3}:` (lua/keys.ts). */
const SHARD_PREFIX = /^[^{}]+:\{\d+\}:$/;

function scheduleHeader(header: unknown): ScheduleHeader | null {
  if (typeof header !== 'object' || header === null) return null;
  const { schedule, due, run, attempt, journal } = header as Fields;
  if (typeof schedule !== 'string' || typeof due !== 'number') return null;
  return {
    schedule,
    due,
    run: typeof run === 'number' ? run : 0,
    attempt: typeof attempt === 'number' ? attempt : 0,
    journal: typeof journal === 'string' && SHARD_PREFIX.test(journal) ? journal : null,
  };
}

/** Content encodings of JSON that are read; kombu writes the first. */
const TEXT_ENCODINGS: readonly unknown[] = ['utf-8', 'UTF-8', 'utf8', 'us-ascii', 'ascii', 'binary', undefined, null];

/** kombu writes a zlib stream under this name, whatever it says (kombu/compression.py). */
const COMPRESSIONS: readonly unknown[] = ['application/x-gzip', 'gzip', 'zlib'];

function readBody(message: Fields, headers: Fields, properties: Fields): string {
  const type = message['content-type'];
  // Above all pickle: to load it is to run whatever the sender wrote.
  if (type !== 'application/json' && type !== 'json')
    throw bad(`its content type is ${JSON.stringify(type) ?? 'missing'}, not application/json`);
  if (!TEXT_ENCODINGS.includes(message['content-encoding']))
    throw bad(`its content encoding is ${JSON.stringify(message['content-encoding'])}`);
  const { body } = message;
  if (typeof body !== 'string') throw bad('its body is no text');
  const compression = headers.compression;
  const isCompressed = compression !== undefined && compression !== null;
  const encoding = properties.body_encoding;

  if (encoding === 'base64') {
    const bytes = fromBase64(body);
    return isCompressed ? strictText(decompress(bytes, compression)) : strictText(bytes);
  }
  if (encoding !== undefined && encoding !== null && encoding !== 'utf-8')
    throw bad(`its body encoding is ${JSON.stringify(encoding)}`);
  if (isCompressed) throw bad('its body is compressed but not base64');
  return body;
}

function fromBase64(body: string): Buffer {
  const bytes = Buffer.from(body, 'base64');
  // Node's decoder passes over whatever is not base64, which would turn damage into other bytes.
  const padding = body.endsWith('==') ? 2 : body.endsWith('=') ? 1 : 0;
  if (body.length % 4 !== 0 || bytes.length !== (body.length / 4) * 3 - padding) throw bad('its body is not base64');
  return bytes;
}

function decompress(bytes: Buffer, compression: unknown): Buffer {
  if (!COMPRESSIONS.includes(compression)) throw bad(`its compression ${JSON.stringify(compression)} is not supported`);
  try {
    return unzipSync(bytes, { maxOutputLength: MAX_BODY });
  } catch (error) {
    throw bad(`its body cannot be decompressed (${messageOf(error)})`);
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function strictText(bytes: Buffer): string {
  const decoded = bytes.toString('utf8');
  if (!decoded.includes('\ufffd')) return decoded;
  try {
    return utf8.decode(bytes);
  } catch {
    throw bad('its body is not UTF-8');
  }
}

/** JSON as Python reads it: bare NaN and infinities are numbers, and kombu's typed values become what they stand for. */
function readValue(json: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    value = parse(withTypedNumbers(json), `its body is not JSON (${messageOf(error)})`);
    return reviveTyped(value, typedValue);
  }
  return json.includes('"__type__"') ? reviveTyped(value, typedValue) : value;
}

/** JSON as it is to be sent on: of a body that `readValue` can read. */
function exactValue(json: string): unknown {
  try {
    return parseJson(json);
  } catch {
    return reviveTyped(parseJson(withTypedNumbers(json)), (type, value) =>
      type === 'float' ? Number(value) : { __type__: type, __value__: value },
    );
  }
}

/** JavaScript knows no bare NaN and infinities in JSON. */
function withTypedNumbers(json: string): string {
  return json.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (token) => BARE_NUMBERS.get(token) ?? token);
}

const BARE_NUMBERS = new Map(
  ['NaN', 'Infinity', '-Infinity'].map((name) => [name, `{"__type__": "float", "__value__": "${name}"}`]),
);

function reviveTyped(value: unknown, typed: (type: unknown, value: unknown) => unknown): unknown {
  if (Array.isArray(value)) return value.map((member) => reviveTyped(member, typed));
  if (typeof value !== 'object' || value === null) return value;
  const keys = Object.keys(value);
  if (keys.length === 2 && '__type__' in value && '__value__' in value) return typed(value.__type__, value.__value__);
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, reviveTyped(member, typed)]));
}

/** A value that JSON holds, with the typed values in it read as those of args are; what is of no known type stays as it is. */
export function typedValues(value: unknown): unknown {
  return reviveTyped(value, (type, inner) => {
    try {
      return typedValue(type, inner);
    } catch {
      return { __type__: type, __value__: inner };
    }
  });
}

/** kombu/utils/json.py: what a producer of newer Celery means by `{"__type__": …, "__value__": …}`. */
function typedValue(type: unknown, value: unknown): unknown {
  switch (type) {
    case 'datetime':
      return new Date(instant(value, 'datetime') ?? Number.NaN);
    case 'uuid': {
      const hex = typeof value === 'object' && value !== null && 'hex' in value ? String(value.hex) : String(value);
      return hex.replaceAll('-', '').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
    }
    case 'bytes':
      return Buffer.from(String(value), 'utf8');
    case 'base64':
      return fromBase64(String(value));
    case 'float':
      return Number(value);
    case 'date':
    case 'time':
    case 'decimal':
      return String(value);
    default:
      throw bad(`it has a value of unknown type ${JSON.stringify(type)}`);
  }
}

const INSTANT =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?(?:Z|([+-])(\d\d):?(\d\d)?)?$/;

/** ISO 8601 as Celery reads it: without an offset it is UTC. ms since epoch, rounded up; null for null. */
function instant(value: unknown, field: string): number | null {
  if (value === undefined || value === null) return null;
  const match = typeof value === 'string' ? INSTANT.exec(value) : null;
  if (match === null) throw bad(`its ${field} ${JSON.stringify(value)} is no time`);
  const [
    ,
    year,
    month,
    day,
    hour = '0',
    minute = '0',
    second = '0',
    fraction = '0',
    sign,
    offsetHour = '0',
    offsetMinute = '0',
  ] = match;
  const date = Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second));
  const isReal =
    new Date(date).toISOString().startsWith(`${year}-${month}-${day}T`) && Number(minute) < 60 && Number(second) < 60;
  if (!isReal) throw bad(`its ${field} ${JSON.stringify(value)} is no time`);
  const offsetMs = (sign === '-' ? -1 : 1) * (Number(offsetHour) * 60 + Number(offsetMinute)) * 60_000;
  return date - offsetMs + Math.ceil(Number(`0.${fraction}`) * 1_000);
}

function parse(json: string, reason: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw bad(reason);
  }
}

function record(value: unknown, reason: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(reason);
  return value as Fields;
}

function optionalRecord(value: unknown, reason: string): Fields {
  return value === undefined || value === null ? {} : record(value, reason);
}

function text(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null;
}

function bad(reason: string): RingbeatError {
  return new RingbeatError('UNDECODABLE_MESSAGE', { reason });
}
