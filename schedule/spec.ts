import { isUtf8 } from 'node:buffer';
import { LosslessNumber } from 'lossless-json';
import { z } from 'zod';
import { type Json, parseJson, toJson } from '../protocol/json.ts';
import { type FieldError, fieldErrors, READABLE } from './field-errors.ts';
import { formatInstant, parseInstant } from './instant.ts';

/** A spec, as JSON, may be this long. */
export const MAX_SPEC_BYTES = 65_536;

const MAX_NAME_BYTES = 200;

const MAX_TAGS = 32;

/** Python's JSON reader gives up at about 1,000 levels, and so does whoever reads the arguments recursively. */
const MAX_DEPTH = 64;

/** 10 years of 365.25 days, s. */
const LONGEST_INTERVAL = 315_576_000;

/** 100 years, s: further ahead is a mistake in the unit. */
const LONGEST_DURATION = 3_155_760_000;

const NOT_YET = 'is not supported by this version';

/** Fields of the format that later versions understand; named, so that nobody looks for a typing error. */
const LATER_FIELDS = new Set([
  'schedule.cron',
  'schedule.after',
  'schedule.solar',
  'schedule.rrule',
  'schedule.trigger',
  'options.worker',
]);

/** Headers that a task message has already (celery/app/amqp.py as_task_v2; kombu; our own). */
const RESERVED_HEADERS = new Set([
  ...[
    'lang',
    'task',
    'id',
    'shadow',
    'eta',
    'expires',
    'group',
    'group_index',
    'retries',
    'timelimit',
    'root_id',
    'parent_id',
  ],
  ...[
    'argsrepr',
    'kwargsrepr',
    'origin',
    'ignore_result',
    'ringbeat',
    'redelivered',
    'compression',
    'stamps',
    'stamped_headers',
  ],
  'replaced_task_nesting',
]);

/** Lists and hashes that kombu and Celery's result backend keep beside the queues (`KOMBU` in lua/keys.ts). */
const RESERVED_QUEUES = new Set(['unacked', 'unacked_index', 'unacked_mutex']);
const RESERVED_QUEUE_PREFIXES = ['_kombu.', 'celery-task-meta-', 'celery-taskset-meta-'];
const PRIORITY_SEPARATOR = '\x06\x16';

type JsonList = readonly Json[];
type JsonObject = { readonly [key: string]: Json };

/** The fields of a spec, one schema each. */
export function createSpecFields(namespace: string) {
  const queuePrefixes = [`${namespace}:`, ...RESERVED_QUEUE_PREFIXES];
  const queue = name('Kombu list that the messages are pushed to.').check(({ value, issues }) => {
    const refuse = (message: string) => issues.push({ code: 'custom', message, input: value });
    if (RESERVED_QUEUES.has(value)) refuse(`must not be "${value}", which kombu keeps for itself`);
    if (value.includes(PRIORITY_SEPARATOR)) refuse('must not contain \\x06\\x16, with which kombu marks priorities');
    const prefix = queuePrefixes.find((prefix) => value.startsWith(prefix));
    if (prefix !== undefined) refuse(`must not begin with "${prefix}"`);
  });
  return {
    id: printableName('Name of the schedule: 1 to 200 bytes of UTF-8 without control characters.'),
    task: name('Name of the Celery task.'),
    args: jsonList('Positional arguments.').default([]),
    kwargs: jsonObject('Keyword arguments.').default({}),
    queue: queue.default('celery'),
    schedule: timing,
    start: instant('No run before this time; the grid stays the same.').nullable().default(null),
    end: instant('No run at or after this time.').nullable().default(null),
    max_runs: z.literal(null, { error: NOT_YET }).default(null),
    jitter: z.literal(0, { error: NOT_YET }).default(0),
    exclude: z.array(z.never({ error: NOT_YET })).default([]),
    misfire: misfire.default({ policy: 'latest', grace: null }),
    overlap: z.literal('allow', { error: 'other than "allow" is not supported by this version' }).default('allow'),
    queue_cap: z
      .int()
      .min(0)
      .nullable()
      .default(null)
      .describe(
        "Longest the queue may be, over all its priorities, for this schedule to be sent; null: the namespace's cap.",
      ),
    options: options.default(NO_OPTIONS),
    enabled: z.boolean().default(true),
    tags: z.array(printableName('1 to 200 bytes.')).max(MAX_TAGS).default([]),
  };
}

/**
 * What a user hands in to have a task run at given times. Nothing is coerced, unknown fields are refused, defaults are
 * filled, seconds are rounded to ms, times are written in UTC. The namespace's own keys cannot be queues.
 */
export function createSpecSchema(namespace: string) {
  return z.strictObject(createSpecFields(namespace)).check(({ value, issues }) => {
    const refuse = (path: string[], message: string) => issues.push({ code: 'custom', path, message, input: value });
    const { schedule, start, end } = value;
    // All are in one notation by now, so that they compare as texts.
    if (start !== null && end !== null && end <= start) refuse(['end'], 'must be later than start');
    if ('at' in schedule && start !== null && schedule.at < start)
      refuse(['schedule', 'at'], 'must not be before start');
    if ('at' in schedule && end !== null && schedule.at >= end) refuse(['schedule', 'at'], 'must be before end');
  });
}

