import { isLosslessNumber } from 'lossless-json';
import { pythonRepr } from './json.ts';
import type { ExceptionRecord } from './result.ts';
import { celeryTime } from './task-message.ts';

/** Celery shows at most this much of a result (celery/app/task.py, resultrepr_maxsize), characters. */
export const RESULT_REPR_LENGTH = 1_024;

/** As deep as Celery shows lists and objects within each other (celery/utils/saferepr.py, maxlevels). */
const MAX_DEPTH = 3;

/**
 * Python's `repr()` of a value, cut to `maxLength` characters. It costs no more than what is shown, however large the value
 * is. What JSON has no form for is shown as the text that its result record holds.
 */
export function shortRepr(value: unknown, maxLength = RESULT_REPR_LENGTH): string {
  const writer = { text: '', room: maxLength };
  write(writer, value, 0);
  return writer.text.length <= maxLength ? writer.text : `${writer.text.slice(0, maxLength - 3)}...`;
}

/** As Python's `repr()` writes an exception. */
export function exceptionRepr({ type, args }: ExceptionRecord): string {
  return `${type}(${args.map(pythonRepr).join(', ')})`;
}

interface Writer {
  text: string;
  readonly room: number;
}

function write(writer: Writer, value: unknown, depth: number): void {
  if (writer.text.length > writer.room) return;
  if (typeof value !== 'object' || value === null || isLosslessNumber(value)) writer.text += scalar(writer, value);
  else if (value instanceof Date) writer.text += pythonRepr(celeryTime(value.getTime()));
  else if (value instanceof Uint8Array) writer.text += `b${stringRepr(writer, Buffer.from(value).toString('latin1'))}`;
  else if (depth === MAX_DEPTH) writer.text += Array.isArray(value) ? '[...]' : '{...}';
  else if (Array.isArray(value)) writeList(writer, value, depth);
  else writeObject(writer, value, depth);
}

function scalar(writer: Writer, value: unknown): string {
  switch (typeof value) {
    case 'string':
      return stringRepr(writer, value);
    case 'number':
    case 'boolean':
      return pythonRepr(value);
    case 'bigint':
      return String(value);
    default:
      return isLosslessNumber(value) ? value.toString() : 'None';
  }
}

function stringRepr({ text, room }: Writer, value: string): string {
  // One more than fits, so that it shows that it was cut.
  return pythonRepr(value.slice(0, Math.max(1, room - text.length + 1)));
}

function writeList(writer: Writer, list: readonly unknown[], depth: number): void {
  writer.text += '[';
  for (let i = 0; i < list.length && writer.text.length <= writer.room; i++) {
    if (i > 0) writer.text += ', ';
    write(writer, list[i], depth + 1);
  }
  writer.text += ']';
}

function writeObject(writer: Writer, members: object, depth: number): void {
  writer.text += '{';
  let isFirst = true;
  for (const key in members) {
    if (!Object.hasOwn(members, key)) continue;
    if (writer.text.length > writer.room) break;
    if (!isFirst) writer.text += ', ';
    isFirst = false;
    writer.text += `${stringRepr(writer, key)}: `;
    write(writer, Reflect.get(members, key), depth + 1);
  }
  writer.text += '}';
}
