import { LosslessNumber } from 'lossless-json';
import { z } from 'zod';
import type { Json } from '../protocol/json.ts';
import { formatInstant, parseInstant } from './instant.ts';

/** The kinds of field that specs are made of, as zod schemas: refused unless exactly right, then in one notation. */

export const MAX_NAME_BYTES = 200;

/** Python's JSON reader gives up at about 1,000 levels, and so does whoever reads the arguments recursively. */
export const MAX_DEPTH = 64;

/** 100 years, s: further ahead is a mistake in the unit. */
const LONGEST_DURATION = 3_155_760_000;

type JsonList = readonly Json[];
type JsonObject = { readonly [key: string]: Json };

/** A text of 1 to 200 bytes. */
export function name(description: string) {
  return z
    .string()
    .check(({ value, issues }) => {
      const refuse = (message: string) => issues.push({ code: 'custom', message, input: value });
      if (value === '') refuse('must not be empty');
      // A UTF-16 unit takes at most 3 bytes, so short texts need no counting.
      else if (value.length * 3 > MAX_NAME_BYTES && Buffer.byteLength(value) > MAX_NAME_BYTES)
        refuse(`must have at most ${MAX_NAME_BYTES} bytes`);
      if (/\p{Cs}/u.test(value)) refuse(LONE_SURROGATE);
    })
    .meta({ description, minLength: 1, maxLength: MAX_NAME_BYTES });
}

/** The same without control characters. */
export function printableName(description: string) {
  return name(description).regex(/^\P{Cc}*$/u, 'must not contain control characters');
}

/** A time in ISO 8601 with an offset, from then on in UTC with ms. */
export function instant(description: string) {
  return z
    .string()
    .refine((text) => parseInstant(text) !== null, {
      error: 'must be an ISO 8601 time with Z or an offset, such as 2027-01-31T08:00:00Z, from 1970 to 9999',
      abort: true,
    })
    .overwrite((text) => formatInstant(parseInstant(text) ?? 0))
    .meta({ description, format: 'date-time' });
}

/** Seconds, rounded to ms. */
export function duration(description: string) {
  return z.number().max(LONGEST_DURATION).overwrite(wholeMs).describe(description);
}

/** Seconds, at least 1 ms. */
export function positiveDuration(description: string) {
  return duration(description).min(0.001);
}

/** Seconds, to the ms. */
export function wholeMs(seconds: number): number {
  return Math.round(seconds * 1_000) / 1_000;
}

/** What Celery passes on as `args`. */
export function jsonList(description: string) {
  return z
    .custom<JsonList>((value) => Array.isArray(value), { error: 'must be a JSON array', abort: true })
    .check(({ value, issues }) => refuseUnusable(value, issues))
    .meta({ description, type: 'array', items: {} });
}

/** What Celery passes on as `kwargs`. */
export function jsonObject(description: string) {
  return z
    .custom<JsonObject>((value) => isObject(value), { error: 'must be a JSON object', abort: true })
    .check(({ value, issues }) => refuseUnusable(value, issues))
    .meta({ description, type: 'object', additionalProperties: {} });
}

export const TOO_DEEP = `must not be nested deeper than ${MAX_DEPTH} levels`;

const LONE_SURROGATE = 'must not contain a lone surrogate';

function refuseUnusable(value: JsonList | JsonObject, issues: z.core.$ZodRawIssue[]): void {
  const message = findUnusable(value, 1);
  if (message !== null) issues.push({ code: 'custom', message, input: value });
}

/** Why a JSON value cannot be sent to a task, or null when it can. */
function findUnusable(value: unknown, depth: number): string | null {
  if (typeof value === 'string') return /\p{Cs}/u.test(value) ? LONE_SURROGATE : null;
  if (typeof value !== 'object' || value === null || value instanceof LosslessNumber) return null;
  if (depth > MAX_DEPTH) return TOO_DEEP;
  for (const [key, member] of Object.entries(value)) {
    if (key === '__proto__') return 'must not have a member named "__proto__"';
    const message = (Array.isArray(value) ? null : findUnusable(key, depth)) ?? findUnusable(member, depth + 1);
    if (message !== null) return message;
  }
  return null;
}

/** Whether a value that `parseJson` read is a JSON object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof LosslessNumber);
}
