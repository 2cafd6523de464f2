import { Counter, Gauge, Registry } from 'prom-client';
import type { DispatchReply } from '../lua/dispatch.ts';

/** Upper bounds of the exported histogram, s. */
const BOUNDS_SEC = [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60];
const LATENESS = 'ringbeat_dispatch_lateness_seconds';
const RATE_WINDOW_SEC = 10;

export interface ShardGauges {
  /** Schedules, and runs more than 100 ms past due, in the shards that this node owns. */
  readonly schedules: number;
  readonly overdue: number;
  readonly shards: readonly number[];
  readonly queueLengths: ReadonlyMap<string, number>;
}

/** What this process has dispatched, for `/metrics` and for its line in `GET /v1/nodes`. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #dispatched = new Counter({
    name: 'ringbeat_dispatched_total',
    help: 'Messages pushed to queues by this node.',
    registers: [this.#registry],
  });
  readonly #refused = new Counter({
    name: 'ringbeat_refused_total',
    help: 'Runs dropped by this node at a queue cap.',
    registers: [this.#registry],
  });
  readonly #misfired = new Counter({
    name: 'ringbeat_misfired_total',
    help: 'Runs dropped by this node by misfire policy or expiry.',
    registers: [this.#registry],
  });
  readonly #recovered = new Counter({
    name: 'ringbeat_recovered_total',
    help: 'Messages of lost workers given back to their queues by this node.',
    registers: [this.#registry],
  });
  readonly #restored = new Counter({
    name: 'ringbeat_restored_total',
    help: 'Schedules put back by this node from its journal into a Redis that had lost them.',
    registers: [this.#registry],
  });
  readonly #jumps = new Counter({
    name: 'ringbeat_redis_clock_jumps_total',
    help: "Jumps of Redis's clock by more than a second that this node saw.",
    registers: [this.#registry],
  });
  readonly #schedules = new Gauge({
    name: 'ringbeat_schedules',
    help: 'Schedules in the shards that this node owns.',
    registers: [this.#registry],
  });
  readonly #overdue = new Gauge({
    name: 'ringbeat_overdue',
    help: 'Runs more than 100 ms past due in the shards that this node owns.',
    registers: [this.#registry],
  });
  readonly #owner = new Gauge({
    name: 'ringbeat_shard_owner',
    help: '1 for each shard that this node owns.',
    labelNames: ['shard'],
    registers: [this.#registry],
  });
  readonly #queueLength = new Gauge({
    name: 'ringbeat_queue_length',
    help: 'Messages in a queue, over all its priorities; the same on every node.',
    labelNames: ['queue'],
    registers: [this.#registry],
  });
  // One dispatch reports thousands of runs as a few pairs, which prom-client's histogram could only take one by one.
  readonly #buckets = new Float64Array(BOUNDS_SEC.length + 1);
  #latenessSumSec = 0;
  #latenessCount = 0;
  readonly #perSecond = new Float64Array(RATE_WINDOW_SEC + 1);
  #second = 0;

  record(reply: DispatchReply): void {
    if (reply.sent > 0) this.#dispatched.inc(reply.sent);
    if (reply.refused > 0) this.#refused.inc(reply.refused);
    if (reply.misfired > 0) this.#misfired.inc(reply.misfired);
    for (const [ms, count] of reply.latenesses) {
      const bucket = BOUNDS_SEC.findIndex((bound) => ms <= bound * 1_000);
      this.#buckets[bucket === -1 ? BOUNDS_SEC.length : bucket]! += count;
      this.#latenessSumSec += (ms / 1_000) * count;
      this.#latenessCount += count;
    }
    this.#turnTo(Math.floor(reply.nowMs / 1_000));
    this.#perSecond[this.#second % this.#perSecond.length]! += reply.sent;
  }

  recordRecovered(messages: number): void {
    if (messages > 0) this.#recovered.inc(messages);
  }

  recordRestored(schedules: number): void {
    if (schedules > 0) this.#restored.inc(schedules);
  }

  /** Tells from now on whether this node's journal lacks nothing. */
  watchJournal(isWhole: () => boolean): void {
    new Gauge({
      name: 'ringbeat_journal_whole',
      help: "1 while this node's journal on disk has every schedule and every change, else 0.",
      registers: [this.#registry],
      collect() {
        this.set(isWhole() ? 1 : 0);
      },
    });
  }

  recordJump(): void {
    this.#jumps.inc();
  }

  /** Messages per second over the last 10 whole seconds before this Redis time. */
  rate(nowMs: number): number {
    this.#turnTo(Math.floor(nowMs / 1_000));
    const current = this.#perSecond[this.#second % this.#perSecond.length]!;
    return (this.#perSecond.reduce((sum, count) => sum + count, 0) - current) / RATE_WINDOW_SEC;
  }

  /** Prometheus's text format. */
  async text(gauges: ShardGauges | null): Promise<string> {
    this.#owner.reset();
    this.#queueLength.reset();
    if (gauges !== null) {
      this.#schedules.set(gauges.schedules);
      this.#overdue.set(gauges.overdue);
      for (const shard of gauges.shards) this.#owner.set({ shard: String(shard) }, 1);
      for (const [queue, length] of gauges.queueLengths) this.#queueLength.set({ queue }, length);
    }
    return `${await this.#registry.metrics()}${this.#latenessText()}`;
  }

  #latenessText(): string {
    let below = 0;
    const lines = [
      `# HELP ${LATENESS} Redis time when the message was pushed minus due time.`,
      `# TYPE ${LATENESS} histogram`,
    ];
    BOUNDS_SEC.forEach((bound, i) => {
      below += this.#buckets[i]!;
      lines.push(`${LATENESS}_bucket{le="${bound}"} ${below}`);
    });
    lines.push(
      `${LATENESS}_bucket{le="+Inf"} ${this.#latenessCount}`,
      `${LATENESS}_sum ${this.#latenessSumSec}`,
      `${LATENESS}_count ${this.#latenessCount}`,
    );
    return `${lines.join('\n')}\n`;
  }

  #turnTo(second: number): void {
    const size = this.#perSecond.length;
    // A step of Redis's clock beyond the window leaves nothing of it.
    const steps = Math.min(Math.max(second - this.#second, 0), size);
    for (let step = 1; step <= steps; step++) this.#perSecond[(second - steps + step) % size] = 0;
    this.#second = second;
  }
}
