import { createHash } from 'node:crypto';
import { asciiJsonString, type Json, parseJson } from '../protocol/json.ts';
import { decodeBody, encodeBody, escapedReprs, headersPiece, messagePieces, uuidOf } from '../protocol/message.ts';
import { queueList } from './keys.ts';

/**
 * How a schedule lies in Redis: a *definition* of its own, small, and texts that it shares with others: the message
 * *template* of its task, queue and options, and the *calendar* and *exclusion* that it follows, if any. All are fields
 * joined by U+001F, which no field contains, so that Lua reads them without parsing JSON.
 *
 * Definition: template number, seed, timing, end ms, body, argsrepr, kwargsrepr, headers, escaped id, tags.
 *   seed    first three groups of this generation's task ids: a hash of (namespace, id, generation)
 *   timing  `<kind><first>:<second>:<start ms>`, then options; the kind is a capital while paused:
 *             `e<interval ms>:<phase>:`   phase `s` spread, `n<offset>` now, `o<offset>`
 *             `o<at ms>:<in ms>:`         one-shot
 *             `c<calendar number>::`      cron, solar, rrule
 *             `a<after ms>:<retry>:`      loop; retry `<first delay ms>-<longest ms>` or empty
 *           options, in this order: `;r<max runs>`, `;j<jitter ms>`, `;x<exclusion number>`
 *   headers as they stand behind Celery's own headers; escaped id only where it differs from the id; tags as JSON
 * Template: list key, queue, queue cap, misfire, expires, journal, the 13 message pieces, the JSON of what the API shows.
 *   journal how its runs are followed: `a` not at all; `s` skip, `b` buffer one, `l` loop; then `w` where only bundled
 *           workers run it, else the hard time limit in ms
 * Calendar: `calendar`, what it is as JSON (schedule/calendar.ts). Exclusion: `exclusion`, its JSON (schedule/exclusion.ts).
 */
const SEPARATOR = '\x1f';

export interface Definition {
  readonly id: string;
  readonly timing: Timing;
  /** Whether it has an exclusion. */
  readonly isExcluding: boolean;
  readonly endMs: number | null;
  readonly args: readonly Json[];
  readonly kwargs: { readonly [key: string]: Json };
  readonly headers: { readonly [key: string]: Json };
  readonly tags: readonly string[];
  readonly enabled: boolean;
}

export type Timing = {
  readonly startMs: number | null;
  readonly maxRuns: number | null;
  /** 0: none. */
  readonly jitterMs: number;
} & (
  | {
      readonly kind: 'every';
      readonly everyMs: number;
      /** Spread by a hash of the id, from the moment of registration, or at this offset from the epoch, ms. */
      readonly phase: 'spread' | 'now' | number;
    }
  | {
      readonly kind: 'once';
      readonly atMs: number | null;
      /** Where the instant was given as a delay from registration. */
      readonly inMs: number | null;
    }
  | { readonly kind: 'calendar' }
  | {
      readonly kind: 'loop';
      readonly afterMs: number;
      /** Delays after the first failure and at most, ms; null: as after a success. */
      readonly retry: { readonly delayMs: number; readonly maxDelayMs: number } | null;
    }
);

export interface Template {
  readonly task: string;
  readonly queue: string;
  readonly queueCap: number | null;
  readonly misfire: { readonly policy: 'latest' | 'all' | 'skip'; readonly graceMs: number | null };
  readonly expires: { readonly afterMs: number } | { readonly atMs: number } | null;
  readonly priority: number | null;
  readonly timeLimit: number | null;
  readonly softTimeLimit: number | null;
  readonly ignoreResult: boolean;
  readonly overlap: 'allow' | 'skip' | 'buffer_one';
  /** Whether runs follow each other by their completion. */
  readonly isLoop: boolean;
  readonly worker: 'ringbeat' | null;
}

/**
 * A definition as `put-schedules` takes it: the script adds the seed, resolves `now` and `in`, and puts numbers in the
 * places of `@calendar` and `@exclusion`.
 */
