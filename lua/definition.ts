import { createHash } from 'node:crypto';
import { asciiJsonString, type Json, parseJson } from '../protocol/json.ts';
import { decodeBody, encodeBody, escapedReprs, headersPiece, messagePieces, uuidOf } from '../protocol/message.ts';
import { queueList } from './keys.ts';

/**
 * How a schedule lies in Redis: a *definition* of its own, small, and a *template* that it shares with all schedules
 * of the same task, queue and options. Both are fields joined by U+001F, which no field contains, so that Lua reads
 * them without parsing JSON.
 *
 * Definition: template number, seed, timing, end ms, body, argsrepr, kwargsrepr, headers, escaped id, tags.
 *   seed    first three groups of this generation's task ids: a hash of (namespace, id, generation)
 *   timing  `e<interval ms>:<phase>:<start ms>`, phase `s` spread, `n<offset>` now, `o<offset>`; or
 *           `o<at ms>:<in ms>:<start ms>` for a one-shot; its first letter is a capital while paused
 *   headers as they stand behind Celery's own headers; escaped id only where it differs from the id; tags as JSON
 * Template: list key, queue, queue cap, misfire, expires, the 13 message pieces, the JSON of what the API shows.
 */
const SEPARATOR = '\x1f';

export interface Definition {
  readonly id: string;
  readonly timing: Timing;
  readonly endMs: number | null;
  readonly args: readonly Json[];
  readonly kwargs: { readonly [key: string]: Json };
  readonly headers: { readonly [key: string]: Json };
  readonly tags: readonly string[];
  readonly enabled: boolean;
}

export type Timing =
  /** `phase`: spread by a hash of the id, from the moment of registration, or at this offset from the epoch, ms. */
  | {
      readonly kind: 'every';
      readonly everyMs: number;
      readonly phase: 'spread' | 'now' | number;
      readonly startMs: number | null;
    }
  /** `inMs` where the instant was given as a delay from registration. */
  | {
      readonly kind: 'once';
      readonly atMs: number | null;
      readonly inMs: number | null;
      readonly startMs: number | null;
    };

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
}

/** A definition as `put-schedules` takes it: the script adds the seed and resolves `now` and `in`. */
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
    timing: encodeTiming(timing, definition.enabled),
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
  /** Offset of the grid from the epoch where the phase is `now`, ms. */
  readonly nowOffsetMs: number | null;
  /** SHA1 of the definition as it is stored. */
  readonly revision: string;
}

/** Reads what `put-schedules` stored. Throws when it is no definition. */
export function decodeDefinition(id: string, text: string): StoredDefinition {
  const fields = text.split(SEPARATOR);
  if (fields.length !== 10) throw new Error(`definition of ${id} has ${fields.length} fields`);
  const [template, , timing, end, body, , , headers, , tags] = fields as [
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
    ...decodeTiming(timing),
    endMs: optionalNumber(end),
    args,
    kwargs,
    headers: headers === '' ? {} : (parseJson(`{${headers.slice(2)}}`) as { readonly [key: string]: Json }),
    tags: JSON.parse(`[${tags}]`),
    enabled: timing.charAt(0) === timing.charAt(0).toLowerCase(),
    revision: createHash('sha1').update(text).digest('hex'),
  };
}

function encodeTiming(timing: Timing, enabled: boolean): string {
  const start = optional(timing.startMs);
  const text =
    timing.kind === 'every'
      ? `e${timing.everyMs}:${timing.phase === 'spread' ? 's' : timing.phase === 'now' ? 'n' : `o${timing.phase}`}:${start}`
      : `o${optional(timing.atMs)}:${optional(timing.inMs)}:${start}`;
  return enabled ? text : text.charAt(0).toUpperCase() + text.slice(1);
}

function decodeTiming(text: string): { timing: Timing; nowOffsetMs: number | null } {
  const [first, second, start] = text.slice(1).split(':') as [string, string, string];
  const startMs = optionalNumber(start);
  if (text.charAt(0).toLowerCase() === 'o') {
    return {
      timing: { kind: 'once', atMs: optionalNumber(first), inMs: optionalNumber(second), startMs },
      nowOffsetMs: null,
    };
  }
  const phase = second === 's' ? 'spread' : second.startsWith('n') ? 'now' : Number(second.slice(1));
  return {
    timing: { kind: 'every', everyMs: Number(first), phase, startMs },
    nowOffsetMs: phase === 'now' ? Number(second.slice(1)) : null,
  };
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
    ...pieces,
    JSON.stringify(template).replaceAll(SEPARATOR, '\\u001f'),
  ].join(SEPARATOR);
}

export function decodeTemplate(text: string): Template {
  return JSON.parse(text.slice(text.lastIndexOf(SEPARATOR) + 1)) as Template;
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
