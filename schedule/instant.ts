import { DateTime } from 'luxon';

/** A date, a time of day, and `Z` or an offset: without one a time means another instant on every machine. */
const INSTANT = /^\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):\d\d.*(?:[Zz]|[+-](?:[01]\d|2[0-3]):?[0-5]\d)$/;

const OWN_NOTATION = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

/** The last ms of the year 9999: later instants have no four-digit year. */
export const LAST_INSTANT_MS = 253_402_300_799_999;

/**
 * The instant that an ISO 8601 text names, ms since epoch, finer digits dropped; null when it names none: no offset, a
 * day that its month does not have, or a year before 1970.
 */
export function parseInstant(text: string): number | null {
  // As we write it ourselves: imports are full of these, and luxon takes its time.
  const ownMs = OWN_NOTATION.test(text) ? Date.parse(text) : Number.NaN;
  if (ownMs >= 0 && formatInstant(ownMs) === text) return ownMs;
  if (!INSTANT.test(text)) return null;
  const parsed = DateTime.fromISO(text, { zone: 'utc' });
  const atMs = parsed.isValid ? parsed.toMillis() : -1;
  return atMs >= 0 && atMs <= LAST_INSTANT_MS ? atMs : null;
}

/** An instant as the API writes it: ISO 8601 in UTC with ms. */
export function formatInstant(atMs: number): string {
  return new Date(atMs).toISOString();
}
