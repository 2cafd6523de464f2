/** `YYYY-MM-DDThh:mm[:ss[.fff…]]` with `Z` or an offset: RFC 3339, with seconds and the offset's colon optional. */
const INSTANT = /^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(?:[Zz]|([+-])(\d\d):?(\d\d))$/;

/** The last ms of the year 9999: later instants have no four-digit year. */
export const LAST_INSTANT_MS = 253_402_300_799_999;

/**
 * The instant that a text names, ms since epoch, finer digits dropped; null when it names none: no offset, a day that
 * its month does not have, or a year before 1970. Stricter than Date.parse, which takes 2026-02-30 for March 2nd.
 */
export function parseInstant(text: string): number | null {
  const match = INSTANT.exec(text);
  if (match === null) return null;
  const [, year, month, day, hour, minute, second = '0', fraction = '', sign, offsetHour = '0', offsetMinute = '0'] =
    match;
  const localMs = Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second));
  const date = new Date(localMs);
  const exists =
    date.getUTCMonth() + 1 === Number(month) &&
    date.getUTCDate() === Number(day) &&
    date.getUTCHours() === Number(hour);
  if (!exists || Number(minute) > 59 || Number(second) > 59 || Number(offsetHour) > 23 || Number(offsetMinute) > 59)
    return null;
  const offsetMs = (Number(offsetHour) * 60 + Number(offsetMinute)) * (sign === '-' ? -60_000 : 60_000);
  const atMs = localMs + Number(fraction.padEnd(3, '0').slice(0, 3)) - offsetMs;
  return atMs >= 0 && atMs <= LAST_INSTANT_MS ? atMs : null;
}

/** An instant as the API writes it: ISO 8601 in UTC with ms. */
export function formatInstant(atMs: number): string {
  return new Date(atMs).toISOString();
}