export interface EncodedDefinition {
  readonly timing: string;
  readonly end: string;
  /** The fields from the body on. */
  readonly rest: string;
}

export function encodeDefinition(definition: Definition): EncodedDefinition {
  const { id, timing } = definition;
  const [argsRepr, kwargsRepr] = escapedReprs(definition.args, definition.kwargs);
  const escapedId = asciiJsonString(id).slice(1, -1);
  return {
    timing: encodeTiming(timing, definition.enabled, definition.isExcluding),
    end: optional(definition.endMs),
    rest: [
      encodeBody(definition.args, definition.kwargs),
      argsRepr,
      kwargsRepr,
      headersPiece(definition.headers),
      escapedId === id ? '' : escapedId,
      JSON.stringify(definition.tags).slice(1, -1),
    ].join(SEPARATOR),
  };
}

export interface StoredDefinition extends Definition {
  /** Number of its template. */
  readonly template: string;
  readonly seed: string;
  /** Numbers of its calendar and its exclusion; null where it has none. */
  readonly calendar: string | null;
  readonly exclusion: string | null;
  /** Offset of the grid from the epoch where the phase is `now`, ms. */
  readonly nowOffsetMs: number | null;
  /** SHA1 of the definition as it is stored. */
  readonly revision: string;
}

/** Reads what `put-schedules` stored. Throws when it is no definition. */
export function decodeDefinition(id: string, text: string): StoredDefinition {
  const fields = text.split(SEPARATOR);
  if (fields.length !== 10) throw new Error(`definition of ${id} has ${fields.length} fields`);
  const [template, seed, timing, end, body, , , headers, , tags] = fields as [
    string,
    string,
    string,
    string,
    string,
    string,
    string,
    string,
    string,
    string,
  ];
  const [args, kwargs] = parseJson(decodeBody(body)) as [readonly Json[], { readonly [key: string]: Json }];
  return {
    id,
    template,
    seed,
    ...decodeTiming(timing),
    isExcluding: timing.includes(';x'),
    endMs: optionalNumber(end),
    args,
    kwargs,
    headers: headers === '' ? {} : (parseJson(`{${headers.slice(2)}}`) as { readonly [key: string]: Json }),
    tags: JSON.parse(`[${tags}]`),
    enabled: timing.charAt(0) === timing.charAt(0).toLowerCase(),
    revision: createHash('sha1').update(text).digest('hex'),
  };
}

function encodeTiming(timing: Timing, enabled: boolean, isExcluding: boolean): string {
  const text = [
    `${timingParts(timing)}:${optional(timing.startMs)}`,
    timing.maxRuns === null ? '' : `;r${timing.maxRuns}`,
    timing.jitterMs === 0 ? '' : `;j${timing.jitterMs}`,
    isExcluding ? ';x@exclusion' : '',
  ].join('');
  return enabled ? text : text.charAt(0).toUpperCase() + text.slice(1);
}

function timingParts(timing: Timing): string {
  switch (timing.kind) {
    case 'every':
      return `e${timing.everyMs}:${timing.phase === 'spread' ? 's' : timing.phase === 'now' ? 'n' : `o${timing.phase}`}`;
    case 'once':
      return `o${optional(timing.atMs)}:${optional(timing.inMs)}`;
    case 'calendar':
      return 'c@calendar:';
    case 'loop':
      return `a${timing.afterMs}:${timing.retry === null ? '' : `${timing.retry.delayMs}-${timing.retry.maxDelayMs}`}`;
  }
}

const TIMING = /^([eocaEOCA])([^:]*):([^:]*):(\d*)(?:;r(\d+))?(?:;j(\d+))?(?:;x(\d+))?$/;