export type SpecSchema = ReturnType<typeof createSpecSchema>;

/** A checked spec with every default filled in. */
export type ScheduleSpec = z.output<SpecSchema>;

const every = z
  .strictObject({
    every: z
      .number()
      .min(0.1)
      .max(LONGEST_INTERVAL)
      .overwrite(wholeMs)
      .describe('Interval, s. Runs lie on a fixed grid that never drifts.'),
    phase: z
      .union([z.literal('spread'), z.literal('now'), z.number().min(0).overwrite(wholeMs)], {
        error: 'must be "spread", "now" or an offset in seconds from 0',
      })
      .default('spread')
      .describe(
        'Where the grid lies: by a hash of the id, from the moment of registration, or this many s after the epoch (less than every).',
      ),
  })
  .check(({ value, issues }) => {
    if (typeof value.phase === 'number' && value.phase >= value.every) {
      issues.push({ code: 'custom', path: ['phase'], message: 'must be less than every', input: value.phase });
    }
  });

const at = z.strictObject({ at: instant('Runs once, at this time; in the past it is a missed run.') });

const inSeconds = z.strictObject({ in: duration('Runs once, this many s after it was first registered.').min(0) });

const KINDS = ['every', 'at', 'in'];

const timing = z.union([every, at, inSeconds], { error: `must be an object with one of ${KINDS.join(', ')}` });

const misfire = z
  .strictObject({
    policy: z.enum(['latest', 'all', 'skip']).default('latest').describe('Which of several missed runs are sent.'),
    grace: duration('Missed runs older than this many s are dropped; null: no limit.').min(0).nullable().default(null),
  })
  .describe('What becomes of runs that could not be sent in time.');

const options = z
  .strictObject({
    priority: z.int().min(0).max(9).nullable().default(null),
    expires: z
      .union([positiveDuration('s after the due time'), instant('or a time')], {
        error: 'must be a number of seconds above 0, an ISO 8601 time, or null',
      })
      .nullable()
      .default(null)
      .describe('After this the task is not run any more.'),
    time_limit: positiveDuration('Hard limit of the run time, s.').nullable().default(null),
    soft_time_limit: positiveDuration('Soft limit of the run time, s.').nullable().default(null),
    ignore_result: z.boolean().default(true),
    headers: jsonObject('Message headers of your own.')
      .check(({ value, issues }) => {
        for (const key of Object.keys(value)) {
          if (!RESERVED_HEADERS.has(key)) continue;
          issues.push({ code: 'custom', path: [key], message: "is one of Celery's own headers", input: value });
        }
      })
      .default({}),
  })
  .check(({ value, issues }) => {
    const { time_limit, soft_time_limit } = value;
    if (time_limit !== null && soft_time_limit !== null && soft_time_limit > time_limit) {
      issues.push({
        code: 'custom',
        path: ['soft_time_limit'],
        message: 'must not be above time_limit',
        input: soft_time_limit,
      });
    }
  });

const NO_OPTIONS: z.output<typeof options> = {
  priority: null,
  expires: null,
  time_limit: null,
  soft_time_limit: null,
  ignore_result: true,
  headers: {},
};

