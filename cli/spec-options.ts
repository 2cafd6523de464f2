import { readFileSync } from 'node:fs';
import { type Command, InvalidArgumentError } from 'commander';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { type Json, parseJson } from '../protocol/json.ts';
import {
  flag,
  integer,
  list,
  number,
  type OptionSpec,
  type OptionValues,
  oneOf,
  optionValues,
  text,
} from '../runtime/options.ts';
import { isObject } from '../schedule/fields.ts';
import { KINDS } from '../schedule/timing.ts';
import { member } from './api-client.ts';

type JsonObject = { readonly [key: string]: Json };

/** Whatever the API may take; it says what is too much for a field. */
const ANY_SECONDS = { min: 0, max: 1e12 };

const exclude: OptionSpec<readonly Json[]> = {
  placeholder: 'DAY|FROM/TO|CRON',
  default: [],
  doc: 'leave out what is due then; may be given several times',
  parse: (given, previous) => [...previous, exclusion(given)],
};

/** The kinds of schedule that have times of their own. At most one of the first six. */
export const PREVIEW_OPTIONS = {
  every: seconds('run at this interval, s'),
  cron: word('EXPRESSION', 'run at these times: five fields, six with seconds first, or @daily and the like'),
  at: word('TIME', 'run once, at this ISO 8601 time'),
  in: seconds('run once, this many s from now'),
  solar: word('EVENT', 'run at this solar event, such as sunrise; needs --lat and --lon'),
  rrule: word('RULE', 'run by this RFC 5545 recurrence rule'),
  phase: word('spread|now|S', 'with --every: where its grid lies (default: spread)'),
  tz: word('ZONE', 'with --cron or --rrule: time zone (default: UTC)'),
  dialect: choice(['unix', 'celery'], 'with --cron: syntax of its fields (default: unix)'),
  lat: number<number | null>({
    placeholder: 'DEGREES',
    min: -90,
    max: 90,
    default: null,
    doc: 'with --solar: latitude',
  }),
  lon: number<number | null>({
    placeholder: 'DEGREES',
    min: -180,
    max: 180,
    default: null,
    doc: 'with --solar: longitude',
  }),
  start: word('TIME', 'no run before this ISO 8601 time'),
  end: word('TIME', 'no run at or after this ISO 8601 time'),
  exclude,
};

/** When to run. */
const TIMING_OPTIONS = {
  ...PREVIEW_OPTIONS,
  after: seconds('run in a loop, again this many s after each run has ended'),
  retryDelay: seconds('with --after: pause after a failed run, doubled with each further one, s'),
  retryMaxDelay: seconds('with --retry-delay: longest such pause, s'),
};

/** The fields of `options` that every message can have. */
export const MESSAGE_OPTIONS = {
  priority: integer<number | null>({ min: 0, max: 9, default: null, doc: 'priority; 0 is served first' }),
  expires: word('S|TIME', 'not to be run later than this many s after its due time, or than this time'),
  timeLimit: seconds('hard limit of the run time, s'),
  softTimeLimit: seconds('soft limit of the run time, s'),
  ignoreResult: choice(['true', 'false'], 'whether no result is stored (default: true where it is not needed)'),
  headers: json('object', 'message headers of your own'),
};

/** Everything that a spec can say. */
export const SPEC_OPTIONS = {
  file: {
    ...word('FILE', 'read the spec from this JSON file (-: standard input); other options replace fields of it'),
    short: '-f',
  },
  task: word('NAME', 'name of the Celery task'),
  args: json('array', 'positional arguments, such as [42]', '-a'),
  kwargs: json('object', 'keyword arguments', '-k'),
  queue: { ...word('NAME', 'queue to send to (default: celery)'), short: '-Q' },
  ...TIMING_OPTIONS,
  maxRuns: integer<number | null>({ min: 1, max: 1e15, default: null, doc: 'end after this many runs' }),
  jitter: seconds('move each run by up to this many s'),
  misfire: choice(['latest', 'all', 'skip'], 'which of several missed runs are sent (default: latest)'),
  grace: seconds('drop missed runs that are older than this, s'),
  overlap: choice(['allow', 'skip', 'buffer_one'], 'when the previous run has not ended (default: allow)'),
  // Not --queue-cap: its variable is the one of beat nodes, for the whole namespace.
  maxQueueLength: integer<number | null>({
    min: 0,
    max: 1e9,
    default: null,
    doc: 'queue_cap: longest the queue may be for a run to be sent',
  }),
  ...MESSAGE_OPTIONS,
  worker: choice(['ringbeat'], 'only bundled workers take the runs'),
  tags: list({ placeholder: 'TAG,…', default: [], doc: 'tags' }),
  paused: flag({ doc: 'not to run until it is resumed' }),
};

/**
 * The spec that the command line describes: what is given replaces fields of `--file`, where there is one. The API
 * checks it. Throws BAD_FILE, and a usage error where two kinds of schedule are given.
 */
export function specOf(command: Command): JsonObject {
  const given = optionValues(command, SPEC_OPTIONS);
  const base = given.file === null ? {} : readObject(given.file);
  const { misfire, grace } = given;
  const options = { ...messageOptionsOf(command), ...present({ worker: given.worker }) };
  return {
    ...base,
    ...present({
      task: given.task,
      args: given.args,
      kwargs: given.kwargs,
      queue: given.queue,
      max_runs: given.maxRuns,
      jitter: given.jitter,
      misfire: merged(base, 'misfire', present({ policy: misfire, grace })),
      overlap: given.overlap,
      queue_cap: given.maxQueueLength,
      options: merged(base, 'options', options),
      enabled: given.paused ? false : null,
      tags: given.tags.length === 0 ? null : given.tags,
    }),
    ...timingOf(command),
  };
}