function decodeTiming(text: string): Pick<StoredDefinition, 'timing' | 'calendar' | 'exclusion' | 'nowOffsetMs'> {
  const match = TIMING.exec(text);
  if (match === null) throw new Error(`${text} is no timing`);
  const [, flag = '', first = '', second = '', start = '', maxRuns = '', jitter = '', exclusion = ''] = match;
  const common = { startMs: optionalNumber(start), maxRuns: optionalNumber(maxRuns), jitterMs: Number(jitter) };
  const shared = { calendar: null, exclusion: exclusion === '' ? null : exclusion, nowOffsetMs: null };
  switch (flag.toLowerCase()) {
    case 'e': {
      const phase = second === 's' ? 'spread' : second.startsWith('n') ? 'now' : Number(second.slice(1));
      const nowOffsetMs = phase === 'now' ? Number(second.slice(1)) : null;
      return { timing: { kind: 'every', everyMs: Number(first), phase, ...common }, ...shared, nowOffsetMs };
    }
    case 'o':
      return {
        timing: { kind: 'once', atMs: optionalNumber(first), inMs: optionalNumber(second), ...common },
        ...shared,
      };
    case 'c':
      return { timing: { kind: 'calendar', ...common }, ...shared, calendar: first };
    default: {
      const [delay, longest] = second.split('-').map(Number);
      const retry = delay === undefined || longest === undefined ? null : { delayMs: delay, maxDelayMs: longest };
      return { timing: { kind: 'loop', afterMs: Number(first), retry, ...common }, ...shared };
    }
  }
}

/** Offset of an interval schedule's grid from the epoch, ms: the same id and interval always give the same. */
export function spreadOffsetMs(id: string, everyMs: number): number {
  const hash = createHash('sha1').update(id).digest().readUInt32BE(0);
  return Math.floor((hash / 2 ** 32) * everyMs);
}

export function encodeTemplate(template: Template, namespace: string): string {
  const { misfire, expires } = template;
  const pieces = messagePieces({
    ...template,
    priority: template.priority ?? 0,
    origin: `ringbeat@${namespace}`,
    replyTo: uuidOf(`ringbeat:${namespace}`),
  });
  return [
    escapeName(queueList(template.queue, template.priority ?? 0)),
    escapeName(template.queue),
    optional(template.queueCap),
    misfire.policy.charAt(0) + optional(misfire.graceMs),
    expires === null ? '' : 'afterMs' in expires ? `r${expires.afterMs}` : `a${expires.atMs}`,
    journalMode(template),
    ...pieces,
    JSON.stringify(template).replaceAll(SEPARATOR, '\\u001f'),
  ].join(SEPARATOR);
}

function journalMode({ overlap, isLoop, worker, timeLimit }: Template): string {
  if (overlap === 'allow' && !isLoop) return 'a';
  const limitMs = Math.round((timeLimit ?? DEFAULT_TIME_LIMIT_SEC) * 1_000);
  return `${isLoop ? 'l' : overlap.charAt(0)}${worker === 'ringbeat' ? 'w' : limitMs}`;
}

const DEFAULT_TIME_LIMIT_SEC = 300;

/** A calendar or exclusion as it is stored among the templates. */
export function encodeShared(kind: 'calendar' | 'exclusion', json: string): string {
  return kind + SEPARATOR + json;
}

/** What kind of text lies under a number, and its JSON; a template's is that of what the API shows. */
export function decodeShared(text: string): { readonly kind: 'calendar' | 'exclusion' | 'template'; json: string } {
  const kind = text.slice(0, text.indexOf(SEPARATOR));
  const json = text.slice(text.lastIndexOf(SEPARATOR) + 1);
  // No list key can be taken for them: a template has many fields.
  const isShared = text.indexOf(SEPARATOR) === text.lastIndexOf(SEPARATOR);
  return { kind: isShared && (kind === 'calendar' || kind === 'exclusion') ? kind : 'template', json };
}

export function decodeTemplate(text: string): Template {
  return JSON.parse(decodeShared(text).json) as Template;
}

/** Queue names may hold any character but these two must not end a field. */
function escapeName(name: string): string {
  return name.replace(/[%\x1f]/g, (unit) => (unit === '%' ? '%25' : '%1F'));
}

function optional(value: number | null): string {
  return value === null ? '' : String(value);
}

function optionalNumber(text: string): number | null {
  return text === '' ? null : Number(text);
}
