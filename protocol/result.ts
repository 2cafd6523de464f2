import { isLosslessNumber, LosslessNumber } from 'lossless-json';
import { asciiJsonString, type Json, parseJson, toPythonJson } from './json.ts';
import type { TaskMessage } from './message-reader.ts';
import { anyTaskError } from './task-errors.ts';
import { celeryTime } from './task-message.ts';

/** What a result record says about the task besides its outcome. */
export interface ResultOwner {
  readonly id: string;
  readonly groupId: string | null;
  readonly parentId: string | null;
  /** Whether who reads it knows typed values; default false. */
  readonly isTyped?: boolean;
}

/** An exception as Celery's JSON result records hold it (celery/backends/base.py, prepare_exception). */
export interface ExceptionRecord {
  readonly type: string;
  readonly module: string;
  readonly args: readonly Json[];
}

/** What a record says beside; null: `children` is empty and nothing is added. */
export interface RecordDetails {
  /** Tuple forms of the tasks that this one sent (celery/result.py, as_tuple). */
  readonly children: readonly Json[];
  /** What result_extended adds: name, args, kwargs, worker, retries, queue. */
  readonly extended: { readonly [field: string]: Json } | null;
}

/** A value that is JSON text already. */
export class JsonText {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** A value that JSON cannot hold was returned by a task. */
export class EncodeError extends Error {
  override readonly name = 'EncodeError';
}

/** The record of a task that returned `value` (any JSON value; undefined is null). Throws EncodeError. */
export function successRecord(
  owner: ResultOwner,
  value: unknown,
  doneAtMs: number,
  details: RecordDetails | null = null,
): string {
  return record('SUCCESS', valueJson(value, owner.isTyped), 'null', owner, doneAtMs, details);
}

export function failureRecord(
  owner: ResultOwner,
  exception: ExceptionRecord,
  traceback: string | null,
  doneAtMs: number,
  details: RecordDetails | null = null,
): string {
  return record('FAILURE', exceptionJson(exception), textJson(traceback), owner, doneAtMs, details);
}

/** The record of a task that is sent again; `exception` is why, null where it did not say. */
export function retryRecord(
  owner: ResultOwner,
  exception: ExceptionRecord | null,
  traceback: string | null,
  details: RecordDetails | null = null,
): string {
  const reason = exception ?? { type: 'Retry', module: 'celery.exceptions', args: [] };
  return record('RETRY', exceptionJson(reason), textJson(traceback), owner, null, details);
}

/** The record of a state that a task gives itself, or STARTED; `doneAtMs` is null unless it is one of an end. Throws EncodeError. */
export function stateRecord(
  owner: ResultOwner,
  state: string,
  meta: unknown,
  details: RecordDetails | null = null,
  doneAtMs: number | null = null,
): string {
  return record(state, valueJson(meta, owner.isTyped), 'null', owner, doneAtMs, details);
}

export function revokedRecord(
  owner: ResultOwner,
  reason: 'expired' | 'revoked' | 'terminated',
  doneAtMs: number,
  details: RecordDetails | null = null,
): string {
  const exception = { type: 'TaskRevokedError', module: 'celery.exceptions', args: [reason] };
  return record('REVOKED', exceptionJson(exception), 'null', owner, doneAtMs, details);
}

/** The exception that Celery stores for a task nobody has registered. */
export function notRegistered(task: string): ExceptionRecord {
  return { type: 'NotRegistered', module: 'celery.exceptions', args: [task] };
}

/**
 * Whatever a task threw, as an exception record. Python's own exception names become those exceptions on the other
 * side; any other name becomes an exception class of that name.
 */
export function exceptionOf(thrown: unknown): ExceptionRecord {
  if (anyTaskError(thrown)) return { type: thrown.name, module: thrown.module, args: thrown.args };
  if (!(thrown instanceof Error)) return { type: 'Error', module: 'ringbeat', args: [describe(thrown)] };
  const type = typeof thrown.name === 'string' && thrown.name !== '' ? thrown.name : 'Error';
  return { type, module: moduleOf(thrown, type), args: [String(thrown.message)] };
}

/** The traceback of whatever a task threw: its stack, with those of its causes. */
export function tracebackOf(thrown: unknown): string | null {
  if (!(thrown instanceof Error)) return null;
  const lines: string[] = [];
  for (let error: unknown = thrown, depth = 0; error instanceof Error && depth < 10; error = error.cause, depth++) {
    lines.push(`${depth === 0 ? '' : 'Caused by: '}${error.stack ?? `${error.name}: ${error.message}`}`);
  }
  return lines.join('\n');
}

function moduleOf(thrown: Error, type: string): string {
  if (thrown instanceof EncodeError) return 'kombu.exceptions';
  return PYTHON_EXCEPTIONS.has(type) ? 'builtins' : 'ringbeat';
}

/** Exceptions of Python's builtins that one text argument makes. */
const PYTHON_EXCEPTIONS = new Set(
  `ArithmeticError AssertionError AttributeError BlockingIOError BrokenPipeError BufferError ChildProcessError
  ConnectionAbortedError ConnectionError ConnectionRefusedError ConnectionResetError EOFError EnvironmentError Exception
  FileExistsError FileNotFoundError FloatingPointError IOError ImportError IndentationError IndexError InterruptedError
  IsADirectoryError KeyError LookupError MemoryError ModuleNotFoundError NameError NotADirectoryError NotImplementedError
  OSError OverflowError PermissionError ProcessLookupError RecursionError ReferenceError RuntimeError SyntaxError SystemError
  TabError TimeoutError TypeError UnboundLocalError ValueError ZeroDivisionError`.split(/\s+/),
);

// Key order and blanks as Celery writes them, so that whoever compares or greps records finds no difference.
function record(
  status: string,
  result: string,
  traceback: string,
  owner: ResultOwner,
  doneAtMs: number | null,
  details: RecordDetails | null,
): string {
  const children = details === null ? '[]' : toPythonJson(details.children);
  const done = doneAtMs === null ? 'null' : `"${isoTime(doneAtMs)}"`;
  const group = owner.groupId === null ? '' : `"group_id": ${asciiJsonString(owner.groupId)}, `;
  const parent = owner.parentId === null ? '' : `"parent_id": ${asciiJsonString(owner.parentId)}, `;
  const extended = details?.extended == null ? '' : `${toPythonJson(details.extended).slice(1, -1)}, `;
  const outcome = `{"status": ${asciiJsonString(status)}, "result": ${result}, "traceback": ${traceback}, "children": ${children}`;
  // A record waits to be stored. As the one flat text that `join` makes it costs the garbage collector much less meanwhile.
  return [
    outcome,
    `, "date_done": ${done}, `,
    group,
    parent,
    extended,
    `"task_id": ${asciiJsonString(owner.id)}}`,
  ].join('');
}

function textJson(text: string | null): string {
  return text === null ? 'null' : asciiJsonString(text);
}

function exceptionJson(exception: ExceptionRecord): string {
  return toPythonJson(exceptionValue(exception));
}

let isoMs = Number.NaN;
let isoText = '';

/** Six fraction digits and `+00:00`: the one form that Celery 5.2 and newer read alike. */
function isoTime(atMs: number): string {
  const wholeMs = Math.trunc(atMs);
  if (wholeMs !== isoMs) {
    isoText = `${new Date(wholeMs).toISOString().slice(0, -1)}000+00:00`;
    isoMs = wholeMs;
  }
  return isoText;
}

/**
 * The JSON text of any value that JSON can hold; undefined is null. With `isTyped` a Date is one for Celery, too, as newer
 * Celery writes it; otherwise it is its text, as 5.2 writes it. Bytes are typed in any case. Throws EncodeError.
 */
export function valueJson(value: unknown, isTyped = false): string {
  if (value instanceof JsonText) return value.text;
  if (value === undefined || value === null) return 'null';
  if (typeof value === 'number' || typeof value === 'boolean') return toPythonJson(value);
  if (typeof value === 'string') return asciiJsonString(value);
  const json = jsonOf(value, '', 0, isTyped);
  if (json === undefined) throw new EncodeError(`a ${typeof value} is no JSON value`);
  return toPythonJson(json);
}

/** What `valueJson` writes, as a value. Throws EncodeError. */
export function jsonValue(value: unknown, isTyped = false): Json {
  if (value instanceof JsonText) return parseJson(value.text);
  if (value === undefined || value === null) return null;
  const json = jsonOf(value, '', 0, isTyped);
  if (json === undefined) throw new EncodeError(`a ${typeof value} is no JSON value`);
  return json;
}

/** An exception as it stands in records and in parts of chords. */
export function exceptionValue({ type, module, args }: ExceptionRecord): Json {
  return { exc_type: type, exc_message: args, exc_module: module };
}

/** A guard against values that contain themselves; deeper than any reader follows. */
const MAX_DEPTH = 500;

/** The JSON value that `JSON.stringify` would write, with bigints as whole numbers; undefined for what it leaves out. */
function jsonOf(value: unknown, key: string, depth: number, isTyped: boolean): Json | undefined {
  if (depth > MAX_DEPTH) throw new EncodeError('it is nested too deeply, or contains itself');
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
    return value;
  if (typeof value === 'bigint') return new LosslessNumber(String(value));
  if (typeof value !== 'object') return undefined;
  if (isLosslessNumber(value)) return value;
  if (value instanceof Uint8Array) return typedBytes(value);
  if (isTyped && value instanceof Date && !Number.isNaN(value.getTime()))
    return { __type__: 'datetime', __value__: celeryTime(value.getTime()) };
  if ('toJSON' in value && typeof value.toJSON === 'function')
    return jsonOf(value.toJSON(key), key, depth + 1, isTyped);
  if (Array.isArray(value))
    return value.map((member, index) => jsonOf(member, String(index), depth + 1, isTyped) ?? null);
  if (value instanceof Number || value instanceof String || value instanceof Boolean) return value.valueOf();
  const members: [string, Json][] = [];
  for (const [name, member] of Object.entries(value)) {
    const json = jsonOf(member, name, depth + 1, isTyped);
    if (json !== undefined) members.push([name, json]);
  }
  return Object.fromEntries(members);
}

/** As kombu writes bytes (kombu/utils/json.py): as text where they are UTF-8. */
function typedBytes(bytes: Uint8Array): Json {
  const text = Buffer.from(bytes).toString('utf8');
  const isText = Buffer.from(text, 'utf8').equals(bytes);
  return isText
    ? { __type__: 'bytes', __value__: text }
    : { __type__: 'base64', __value__: Buffer.from(bytes).toString('base64') };
}

/** What result_extended adds to the record of a task that ran on this worker (celery/backends/base.py, _get_result_meta). */
export function extendedFields(message: TaskMessage, hostname: string): { readonly [field: string]: Json } {
  const { task, args, kwargs, retries, deliveryInfo, headers } = message;
  const names = Array.isArray(headers.stamped_headers) ? headers.stamped_headers.map(String) : [];
  const stamps = headers.stamps !== null && typeof headers.stamps === 'object' ? headers.stamps : {};
  const stamped = names.map((name) => [name, jsonValue(Reflect.get(stamps, name))]);
  return {
    name: task,
    args: jsonValue(args, message.isTyped),
    kwargs: jsonValue(kwargs, message.isTyped),
    worker: hostname,
    retries,
    queue: deliveryInfo.routingKey,
    ...(names.length === 0 ? {} : { stamped_headers: names, ...Object.fromEntries(stamped) }),
  };
}

function describe(thrown: unknown): string {
  try {
    return typeof thrown === 'object' && thrown !== null ? (JSON.stringify(thrown) ?? String(thrown)) : String(thrown);
  } catch {
    return Object.prototype.toString.call(thrown);
  }
}
