import { isLosslessNumber, LosslessNumber } from 'lossless-json';
import { asciiJsonString, type Json, toPythonJson } from './json.ts';

/** What a result record says about the task besides its outcome. */
export interface ResultOwner {
  readonly id: string;
  readonly groupId: string | null;
  readonly parentId: string | null;
}

/** An exception as Celery's JSON result records hold it (celery/backends/base.py, prepare_exception). */
export interface ExceptionRecord {
  readonly type: string;
  readonly module: string;
  readonly args: readonly Json[];
}

/** A value that JSON cannot hold was returned by a task. */
export class EncodeError extends Error {
  override readonly name = 'EncodeError';
}

/** The record of a task that returned `value` (any JSON value; undefined is null). Throws EncodeError. */
export function successRecord(owner: ResultOwner, value: unknown, doneAtMs: number): string {
  return record('SUCCESS', plainJson(value), 'null', owner, doneAtMs);
}

export function failureRecord(
  owner: ResultOwner,
  exception: ExceptionRecord,
  traceback: string | null,
  doneAtMs: number,
): string {
  const text = traceback === null ? 'null' : asciiJsonString(traceback);
  return record('FAILURE', exceptionJson(exception), text, owner, doneAtMs);
}

export function revokedRecord(
  owner: ResultOwner,
  reason: 'expired' | 'revoked' | 'terminated',
  doneAtMs: number,
): string {
  const exception = { type: 'TaskRevokedError', module: 'celery.exceptions', args: [reason] };
  return record('REVOKED', exceptionJson(exception), 'null', owner, doneAtMs);
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
function record(status: string, result: string, traceback: string, owner: ResultOwner, doneAtMs: number): string {
  const group = owner.groupId === null ? '' : `"group_id": ${asciiJsonString(owner.groupId)}, `;
  const parent = owner.parentId === null ? '' : `"parent_id": ${asciiJsonString(owner.parentId)}, `;
  return `{"status": "${status}", "result": ${result}, "traceback": ${traceback}, "children": [], "date_done": "${isoTime(doneAtMs)}", ${group}${parent}"task_id": ${asciiJsonString(owner.id)}}`;
}

function exceptionJson({ type, module, args }: ExceptionRecord): string {
  return `{"exc_type": ${asciiJsonString(type)}, "exc_message": ${toPythonJson(args)}, "exc_module": ${asciiJsonString(module)}}`;
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

function plainJson(value: unknown): string {
  if (value === undefined || value === null) return 'null';
  if (typeof value === 'number' || typeof value === 'boolean') return toPythonJson(value);
  if (typeof value === 'string') return asciiJsonString(value);
  const json = jsonOf(value, '', 0);
  if (json === undefined) throw new EncodeError(`a ${typeof value} is no JSON value`);
  return toPythonJson(json);
}

/** A guard against values that contain themselves; deeper than any reader follows. */
const MAX_DEPTH = 500;

/** The JSON value that `JSON.stringify` would write, with bigints as whole numbers; undefined for what it leaves out. */
function jsonOf(value: unknown, key: string, depth: number): Json | undefined {
  if (depth > MAX_DEPTH) throw new EncodeError('it is nested too deeply, or contains itself');
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
    return value;
  if (typeof value === 'bigint') return new LosslessNumber(String(value));
  if (typeof value !== 'object') return undefined;
  if (isLosslessNumber(value)) return value;
  if ('toJSON' in value && typeof value.toJSON === 'function') return jsonOf(value.toJSON(key), key, depth + 1);
  if (Array.isArray(value)) return value.map((member, index) => jsonOf(member, String(index), depth + 1) ?? null);
  if (value instanceof Number || value instanceof String || value instanceof Boolean) return value.valueOf();
  const members: [string, Json][] = [];
  for (const [name, member] of Object.entries(value)) {
    const json = jsonOf(member, name, depth + 1);
    if (json !== undefined) members.push([name, json]);
  }
  return Object.fromEntries(members);
}

function describe(thrown: unknown): string {
  try {
    return typeof thrown === 'object' && thrown !== null ? (JSON.stringify(thrown) ?? String(thrown)) : String(thrown);
  } catch {
    return Object.prototype.toString.call(thrown);
  }
}
