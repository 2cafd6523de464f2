import { DAY_MS } from './civil.ts';
import { CronError, nextShown, requiredZone } from './cron.ts';
import { normalCron, splitCron } from './cron-fields.ts';
import { isHashed, parseUnixCron } from './cron-unix.ts';
import { LAST_INSTANT_MS, parseInstant } from './instant.ts';
import { LocalTimes } from './local-times.ts';
import type { Exclude } from './timing.ts';
import type { Zone } from './zone.ts';

/** From `fromMs` to just before `toMs`. */
export interface Window {
  readonly fromMs: number;
  readonly toMs: number;
}

/** The times at which a schedule does not run. */
export interface Exclusion {
  /**
   * The first excluded window that ends after `atMs`, merged with what touches it; null: none any more. A window that
   * `atMs` lies in may be told from there on only. What is merged from very many parts comes as several windows, each
   * beginning where the last one ended.
   */
  next(atMs: number): Window | null;
  /** Until when an instant is excluded; what follows may be excluded as well. null when it is not excluded. */
  excludedUntil(atMs: number): number | null;
  /** How many series are looked through at each question: what it costs. */
  readonly cost: number;
}

/** What an exclusion is, as JSON: schedules with the same text share one. */
export function exclusionText(exclude: readonly Exclude[], tz: string): string {
  const entries = exclude.map((entry) =>
    typeof entry === 'object' && 'cron' in entry ? { cron: normalCron(entry.cron) } : entry,
  );
  return JSON.stringify({ tz, exclude: entries });
}

/**
 * The exclusion of a text; compiled once, while not too many others are asked for. Throws CronError for a cron or zone
 * that cannot be used.
 */
export function exclusionOf(text: string): Exclusion {
  const kept = exclusions.get(text);
  if (kept !== undefined) return kept;
  const { tz, exclude } = JSON.parse(text) as { readonly tz: string; readonly exclude: readonly Exclude[] };
  const exclusion = compile(exclude, tz);
  if (exclusions.size >= EXCLUSIONS_KEPT) {
    const [oldest] = exclusions.keys();
    if (oldest !== undefined) exclusions.delete(oldest);
  }
  exclusions.set(text, exclusion);
  return exclusion;
}

const exclusions = new Map<string, Exclusion>();

const EXCLUSIONS_KEPT = 1_024;

/** Windows of one kind: the first that ends after an instant, or null. */
type Series = (atMs: number) => Window | null;

/** So that two series that take turns for ever are not followed to the end. */
const MAX_MERGED = 1_000;

const END_MS = LAST_INSTANT_MS + 1;

function compile(exclude: readonly Exclude[], tz: string): Exclusion {
  const zone = requiredZone(tz);
  const fixed = exclude.flatMap((entry) => fixedWindows(entry, zone));
  const crons = exclude.flatMap((entry) => (typeof entry === 'object' && 'cron' in entry ? [entry.cron] : []));
  const series = [...(fixed.length > 0 ? [listed(fixed)] : []), ...crons.map((cron) => matchingTimes(cron, zone))];
  return {
    cost: series.length,
    next(atMs) {
      let first: Window | null = null;
      for (const next of series) {
        const window = next(atMs);
        if (window !== null && (first === null || window.fromMs < first.fromMs)) first = window;
      }
      return first === null ? null : { fromMs: first.fromMs, toMs: endOfTouching(series, first.toMs) };
    },
    excludedUntil(atMs) {
      for (const next of series) {
        const window = next(atMs);
        if (window !== null && window.fromMs <= atMs) return window.toMs;
      }
      return null;
    },
  };
}

function endOfTouching(series: readonly Series[], endMs: number): number {
  let toMs = endMs;
  for (let merged = 0; merged < MAX_MERGED; merged++) {
    const before = toMs;
    for (const next of series) {
      const window = next(toMs);
      if (window !== null && window.fromMs <= toMs) toMs = window.toMs;
    }
    if (toMs === before) return toMs;
  }
  return toMs;
}

function fixedWindows(entry: Exclude, zone: Zone): Window[] {
  if (typeof entry === 'string') return daysOf(entry, entry, zone);
  if ('cron' in entry) return [];
  const fromMs = parseInstant(entry.from);
  const toMs = parseInstant(entry.to);
  return fromMs !== null && toMs !== null ? [{ fromMs, toMs }] : daysOf(entry.from, entry.to, zone);
}

