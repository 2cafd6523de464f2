import type { Redis } from 'ioredis';
import type { ControlCommands } from '../../lua/pidbox.ts';
import { CONTROL_COMMANDS, type ControlCommandSpec, type ControlMethod } from '../../protocol/control-commands.ts';
import type { LogicalClock } from '../../protocol/control-message.ts';
import type { Json } from '../../protocol/json.ts';
import type { RevokedTasks } from '../../protocol/revoked-tasks.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { Log } from '../../runtime/log.ts';
import type { WorkerConfig } from '../config.ts';
import { type Arguments, integerOf, isTrue, requireArguments, revokedBy } from './arguments.ts';
import { bugReport, settingsOf } from './conf.ts';
import { listActive, listReserved, listScheduled, queryTasks } from './inspect.ts';
import { setGlobalRateLimit, setRateLimit, setTimeLimits } from './limits.ts';
import { MemorySamples, snapshotHeap } from './memory.ts';
import { autoscale, growPool, restartPool, shrinkPool } from './pool.ts';
import { Consumers } from './queues.ts';
import { listRegistered } from './registered.ts';
import { revoke, revokeByStampedHeaders, revokeHere } from './revoke.ts';
import { workerStats } from './stats.ts';
import type { WorkerView } from './view.ts';

export interface ControlOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly view: WorkerView;
  readonly clock: LogicalClock;
  readonly revoked: RevokedTasks;
  readonly log: Log;
  /** When the worker was started, on the monotonic clock. */
  readonly startedAtMs: number;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /** Shards of the namespace; 0 while there is none. */
  shards(): number;
}

type Handler = (args: Arguments) => Promise<Json | undefined> | Json | undefined;

/** The remote control commands of a worker (celery/worker/control.py), under all their names. */
export function controlCommands(options: ControlOptions): ControlCommands {
  const commands: Record<string, Handler> = {};
  for (const [method, handler] of Object.entries(handlersOf(options))) {
    const { alias }: ControlCommandSpec = CONTROL_COMMANDS[method as ControlMethod];
    const checked: Handler = (args) => {
      requireArguments(method, args);
      return handler(args);
    };
    commands[method] = checked;
    if (alias !== undefined) commands[alias] = checked;
  }
  return commands;
}

function handlersOf(options: ControlOptions): Readonly<Record<ControlMethod, Handler>> {
  const { config, view, clock, revoked, log } = options;
  const consumers = new Consumers(options);
  const memory = new MemorySamples();
  return {
    ping: () => ({ ok: 'pong' }),
    clock: () => ({ clock: clock.value }),
    report: () => ({ ok: bugReport(config) }),
    conf: (args) => settingsOf(config, isTrue(args.with_defaults)),
    stats: () => workerStats(options),
    hello: (args) => {
      if (args.from_node === config.hostname) return null;
      log.info({ event: 'mingle_hello', node: args.from_node });
      revokeHere(options, revokedBy(args.revoked));
      revoked.purge(monotonicMs());
      return { revoked: [...revoked.entries()].map(([id]) => id), clock: clock.forward() };
    },

    active: (args) => listActive(options, args),
    reserved: () => listReserved(options),
    scheduled: () => listScheduled(options),
    query_task: (args) => queryTasks(options, args),
    revoked: () => [...revoked.entries()].map(([id]) => id),
    registered: (args) => listRegistered(view, config, args),
    active_queues: () => consumers.list(),
    memsample: () => memory.sample(),
    memdump: (args) => memory.dump(integerOf('samples', args.samples, 10)),
    objgraph: () => snapshotHeap(),

    revoke: (args) => revoke(options, args),
    terminate: (args) => revoke(options, { ...args, terminate: true }),
    revoke_by_stamped_headers: (args) => revokeByStampedHeaders(options, args),
    rate_limit: (args) => setRateLimit(view, args),
    global_rate_limit: (args) => setGlobalRateLimit(view, args),
    time_limit: (args) => setTimeLimits(view, args),
    add_consumer: (args) => consumers.add(args),
    cancel_consumer: (args) => consumers.cancel(args),
    pool_grow: (args) => growPool(view, args),
    pool_shrink: (args) => shrinkPool(view, args),
    pool_restart: () => restartPool(view),
    autoscale: (args) => autoscale(view, args),
    enable_events: () => ({ ok: view.enableEvents() ? 'task events enabled' : 'task events already enabled' }),
    disable_events: () => ({ ok: view.disableEvents() ? 'task events disabled' : 'task events already disabled' }),
    heartbeat: () => {
      view.heartbeat();
      return null;
    },
    // Nothing here is done by one worker for all of them.
    election: () => null,
    shutdown: (args) => {
      log.warn({ event: 'shutdown_requested', message: args.msg ?? null });
      view.shutdown();
      return undefined;
    },
  };
}
