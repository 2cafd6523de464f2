/** Samples of one scrape, in Prometheus's text format: `name{label="value"} 12`. */
export type Scrape = readonly Sample[];

interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export function parseScrape(text: string): Scrape {
  const samples: Sample[] = [];
  for (const line of text.split('\n')) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (match === null) continue;
    const labels = Object.fromEntries(
      [...(match[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name!, value!]),
    );
    samples.push({ name: match[1]!, labels, value: match[3] === '+Inf' ? Infinity : Number(match[3]) });
  }
  return samples;
}

/** Sum over all label sets of `name`, or of those that have these labels. */
export function sumOf(scrape: Scrape, name: string, labels: Readonly<Record<string, string>> = {}): number {
  const wanted = Object.entries(labels);
  return scrape
    .filter((sample) => sample.name === name && wanted.every(([label, value]) => sample.labels[label] === value))
    .reduce((sum, sample) => sum + sample.value, 0);
}

/** Counts at or below each upper bound, lowest first, summed over all other labels; the last bound is Infinity. */
export type Buckets = ReadonlyMap<number, number>;

export function bucketsOf(scrape: Scrape, histogram: string): Buckets {
  const buckets = new Map<number, number>();
  for (const { name, labels, value } of scrape) {
    if (name !== `${histogram}_bucket` || labels.le === undefined) continue;
    const bound = labels.le === '+Inf' ? Infinity : Number(labels.le);
    buckets.set(bound, (buckets.get(bound) ?? 0) + value);
  }
  return new Map([...buckets].sort(([a], [b]) => a - b));
}

/** What was counted between two scrapes of the same process. */
export function bucketsSince(now: Buckets, before: Buckets): Buckets {
  return new Map([...now].map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]));
}

/**
 * The value that this share (0 to 1) of all was at most, interpolated within its bucket as Prometheus's
 * histogram_quantile does; null where nothing was counted.
 */
export function quantileOf(buckets: Buckets, share: number): number | null {
  const bounds = [...buckets];
  const total = bounds.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = share * total;
  let lower = 0;
  let below = 0;
  for (const [bound, count] of bounds) {
    if (count >= rank) {
      if (bound === Infinity) return lower;
      return count === below ? bound : lower + ((bound - lower) * (rank - below)) / (count - below);
    }
    lower = bound;
    below = count;
  }
  return lower;
}