function name(description: string) {
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

function printableName(description: string) {
  return name(description).regex(/^\P{Cc}*$/u, 'must not contain control characters');
}

function instant(description: string) {
  return z
    .string()
    .refine((text) => parseInstant(text) !== null, {
      error: 'must be an ISO 8601 time with Z or an offset, such as 2027-01-31T08:00:00Z, from 1970 to 9999',
      abort: true,
    })
    .overwrite((text) => formatInstant(parseInstant(text) ?? 0))
    .meta({ description, format: 'date-time' });
}

function duration(description: string) {
  return z.number().max(LONGEST_DURATION).overwrite(wholeMs).describe(description);
}

function positiveDuration(description: string) {
  return duration(description).min(0.001);
}

/** Seconds, to the ms. */
function wholeMs(seconds: number): number {
  return Math.round(seconds * 1_000) / 1_000;
}

function jsonList(description: string) {
  return z
    .custom<JsonList>((value) => Array.isArray(value), { error: 'must be a JSON array', abort: true })
    .check(({ value, issues }) => refuseUnusable(value, issues))
    .meta({ description, type: 'array', items: {} });
}

function jsonObject(description: string) {
  return z
    .custom<JsonObject>((value) => isObject(value), { error: 'must be a JSON object', abort: true })
    .check(({ value, issues }) => refuseUnusable(value, issues))
    .meta({ description, type: 'object', additionalProperties: {} });
}

const TOO_DEEP = `must not be nested deeper than ${MAX_DEPTH} levels`;

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

export type SpecResult =
  | { readonly ok: true; readonly spec: ScheduleSpec }
  /** `id` is the one given; null where there is none that could be one. */
  | { readonly ok: false; readonly id: string | null; readonly errors: readonly FieldError[] };

/** Checks a spec that arrived as JSON, given as it came over the wire. */
export function parseSpec(schema: SpecSchema, bytes: Uint8Array): SpecResult {
  if (bytes.length > MAX_SPEC_BYTES) return refusal(null, `is larger than ${MAX_SPEC_BYTES} bytes`);
  const text = decodeUtf8(bytes);
  if (text === null) return refusal(null, 'is not valid UTF-8');
  // Depth is looked at in the fields where it may occur, which spares this hot path a walk over all of them.
  const parsed = parseAnyDepth(text);
  return 'message' in parsed ? refusal(null, parsed.message) : checkSpec(schema, parsed.value);
}

/** Checks a spec that has been parsed by `parseJson`. Its JSON must not be longer than MAX_SPEC_BYTES; see `isTooLarge`. */
export function checkSpec(schema: SpecSchema, value: Json): SpecResult {
  const result = schema.safeParse(value);
  if (result.success) return { ok: true, spec: result.data };
  // What costs time and is hardly ever needed comes only now.
  if (isTooDeep(value, 0)) return refusal(null, TOO_DEEP);
  const plain = withPlainNumbers(value);
  const again = schema.safeParse(plain, READABLE);
  if (again.success) return { ok: true, spec: again.data };
  return { ok: false, id: idOf(value), errors: specErrors(again.error.issues, plain) };
}

function idOf(spec: Json): string | null {
  return isObject(spec) && typeof spec.id === 'string' && spec.id.length <= MAX_NAME_BYTES ? spec.id : null;
}

/** Whether a spec that was put together from parts exceeds MAX_SPEC_BYTES. */
export function isTooLarge(value: Json): boolean {
  return Buffer.byteLength(toJson(value)) > MAX_SPEC_BYTES;
}

/** The text that these bytes are in UTF-8, or null. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  return isUtf8(bytes) ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8') : null;
}

/** The value of a JSON text, or why it has none that could be used; safe to read recursively. */
export function parseJsonText(text: string): { readonly value: Json } | { readonly message: string } {
  const parsed = parseAnyDepth(text);
  return 'value' in parsed && isTooDeep(parsed.value, 0) ? { message: TOO_DEEP } : parsed;
}

function parseAnyDepth(text: string): { readonly value: Json } | { readonly message: string } {
  try {
    return { value: parseJson(text) };
  } catch (error) {
    // The lossless parser is recursive: what is nested beyond the stack is beyond MAX_DEPTH as well.
    if (error instanceof RangeError) return { message: TOO_DEEP };
    if (error instanceof SyntaxError) return { message: `is not JSON: ${error.message}` };
    throw error;
  }
}

/** Two levels of a spec itself are around its headers. */
function isTooDeep(value: Json, depth: number): boolean {
  if (typeof value !== 'object' || value === null || value instanceof LosslessNumber) return false;
  return depth > MAX_DEPTH + 2 || Object.values(value).some((member) => isTooDeep(member, depth + 1));
}

/** The errors of a refused spec as one line. */
export function describeErrors(errors: readonly FieldError[]): string {
  return errors.map(({ path, message }) => (path === '' ? `The spec ${message}` : `${path} ${message}`)).join('; ');
}

function refusal(id: string | null, message: string): SpecResult {
  return { ok: false, id, errors: [{ path: '', message }] };
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof LosslessNumber);
}

/** The same value with 10.0 and 1e1 as plain numbers wherever no task sees them. */
function withPlainNumbers(value: Json): Json {
  if (value instanceof LosslessNumber) return Number(value.toString());
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, member]): [string, Json] => {
      const isForTask = key === 'args' || key === 'kwargs' || key === 'headers';
      return [key, isForTask ? member : withPlainNumbers(member)];
    }),
  );
}

function specErrors(issues: readonly z.core.$ZodIssue[], spec: Json): FieldError[] {
  const given = isObject(spec) ? spec.schedule : undefined;
  return issues
    .flatMap((issue) =>
      issue.code === 'invalid_union' && issue.path.join('.') === 'schedule'
        ? timingErrors(issue, given)
        : fieldErrors([issue]),
    )
    .map(({ path, message }) => ({ path, message: LATER_FIELDS.has(path) ? NOT_YET : message }));
}

/** The errors of the kind that the user meant, instead of those of every kind. */
function timingErrors(issue: z.core.$ZodIssueInvalidUnion, given: Json | undefined): FieldError[] {
  if (!isObject(given)) return [{ path: 'schedule', message: given === undefined ? 'is required' : issue.message }];
  const later = Object.keys(given)
    .map((key) => `schedule.${key}`)
    .filter((path) => LATER_FIELDS.has(path));
  if (later.length > 0) return later.map((path) => ({ path, message: NOT_YET }));
  const kinds = KINDS.filter((kind) => kind in given);
  if (kinds.length !== 1) return [{ path: 'schedule', message: issue.message }];
  const issues = issue.errors[KINDS.indexOf(kinds[0]!)] ?? [];
  return fieldErrors(issues.map((inner) => ({ ...inner, path: ['schedule', ...inner.path] })));
}
