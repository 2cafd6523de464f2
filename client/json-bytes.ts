import { stringify } from 'lossless-json';
import type { FieldError } from '../schedule/field-errors.ts';

/**
 * The JSON text of what a program hands in, in UTF-8: dates as ISO 8601 in UTC, bigints as whole numbers, undefined
 * members left out; or why there is none: what JSON cannot hold is refused rather than sent as something else.
 */
export function jsonBytes(value: unknown): { readonly bytes: Buffer } | { readonly error: FieldError } {
  try {
    return { bytes: Buffer.from(stringify(value, refuseUnwritable) ?? 'null') };
  } catch (error) {
    if (error instanceof Unwritable) return { error: { path: error.path, message: `must be JSON, got ${error.what}` } };
    if (error instanceof RangeError)
      return { error: { path: '', message: 'is nested too deeply, or contains itself' } };
    throw error;
  }
}

class Unwritable extends Error {
  readonly path: string;
  readonly what: string;

  constructor(path: string, what: string) {
    super(what);
    this.path = path;
    this.what = what;
  }
}

function refuseUnwritable(key: string, value: unknown): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new Unwritable(key, String(value));
  if (typeof value === 'function' || typeof value === 'symbol') throw new Unwritable(key, `a ${typeof value}`);
  return value;
}
