import { isUtf8 } from 'node:buffer';
import { LosslessNumber } from 'lossless-json';
import { z } from 'zod';
import { type Json, parseJson, toJson } from '../protocol/json.ts';
import { calendarOf, calendarText } from './calendar.ts';
import { CronError } from './cron.ts';
import { exclusionOf, exclusionText } from './exclusion.ts';
import { type FieldError, fieldErrors, READABLE } from './field-errors.ts';
import {
  duration,
  instant,
  isObject,
  jsonList,
  jsonObject,
  MAX_DEPTH,
  MAX_NAME_BYTES,
  name,
  positiveDuration,
  printableName,
  TOO_DEEP,
  wholeMs,
} from './fields.ts';
import { parseInstant } from './instant.ts';
import { RruleError } from './rrule-text.ts';
import { type CalendarTiming, EXCLUDE_KINDS, exclude, KINDS, LONGEST_INTERVAL, timing } from './timing.ts';

/** A spec, as JSON, may be this long. */
export const MAX_SPEC_BYTES = 65_536;

const MAX_TAGS = 32;

const MAX_EXCLUDES = 100;

/** What bounds, s, when a run of which nothing is heard counts as ended, where the spec sets none. */
const JOURNAL_EXPIRES = 3_600;
const JOURNAL_TIME_LIMIT = 300;

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
    max_runs: z.int().min(1).nullable().default(null).describe('Ends after this many runs were sent; null: never.'),
    jitter: z
      .number()
      .min(0)
      .max(LONGEST_INTERVAL)
      .overwrite(wholeMs)
      .default(0)
      .describe('Each run is due up to this many s after its nominal time, always the same for the same run.'),
    exclude: z
      .array(exclude)
      .max(MAX_EXCLUDES)
      .default([])
      .describe("What would be due then does not run: days, ranges, crons, in the schedule's zone."),
    misfire: misfire.default({ policy: 'latest', grace: null }),
    overlap: z
      .enum(['allow', 'skip', 'buffer_one'])
      .default('allow')
      .describe('What becomes of a run that is due while the previous one has not ended.'),
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
    // What goes together can be told only of fields that are right each by itself.
    if (issues.length > 0) return;
    for (const { path, message } of [...fillOptions(value), ...crossErrors(value)]) {
      issues.push({ code: 'custom', path: path.split('.'), message, input: value });
    }
  });
}

export type SpecSchema = ReturnType<typeof createSpecSchema>;

type CheckedSpec = z.output<SpecSchema>;

/** A checked spec with every default filled in. */
export type ScheduleSpec = CheckedSpec & { readonly options: { readonly ignore_result: boolean } };

/**
 * Whether the end of its runs has to be seen: they are then kept in the journal from dispatch until they are completed.
 */
export function isJournal({ overlap, schedule }: Pick<CheckedSpec, 'overlap' | 'schedule'>): boolean {
  return overlap !== 'allow' || 'after' in schedule;
}

/**
 * The spec without the options that have their present value only because `overlap` and `schedule` are what they are, so
 * that a patch that changes these brings the defaults that belong to them.
 */
export function withoutDerivedOptions(spec: ScheduleSpec): Json {
  const { ignore_result, expires, time_limit, ...options } = spec.options;
  const derived = derivedOptions(spec);
  return {
    ...spec,
    options: {
      ...options,
      ...(ignore_result === derived.ignore_result ? {} : { ignore_result }),
      ...(expires === derived.expires ? {} : { expires }),
      ...(time_limit === derived.time_limit ? {} : { time_limit }),
    },
  };
}

function derivedOptions(spec: CheckedSpec) {
  if (!isJournal(spec)) return { ignore_result: true, expires: null, time_limit: null };
  if (spec.options.worker !== null) return { ignore_result: false, expires: null, time_limit: null };
  return { ignore_result: false, expires: JOURNAL_EXPIRES, time_limit: JOURNAL_TIME_LIMIT };
}

/** Fills what the spec leaves to its kind, and tells what does not go with it. */
function fillOptions(spec: CheckedSpec): FieldError[] {
  const { priority, soft_time_limit, headers, worker } = spec.options;
  const derived = derivedOptions(spec);
  const ignore_result = spec.options.ignore_result ?? derived.ignore_result;
  const expires = spec.options.expires ?? derived.expires;
  const time_limit = spec.options.time_limit ?? derived.time_limit;
  spec.options = { priority, expires, time_limit, soft_time_limit, ignore_result, headers, worker };
  const errors: FieldError[] = [];
  if (soft_time_limit !== null && time_limit !== null && soft_time_limit > time_limit)
    errors.push({ path: 'options.soft_time_limit', message: `must not be above time_limit, which is ${time_limit}` });
  if (ignore_result && isJournal(spec) && worker === null)
    errors.push({
      path: 'options.ignore_result',
      message: `must be false with ${'after' in spec.schedule ? 'after' : `overlap "${spec.overlap}"`}: from its result a run is known to have ended; or set options.worker to "ringbeat"`,
    });
  return errors;
}

