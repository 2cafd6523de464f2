/** What the API asks the node that serves it. Everything but the first four is known without asking Redis. */
export interface System {
  /** Every live beat node. */
  nodes(): Promise<readonly NodeStatus[]>;
  shards(): Promise<readonly ShardStatus[]>;
  /** Every queue that schedules are sent to. */
  queues(): Promise<readonly QueueStatus[]>;
  /** Figures of the whole system. */
  stats(): Promise<SystemStats>;
  /** Id of the node that owns a shard; null when nobody is known to. */
  ownerOf(shard: number): string | null;
  /** Whether the connection to Redis is up, as far as it is known. */
  redisIsReachable(): boolean;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /** Whether the dispatch loop is turning. */
  isLive(): boolean;
  isReady(): Readiness;
  /** Metrics of this process in Prometheus's text format. */
  metrics(): Promise<string>;
}

export type Readiness = { readonly ready: true } | { readonly ready: false; readonly reason: string };

export interface NodeStatus {
  readonly id: string;
  readonly hostname: string;
  readonly pid: number;
  readonly version: string;
  readonly startedAtMs: number;
  readonly lastSeenAtMs: number;
  /** The shards it owns. */
  readonly shards: readonly number[];
  /** Dispatches per second over the last 10 s. */
  readonly rate: number;
}

export interface ShardStatus {
  readonly id: number;
  readonly owner: string | null;
  /** How many schedules it holds. */
  readonly schedules: number;
  readonly nextDueAtMs: number | null;
  /** How many are more than 100 ms past due. */
  readonly overdue: number;
}

export interface QueueStatus {
  readonly name: string;
  /** Messages in all its lists. */
  readonly length: number;
  /** Messages by kombu's priority step: 0, 3, 6, 9. */
  readonly byPriority: ReadonlyMap<number, number>;
  readonly cap: number;
  /** Occurrences dropped at the cap since the namespace was created. */
  readonly refused: number;
}

export interface SystemStats {
  readonly schedules: number;
  readonly enabled: number;
  readonly parked: number;
  readonly overdue: number;
  /** Runs whose end is waited for: of loops, and of schedules whose runs must not overlap. */
  readonly inFlight: number;
  /** Schedules with missed runs that wait for their turn. */
  readonly missed: number;
  /** What was given up and is still there. */
  readonly deadLetters: number;
  readonly dispatched: number;
  readonly rate: number;
  /** null where nothing was dispatched within the last 10 s, ms. */
  readonly lateness: {
    readonly p50: number | null;
    readonly p99: number | null;
    readonly p999: number | null;
    readonly max: number | null;
  };
  readonly refused: number;
  readonly misfired: number;
  readonly skipped: number;
  readonly recovered: number;
}
