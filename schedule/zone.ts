import { IANAZone } from 'luxon';
import { DAY_MS, dayNumber } from './civil.ts';

/**
 * The time zones' rules as stretches of constant offset from UTC, looked up in luxon once and kept: asking luxon costs
 * 5 us each time, which a search for the next run cannot afford.
 */
export interface Zone {
  /** The stretch that an instant (ms since epoch) lies in. */
  stretchAt(atMs: number): Stretch;
  /**
   * The first instant at which the clocks show this local time or a later one: the first of the two where it comes
   * twice, the end of the gap where it does not come at all.
   */
  firstInstantOf(localMs: number): number;
}

/** A time in which a zone's clocks keep one offset. */
export interface Stretch {
  readonly fromMs: number;
  /** The first instant beyond it. */
  readonly toMs: number;
  /** Local time minus UTC. */
  readonly offsetMs: number;
  /**
   * All local times before this one were shown, or passed over, before the stretch began. Later than its own beginning
   * where clocks were put back, earlier where they were put forward.
   */
  readonly shownMs: number;
}

/** The zone of an IANA name; null where there is none of this name. */
export function zoneOf(name: string): Zone | null {
  const kept = zones.get(name);
  if (kept !== undefined) return kept;
  const canonical = canonicalName(name);
  if (canonical === null) return null;
  const zone = canonical === 'UTC' ? UTC : new IanaStretches(canonical);
  if (zones.size >= ZONES_KEPT) zones.clear();
  zones.set(name, zone);
  return zone;
}

const zones = new Map<string, Zone>();

/** There are about 600 names; they may be written in capitals or not. */
const ZONES_KEPT = 1_024;

/** Newer versions of Node also take offsets such as +01:00, which not all that share the schedules may understand. */
function canonicalName(name: string): string | null {
  if (!/^[A-Za-z]/.test(name)) return null;
  try {
    return new Intl.DateTimeFormat('en-US', { timeZone: name }).resolvedOptions().timeZone;
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

const UTC: Zone = {
  stretchAt: () => ALWAYS,
  firstInstantOf: (localMs) => localMs,
};

const ALWAYS: Stretch = {
  fromMs: Number.NEGATIVE_INFINITY,
  toMs: Number.POSITIVE_INFINITY,
  offsetMs: 0,
  shownMs: Number.NEGATIVE_INFINITY,
};

/** The Gregorian calendar repeats itself after 400 years, its weekdays included. */
const CYCLE_MS = 146_097 * DAY_MS;
const CYCLE_BLOCKS = 200;

/** Two years: what is looked up at once. Stretches end at its borders. */
const BLOCK_MS = CYCLE_MS / CYCLE_BLOCKS;

/** From the year 2500 on the rules are those of 400 years before: there are none yet that end later than 2087. */
const FIRST_REPEATED_BLOCK = Math.ceil((dayNumber(2_500, 1, 1) * DAY_MS) / BLOCK_MS);

/** No zone has changed its clocks back and forth within less since 1970, the nearest being Recife's 7 days of 2000. */
const PROBE_MS = 5 * DAY_MS;

/** Offsets from UTC differ by no more than a day or two, even where a zone crossed the date line. */
const MARGIN_MS = 2 * DAY_MS;

class IanaStretches implements Zone {
  readonly #zone: IANAZone;
  readonly #blocks = new Map<number, readonly Stretch[]>();
  #last = ALWAYS;

  constructor(name: string) {
    this.#zone = IANAZone.create(name);
  }

  stretchAt(atMs: number): Stretch {
    const last = this.#last;
    if (atMs >= last.fromMs && atMs < last.toMs && last !== ALWAYS) return last;
    const block = this.#blockOf(Math.floor(atMs / BLOCK_MS));
    let index = block.length - 1;
    while (index > 0 && block[index]!.fromMs > atMs) index -= 1;
    this.#last = block[index]!;
    return this.#last;
  }

  firstInstantOf(localMs: number): number {
    let stretch = this.stretchAt(localMs - MARGIN_MS);
    while (localMs >= stretch.toMs + stretch.offsetMs) stretch = this.stretchAt(stretch.toMs);
    return Math.max(localMs - stretch.offsetMs, stretch.fromMs);
  }

  #blockOf(number: number): readonly Stretch[] {
    // These are not kept, so that there is an end to what is.
    if (number >= FIRST_REPEATED_BLOCK) return this.#repeat(number);
    let block = this.#blocks.get(number);
    if (block === undefined) {
      block = this.#lookUp(number);
      this.#blocks.set(number, block);
    }
    return block;
  }

  #repeat(number: number): readonly Stretch[] {
    const cycles = Math.floor((number - FIRST_REPEATED_BLOCK) / CYCLE_BLOCKS) + 1;
    const shiftMs = cycles * CYCLE_MS;
    return this.#blockOf(number - cycles * CYCLE_BLOCKS).map(({ fromMs, toMs, offsetMs, shownMs }) => ({
      fromMs: fromMs + shiftMs,
      toMs: toMs + shiftMs,
      offsetMs,
      shownMs: shownMs + shiftMs,
    }));
  }

  #lookUp(number: number): readonly Stretch[] {
    const startMs = number * BLOCK_MS;
    const endMs = startMs + BLOCK_MS;
    const block: Stretch[] = [];
    // Clocks that were put back shortly before still show what they have shown already.
    let fromMs = startMs - MARGIN_MS;
    let shownMs = Number.NEGATIVE_INFINITY;
    while (fromMs < endMs) {
      const offsetMs = this.#offsetAt(fromMs);
      const toMs = this.#changeAfter(fromMs, offsetMs, endMs);
      const isBegun = fromMs < startMs;
      if (toMs > startMs) {
        block.push({
          fromMs: isBegun ? startMs : fromMs,
          toMs,
          offsetMs,
          shownMs: isBegun ? Math.max(shownMs, startMs + offsetMs) : shownMs,
        });
      }
      shownMs = Math.max(shownMs, toMs + offsetMs);
      fromMs = toMs;
    }
    return block;
  }

  /** When the offset next changes, at most `endMs`. */
  #changeAfter(fromMs: number, offsetMs: number, endMs: number): number {
    for (let atMs = fromMs; atMs < endMs; atMs += PROBE_MS) {
      let without = atMs;
      let within = Math.min(atMs + PROBE_MS, endMs);
      if (this.#offsetAt(within) === offsetMs) continue;
      // Clocks change at whole seconds.
      while (within - without > 1_000) {
        const middle = without + Math.floor((within - without) / 2_000) * 1_000;
        if (this.#offsetAt(middle) === offsetMs) without = middle;
        else within = middle;
      }
      return within;
    }
    return endMs;
  }

  #offsetAt(atMs: number): number {
    return Math.round(this.#zone.offset(atMs) * 60_000);
  }
}