function crossErrors(spec: CheckedSpec): FieldError[] {
  const { schedule, start, end, jitter, overlap } = spec;
  const errors: FieldError[] = [];
  const refuse = (path: string, message: string) => errors.push({ path, message });
  // All are in one notation by now, so that they compare as texts.
  if (start !== null && end !== null && end <= start) refuse('end', 'must be later than start');
  if ('at' in schedule && start !== null && schedule.at < start) refuse('schedule.at', 'must not be before start');
  if ('at' in schedule && end !== null && schedule.at >= end) refuse('schedule.at', 'must be before end');
  if ('every' in schedule) {
    if (jitter >= schedule.every) refuse('jitter', `must be less than every, which is ${schedule.every}`);
  } else if ('at' in schedule || 'in' in schedule || 'after' in schedule) {
    const kind = 'after' in schedule ? 'after' : 'at' in schedule ? 'at' : 'in';
    if (jitter !== 0) refuse('jitter', `must be 0 with ${kind}: it spreads times that repeat`);
    if (overlap !== 'allow')
      refuse('overlap', `must be "allow" with ${kind}: ${kind === 'after' ? 'a loop' : 'a single run'} never overlaps`);
  } else {
    errors.push(...calendarErrors(spec, schedule));
  }
  if (spec.exclude.length > 0) errors.push(...excludeErrors(spec));
  return errors;
}

/** What only compiling shows: fields that mean nothing, unknown zones, times that never come. */
function calendarErrors(spec: CheckedSpec, schedule: CalendarTiming): FieldError[] {
  const startMs = spec.start === null ? null : parseInstant(spec.start);
  const error = compileError(() => calendarOf(calendarText(schedule, spec.id, startMs)));
  return error === null ? [] : [{ path: `schedule.${error.field}`, message: error.message }];
}

function excludeErrors({ exclude, schedule }: CheckedSpec): FieldError[] {
  const tz = 'tz' in schedule ? schedule.tz : 'UTC';
  return exclude.flatMap((entry, at) => {
    if (typeof entry === 'string' || !('cron' in entry)) return [];
    const error = compileError(() => exclusionOf(exclusionText([entry], tz)));
    // An unknown zone is the schedule's own error, and is told there.
    return error === null || error.field === 'tz' ? [] : [{ path: `exclude.${at}.cron`, message: error.message }];
  });
}

function compileError(compile: () => void): CronError | RruleError | null {
  try {
    compile();
    return null;
  } catch (error) {
    if (error instanceof CronError || error instanceof RruleError) return error;
    throw error;
  }
}

const misfire = z
  .strictObject({
    policy: z.enum(['latest', 'all', 'skip']).default('latest').describe('Which of several missed runs are sent.'),
    grace: duration('Missed runs older than this many s are dropped; null: no limit.').min(0).nullable().default(null),
  })
  .describe('What becomes of runs that could not be sent in time.');

const options = z.strictObject({
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
  ignore_result: z
    .boolean()
    .optional()
    .describe('Default: true; false where the end of a run must be seen, with after or overlap other than allow.'),
  headers: jsonObject('Message headers of your own.')
    .check(({ value, issues }) => {
      for (const key of Object.keys(value)) {
        if (!RESERVED_HEADERS.has(key)) continue;
        issues.push({ code: 'custom', path: [key], message: "is one of Celery's own headers", input: value });
      }
    })
    .default({}),
  worker: z
    .literal('ringbeat')
    .nullable()
    .default(null)
    .describe('"ringbeat": only bundled workers take the runs, which tell themselves when one has ended.'),
});

const NO_OPTIONS: z.output<typeof options> = {
  priority: null,
  expires: null,
  time_limit: null,
  soft_time_limit: null,
  headers: {},
  worker: null,
};

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
  if (result.success) return { ok: true, spec: result.data as ScheduleSpec };
  // What costs time and is hardly ever needed comes only now.
  if (isTooDeep(value, 0)) return refusal(null, TOO_DEEP);
  const plain = withPlainNumbers(value);
  const again = schema.safeParse(plain, READABLE);
  if (again.success) return { ok: true, spec: again.data as ScheduleSpec };
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

/** The same value with 10.0 and 1e1 as plain numbers wherever no task sees them. */
export function withPlainNumbers(value: Json): Json {
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
  return issues.flatMap((issue) => {
    if (issue.code !== 'invalid_union') return fieldErrors([issue]);
    const [field, at] = issue.path;
    if (field === 'schedule' && at === undefined) return kindErrors(issue, valueAt(spec, issue.path), KINDS);
    if (field === 'exclude') return kindErrors(issue, valueAt(spec, issue.path), EXCLUDE_KINDS);
    return fieldErrors([issue]);
  });
}

function valueAt(spec: Json, path: readonly PropertyKey[]): Json | undefined {
  return path.reduce<Json | undefined>(
    (value, key) =>
      typeof value === 'object' && value !== null
        ? (value as { readonly [key: string]: Json })[String(key)]
        : undefined,
    spec,
  );
}

/** The errors of the kind that the user meant, instead of those of every kind. */
function kindErrors(
  issue: z.core.$ZodIssueInvalidUnion,
  given: Json | undefined,
  kindKeys: readonly string[],
): FieldError[] {
  const path = issue.path.map(String).join('.');
  if (given === undefined) return [{ path, message: 'is required' }];
  const kinds = isObject(given) ? kindKeys.filter((kind) => kind in given) : [];
  if (kinds.length !== 1) return [{ path, message: issue.message }];
  const issues = issue.errors[kindKeys.indexOf(kinds[0]!)] ?? [];
  return fieldErrors(issues.map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] })));
}
