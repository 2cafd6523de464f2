import type { Redis } from 'ioredis';
import type { ShardKeys } from './keys.ts';

/**
 * Lateness histograms as the dispatch script keeps them: 512 counters (u32, big-endian) in one string, so that one
 * BITFIELD counts a whole batch. One counter per ms below 256 ms, then 16 per doubling, up to 4.6 hours.
 */
const BUCKETS = 512;

export class Lateness {
  readonly counts = new Float64Array(BUCKETS);
  count = 0;
  /** How many of `count` come from the history, whose entries cover whole seconds. */
  sweptCount = 0;

  /** Adds what one Redis string holds, and says how many that is; a shorter string has zeroes behind it. */
  add(histogram: Buffer): number {
    const before = this.count;
    const buckets = Math.min(BUCKETS, histogram.length >> 2);
    for (let bucket = 0; bucket < buckets; bucket++) {
      const here = histogram.readUInt32BE(bucket * 4);
      this.counts[bucket]! += here;
      this.count += here;
    }
    return this.count - before;
  }

  /** The lateness, ms, that this share (0 to 1) of all was at most; 0 when nothing was counted. */
  percentile(share: number): number {
    let rest = Math.max(1, Math.ceil(this.count * share));
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      rest -= this.counts[bucket]!;
      if (rest <= 0) return upperBoundMs(bucket);
    }
    return 0;
  }

  get maxMs(): number {
    return this.count === 0 ? 0 : this.percentile(1);
  }
}

/** The largest lateness that a counter counts, whole ms. */
export function upperBoundMs(bucket: number): number {
  return bucket < 256 ? bucket : Math.ceil(256 * 2 ** ((bucket - 255) / 16)) - 1;
}

/** How much later than what a reader takes for Redis time an entry of the history may be, ms. */
const TOLERANCE_MS = 2_000;

/**
 * Lateness of everything dispatched by these shards since `sinceMs` (Redis time; history reaches two minutes back),
 * with what the owners have not moved to the history yet. Given `nowMs`, what was recorded before Redis's clock stepped
 * back is left out.
 */
export async function readLateness(
  redis: Redis,
  shards: readonly ShardKeys[],
  sinceMs: number,
  nowMs = Infinity,
): Promise<Lateness> {
  const pipeline = redis.pipeline();
  for (const shard of shards) {
    pipeline.getBuffer(shard.lateness);
    pipeline.xrangeBuffer(shard.history, String(Math.max(0, Math.floor(sinceMs))), '+');
  }
  const replies = (await pipeline.exec()) ?? [];
  const lateness = new Lateness();
  for (const [error, reply] of replies) {
    if (error) throw error;
    if (Buffer.isBuffer(reply)) lateness.add(reply);
    else {
      for (const [, fields] of (reply ?? []) as [Buffer, Buffer[]][]) {
        // A stream's ids never go back, the times in it do.
        if (Number(fields[1]) <= nowMs + TOLERANCE_MS) lateness.sweptCount += lateness.add(fields[3]!);
      }
    }
  }
  return lateness;
}