/** The instants at which the clocks of a zone show one of these days. */
function daysOf(first: string, last: string, zone: Zone): Window[] {
  const startMs = midnightOf(first);
  const endMs = midnightOf(last) + DAY_MS;
  if (endMs - startMs <= 2 * MARGIN_MS)
    return shownBetween(zone, startMs, endMs, startMs - MARGIN_MS, endMs + MARGIN_MS);
  // Changes of the clocks in between do not matter.
  return [
    ...shownBetween(zone, startMs, endMs, startMs - MARGIN_MS, startMs + MARGIN_MS),
    { fromMs: startMs + MARGIN_MS, toMs: endMs - MARGIN_MS },
    ...shownBetween(zone, startMs, endMs, endMs - MARGIN_MS, endMs + MARGIN_MS),
  ];
}

/** More than a zone is ever apart from UTC, and than clocks are put back or forward by. */
const MARGIN_MS = 3 * DAY_MS;

/** Days were skipped, and hours of them came twice: hence stretch by stretch. */
function shownBetween(zone: Zone, startMs: number, endMs: number, fromMs: number, untilMs: number): Window[] {
  const windows: Window[] = [];
  for (let atMs = fromMs; atMs < untilMs; ) {
    const { toMs, offsetMs } = zone.stretchAt(atMs);
    const window = {
      fromMs: Math.max(atMs, startMs - offsetMs),
      toMs: Math.min(toMs, untilMs, endMs - offsetMs),
    };
    if (window.fromMs < window.toMs) windows.push(window);
    atMs = toMs;
  }
  return windows;
}

function midnightOf(date: string): number {
  const atMs = parseInstant(`${date}T00:00:00Z`);
  if (atMs === null) throw new Error(`${date} is no date`);
  return atMs;
}

function listed(windows: readonly Window[]): Series {
  const sorted = merged(windows);
  return (atMs) => {
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (sorted[middle]!.toMs > atMs) high = middle;
      else low = middle + 1;
    }
    return sorted[low] ?? null;
  };
}

function merged(windows: readonly Window[]): Window[] {
  const apart: { fromMs: number; toMs: number }[] = [];
  // Times are those from 1970 to 9999.
  const usable = windows
    .map(({ fromMs, toMs }) => ({ fromMs: Math.max(fromMs, 0), toMs: Math.min(toMs, END_MS) }))
    .filter(({ fromMs, toMs }) => fromMs < toMs);
  for (const { fromMs, toMs } of usable.sort((a, b) => a.fromMs - b.fromMs)) {
    const last = apart.at(-1);
    if (last !== undefined && fromMs <= last.toMs) last.toMs = Math.max(last.toMs, toMs);
    else apart.push({ fromMs, toMs });
  }
  return apart;
}

/** The minutes (with seconds in the cron: the seconds) in which the clocks show a time that a cron matches. */
function matchingTimes(cron: string, zone: Zone): Series {
  const texts = splitCron(cron);
  if (isHashed(normalCron(cron)))
    throw new CronError('cron', 'must not have "H" here: what is left out does not depend on an id');
  const times = new LocalTimes(parseUnixCron({ ...texts, second: texts.second ?? '*' }, ''));
  return (atMs) => {
    const fromMs = nextShown(times, zone, Math.max(Math.floor(atMs / 1_000), 0) * 1_000);
    if (fromMs > LAST_INSTANT_MS) return null;
    let toMs = fromMs;
    for (let merged = 0; merged < MAX_MERGED && toMs < END_MS; merged++) {
      const stretch = zone.stretchAt(toMs);
      const localMs = toMs + stretch.offsetMs;
      if (merged > 0 && times.next(localMs) !== localMs) break;
      const endMs = times.endOfRun(localMs);
      // Otherwise what is excluded goes on, if at all, behind a change of the clocks.
      toMs = endMs === Number.POSITIVE_INFINITY ? END_MS : Math.min(endMs - stretch.offsetMs, stretch.toMs, END_MS);
    }
    return { fromMs, toMs };
  };
}
