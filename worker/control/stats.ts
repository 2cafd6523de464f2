import { parseRedisUrl } from '../../lua/connection.ts';
import type { LogicalClock } from '../../protocol/control-message.ts';
import type { Json } from '../../protocol/json.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { WorkerConfig } from '../config.ts';
import type { WorkerView } from './view.ts';

export interface StatsOptions {
  readonly config: WorkerConfig;
  readonly view: WorkerView;
  readonly clock: LogicalClock;
  /** On the monotonic clock. */
  readonly startedAtMs: number;
}

/** Figures of a worker as Celery gives them (celery/worker/worker.py, WorkController.stats). */
export function workerStats({ config, view, clock, startedAtMs }: StatsOptions): Json {
  return {
    total: Object.fromEntries(view.totals()),
    pid: process.pid,
    clock: String(clock.value),
    uptime: Math.round((monotonicMs() - startedAtMs) / 1_000),
    pool: view.pool.info(),
    broker: brokerInfo(config),
    prefetch_count: view.prefetch(),
    rusage: resourceUsage(),
    ...(view.autoscaler === null ? {} : { autoscaler: view.autoscaler.info() }),
  };
}

/** Where messages come from, as kombu's `Connection.info()` tells it, without the password. */
function brokerInfo({ redis, visibilityMs }: WorkerConfig): Json {
  const { host, port, path, db, username, tls } = parseRedisUrl(redis, '--redis');
  return {
    hostname: host ?? path ?? null,
    userid: username ?? null,
    virtual_host: String(db),
    port: port ?? null,
    insist: false,
    ssl: tls !== undefined,
    transport: 'redis',
    connect_timeout: 5,
    transport_options: { visibility_timeout: visibilityMs / 1_000 },
    login_method: null,
    uri_prefix: null,
    heartbeat: 0,
    failover_strategy: 'round-robin',
    alternates: [],
    credential_provider: null,
  };
}

/** getrusage(2) as Python names its fields. */
function resourceUsage(): Json {
  const usage = process.resourceUsage();
  return {
    utime: usage.userCPUTime / 1e6,
    stime: usage.systemCPUTime / 1e6,
    maxrss: usage.maxRSS,
    ixrss: usage.sharedMemorySize,
    idrss: usage.unsharedDataSize,
    isrss: usage.unsharedStackSize,
    minflt: usage.minorPageFault,
    majflt: usage.majorPageFault,
    nswap: usage.swappedOut,
    inblock: usage.fsRead,
    oublock: usage.fsWrite,
    msgsnd: usage.ipcSent,
    msgrcv: usage.ipcReceived,
    nsignals: usage.signalsCount,
    nvcsw: usage.voluntaryContextSwitches,
    nivcsw: usage.involuntaryContextSwitches,
  };
}
