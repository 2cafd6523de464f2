/**
 * What Node computes ahead of a calendar or an exclusion, as Lua reads it: numbers of 15 digits (ms since epoch), one
 * behind the other. The first tells until when all is known, SERIES_END where nothing more comes. Behind it a calendar's
 * occurrences, ascending; or an exclusion's windows, each as its beginning and its end (the first instant that is not
 * excluded), ascending and apart.
 */
export interface Times {
  /** Everything up to this instant is among the values; null: there is nothing beyond them. */
  readonly untilMs: number | null;
  readonly values: readonly number[];
}

const WIDTH = 15;
const SERIES_END = '9'.repeat(WIDTH);

export function encodeTimes({ untilMs, values }: Times): string {
  return (untilMs === null ? SERIES_END : encodeTime(untilMs)) + values.map(encodeTime).join('');
}

export function decodeTimes(text: string): Times {
  const numbers = Array.from({ length: Math.floor(text.length / WIDTH) }, (_, at) =>
    text.slice(at * WIDTH, (at + 1) * WIDTH),
  );
  const [until = SERIES_END, ...values] = numbers;
  return { untilMs: until === SERIES_END ? null : Number(until), values: values.map(Number) };
}

function encodeTime(atMs: number): string {
  return String(atMs).padStart(WIDTH, '0');
}
