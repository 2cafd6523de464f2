import { build, type Histogram } from 'hdr-histogram-js';

/** What is kept of a distribution, ms. */
export interface Percentiles {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly p9999: number;
  readonly max: number;
}

/** A histogram of durations from 1 us to an hour, kept to three digits. */
export class LatenessHistogram {
  readonly #histogram: Histogram = build({
    lowestDiscernibleValue: 1,
    highestTrackableValue: 3_600_000_000,
    numberOfSignificantValueDigits: 3,
    autoResize: true,
  });

  record(ms: number): void {
    this.#histogram.recordValue(Math.max(0, Math.round(ms * 1_000)));
  }

  reset(): void {
    this.#histogram.reset();
  }

  read(): Percentiles {
    const at = (percentile: number) => this.#histogram.getValueAtPercentile(percentile) / 1_000;
    return summarise(this.#histogram.totalCount, at, this.#histogram.maxValue / 1_000);
  }
}

/** `at(p)` for p from 0 to 100, with the count and the largest value. */
export function summarise(count: number, at: (percentile: number) => number, max: number): Percentiles {
  if (count === 0) return { count: 0, p50: 0, p90: 0, p99: 0, p999: 0, p9999: 0, max: 0 };
  return { count, p50: at(50), p90: at(90), p99: at(99), p999: at(99.9), p9999: at(99.99), max };
}
