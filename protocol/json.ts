import {
  isLosslessNumber,
  LosslessNumber,
  parse as parseLossless,
  stringify as stringifyLossless,
} from 'lossless-json';

export type Json =
  | null
  | boolean
  | number
  | string
  | LosslessNumber
  | readonly Json[]
  | { readonly [key: string]: Json };

/** Digits that a double may not keep, or a notation that JavaScript would not write back (1.0, 1e3, -0). */
const RISKY_NUMBER = /\d{16}|\d\.\d*0(?!\d)|\d[eE]|-0(?![.\d])/;

const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/g;

/**
 * The value of a JSON text. Numbers that JavaScript would change (`1.0`, `12345678901234567890`) are kept as
 * LosslessNumber, so that a task gets exactly the number its user wrote. Throws SyntaxError.
 */
export function parseJson(text: string): Json {
  // In texts the same digits are no numbers: an id in hex often looks like one, and the lossless parser is slow.
  if (!RISKY_NUMBER.test(text) || !RISKY_NUMBER.test(text.replace(STRING, '""'))) return JSON.parse(text);
  return parseLossless(text, undefined, (digits) =>
    String(Number(digits)) === digits ? Number(digits) : new LosslessNumber(digits),
  ) as Json;
}

/** Compact JSON as JavaScript writes it. */
export function toJson(value: Json): string {
  return stringifyLossless(value) ?? 'null';
}

/** JSON as Python's `json.dumps` writes it: blanks after `,` and `:`, ASCII only. */
export function toPythonJson(value: Json): string {
  if (typeof value === 'string') return asciiJsonString(value);
  if (value === null || typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return pythonNumber(value);
  if (isLosslessNumber(value)) return value.toString();
  if (isList(value)) return `[${value.map(toPythonJson).join(', ')}]`;
  return `{${Object.entries(value)
    .map(([key, member]) => `${asciiJsonString(key)}: ${toPythonJson(member)}`)
    .join(', ')}}`;
}

/** A string as an ASCII-only JSON string, as Python's `json.dumps` writes it. */
export function asciiJsonString(text: string): string {
  const json = JSON.stringify(text);
  if (/^[\x20-\x7e]*$/.test(json)) return json;
  return json.replace(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Celery shows at most this much of `argsrepr` and `kwargsrepr` (celery/app/amqp.py, argsrepr_maxsize). */
const REPR_MAX_LENGTH = 1024;

/** `argsrepr` as Celery shows it: Python's repr of a tuple. */
export function argsRepr(args: readonly Json[]): string {
  return truncated(args.length === 1 ? `(${pythonRepr(args[0]!)},)` : `(${args.map(pythonRepr).join(', ')})`);
}

/** `kwargsrepr` as Celery shows it: Python's repr of a dict. */
export function kwargsRepr(kwargs: { readonly [key: string]: Json }): string {
  return truncated(pythonRepr(kwargs));
}

function truncated(repr: string): string {
  return repr.length <= REPR_MAX_LENGTH ? repr : `${repr.slice(0, REPR_MAX_LENGTH - 3)}...`;
}

/** Python's `repr()` of a JSON value. */
export function pythonRepr(value: Json): string {
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'string') return pythonStringRepr(value);
  if (typeof value === 'number') return pythonNumber(value);
  if (isLosslessNumber(value)) return value.toString();
  if (isList(value)) return `[${value.map(pythonRepr).join(', ')}]`;
  return `{${Object.entries(value)
    .map(([key, member]) => `${pythonStringRepr(key)}: ${pythonRepr(member)}`)
    .join(', ')}}`;
}

function isList(value: readonly Json[] | { readonly [key: string]: Json }): value is readonly Json[] {
  return Array.isArray(value);
}

function pythonStringRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text
    .replaceAll('\\', '\\\\')
    .replaceAll('\n', '\\n')
    .replaceAll('\r', '\\r')
    .replaceAll('\t', '\\t')
    .replace(/[\x00-\x1f\x7f]/g, (unit) => `\\x${unit.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
}

/** 1e21 -> 1e+21, as both languages write it; NaN and infinities as Python's json does. */
function pythonNumber(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity';
  return String(value);
}
