import { encodeTimes } from '../lua/times.ts';
import { type Calendar, calendarOf, lastUntil } from '../schedule/calendar.ts';
import { exclusionOf } from '../schedule/exclusion.ts';

/** Times are computed at least this far ahead, ms, so that no refill that comes late makes a run late. */
const AHEAD_MS = 600_000;

/** Never fewer than these, nor more in one go. */
const FEWEST = 3;
const MOST = 1_024;

/** From here on `computeTimes` looks: a caller's clock may be ahead of Redis's. */
const BEHIND_MS = 5_000;

/** An occurrence is looked for so far back as the longest jitter that makes sense reaches: 40 days, ms. */
const JITTER_MS = 3_456_000_000;

export interface ComputedTimes {
  /** For Lua (lua/times.ts). */
  readonly times: string;
  /** When to go on, ms since epoch; Infinity where nothing comes any more. */
  readonly refillAtMs: number;
}

/** What a calendar or exclusion (its JSON) brings from about now on, or strictly after `afterMs` where that is given. */
export function computeTimes(
  kind: 'calendar' | 'exclusion',
  json: string,
  nowMs: number,
  afterMs: number | null = null,
): ComputedTimes {
  const fromMs = Math.floor(nowMs) - BEHIND_MS;
  if (kind === 'exclusion') return windows(json, nowMs, afterMs ?? fromMs);
  const calendar = calendarOf(json);
  // With jitter the run of an occurrence that has passed may still come.
  return occurrences(calendar, nowMs, afterMs ?? (lastUntil(calendar, fromMs, JITTER_MS) ?? fromMs) - 1);
}

function occurrences(calendar: Calendar, nowMs: number, afterMs: number): ComputedTimes {
  const horizonMs = Math.max(nowMs, afterMs) + AHEAD_MS;
  const values: number[] = [];
  let next = calendar.next(afterMs);
  while (next !== null && values.length < MOST && (next <= horizonMs || countAfter(values, nowMs) < FEWEST)) {
    values.push(next);
    next = calendar.next(next);
  }
  if (next === null) return { times: encodeTimes({ untilMs: null, values }), refillAtMs: Infinity };
  const refillAtMs = Math.min(values.at(-2)!, values.at(-1)! - AHEAD_MS / 2);
  return { times: encodeTimes({ untilMs: next - 1, values }), refillAtMs };
}

/** How many of the last few are still ahead. */
function countAfter(values: readonly number[], nowMs: number): number {
  return values.slice(-FEWEST).filter((value) => value > nowMs).length;
}

function windows(json: string, nowMs: number, afterMs: number): ComputedTimes {
  const exclusion = exclusionOf(json);
  const horizonMs = Math.max(nowMs, afterMs) + AHEAD_MS;
  const values: number[] = [];
  let lastFromMs = afterMs;
  let next = exclusion.next(afterMs);
  while (next !== null && values.length < 2 * MOST && (values.length < 2 * FEWEST || next.fromMs <= horizonMs)) {
    // A window that has begun is told from where it was asked for.
    const fromMs = Math.max(next.fromMs, lastFromMs);
    if (values.at(-1) === fromMs) values.pop();
    else values.push(fromMs);
    values.push(next.toMs);
    lastFromMs = next.toMs;
    next = exclusion.next(next.toMs);
  }
  if (next === null) return { times: encodeTimes({ untilMs: null, values }), refillAtMs: Infinity };
  const untilMs = Math.max(next.fromMs, lastFromMs) - 1;
  return { times: encodeTimes({ untilMs, values }), refillAtMs: values[(values.length >> 2) * 2] ?? untilMs };
}