export function messageOptionsOf(command: Command): JsonObject {
  const given = optionValues(command, MESSAGE_OPTIONS);
  return present({
    priority: given.priority,
    expires: given.expires === null ? null : secondsOr(given.expires),
    time_limit: given.timeLimit,
    soft_time_limit: given.softTimeLimit,
    ignore_result: given.ignoreResult === null ? null : given.ignoreResult === 'true',
    headers: given.headers,
  });
}

/** `schedule`, `start`, `end` and `exclude` of a schedule whose times are to be shown, as far as they are given. */
export function previewOf(command: Command): JsonObject {
  const kinds = KINDS.filter((kind) => kind !== 'after');
  return timing(command, optionValues(command, PREVIEW_OPTIONS), kinds, {});
}

function timingOf(command: Command): JsonObject {
  const given = optionValues(command, TIMING_OPTIONS);
  const retry = present({ delay: given.retryDelay, max_delay: given.retryMaxDelay });
  return timing(command, given, KINDS, Object.keys(retry).length === 0 ? {} : { retry });
}

function timing(
  command: Command,
  given: OptionValues<typeof PREVIEW_OPTIONS>,
  kinds: readonly (typeof KINDS)[number][],
  more: JsonObject,
): JsonObject {
  const flags = kinds.map((kind) => `--${kind}`).join(', ');
  const named = kinds.filter((kind) => command.getOptionValue(kind) !== null);
  // Variables such as RINGBEAT_EVERY may be meant for other commands.
  const byFlag = named.filter((kind) => command.getOptionValueSource(kind) === 'cli');
  const [kind, other] = byFlag.length > 0 ? byFlag : named;
  if (other !== undefined) command.error(`error: give only one of ${flags}`);
  const { phase, tz, dialect, lat, lon, start, end } = given;
  const extra = { ...present({ phase: phase === null ? null : secondsOr(phase), tz, dialect, lat, lon }), ...more };
  if (kind === undefined && Object.keys(extra).length > 0)
    command.error(`error: give the schedule to which these belong: one of ${flags}`);
  return {
    ...(kind === undefined ? {} : { schedule: { [kind]: command.getOptionValue(kind), ...extra } }),
    ...present({ start, end, exclude: given.exclude.length === 0 ? null : given.exclude }),
  };
}

function word(placeholder: string, doc: string): OptionSpec<string | null> {
  return text<string | null>({ placeholder, default: null, doc });
}

function seconds(doc: string): OptionSpec<number | null> {
  return number<number | null>({ placeholder: 'S', ...ANY_SECONDS, default: null, doc });
}

/** One of these, or nothing. */
export function choice<T extends string>(choices: readonly [T, ...T[]], doc: string): OptionSpec<T | null> {
  return { ...oneOf(choices, { default: choices[0], doc }), default: null };
}

/** A JSON text whose numbers are kept as they are written. */
export function json(what: 'array' | 'object', doc: string, short?: string): OptionSpec<Json> {
  return {
    placeholder: 'JSON',
    default: null,
    doc,
    ...(short === undefined ? {} : { short }),
    parse(given) {
      const value = parsedJson(given);
      if (what === 'array' ? Array.isArray(value) : isObject(value)) return value;
      throw new InvalidArgumentError(`Expected a JSON ${what}, got ${given}.`);
    },
  };
}

function parsedJson(given: string): Json {
  try {
    return parseJson(given);
  } catch {
    throw new InvalidArgumentError(`Expected JSON, got ${given}.`);
  }
}

/** A day (2027-12-25), a range of days or times (2027-12-24/2027-12-26), or a cron expression. */
function exclusion(given: string): Json {
  const [from, to] = given.split('/', 2) as [string, string?];
  if (!/^\d{4}-\d\d-\d\d/.test(from)) return { cron: given };
  return to === undefined ? given : { from, to };
}

/** A number of seconds where it is one; otherwise the text, such as a time. */
export function secondsOr(given: string): number | string {
  return /^\d+(\.\d+)?$/.test(given) ? Number(given) : given;
}

/** What is not null. */
export function present(fields: { readonly [key: string]: Json }): JsonObject {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}

/** The members of the base's object with those that are given; null where there are none. */
function merged(base: JsonObject, name: string, given: JsonObject): Json {
  if (Object.keys(given).length === 0) return null;
  const value = member(base, name);
  return { ...(isObject(value) ? value : {}), ...given };
}

function readObject(file: string): JsonObject {
  const value = readJsonFile(file);
  if (isObject(value)) return value;
  throw new RingbeatError('BAD_FILE', { file, reason: 'it is no JSON object' });
}

/** The value of a small JSON file; `-` is standard input. Throws BAD_FILE. */
function readJsonFile(file: string): Json {
  try {
    return parseJson(readFileSync(file === '-' ? 0 : file, 'utf8'));
  } catch (error) {
    throw new RingbeatError('BAD_FILE', { file, reason: messageOf(error) }, { cause: error });
  }
}
