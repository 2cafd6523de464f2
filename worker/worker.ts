import { randomBytes } from 'node:crypto';
import { loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { Client } from '../client/client.ts';
import { offerClient } from '../client/default-client.ts';
import { signals, type WorkerEvent } from '../client/signals.ts';
import { tasks } from '../client/task.ts';
import { connect } from '../lua/connection.ts';
import { queueBinding } from '../lua/keys.ts';
import { requireRedisVersion } from '../lua/redis-version.ts';
import { restoreInvisible, restoreLostWorkers, restoreOwn, WORKER_LEASE_MS } from '../lua/restore.ts';
import { workerHeartbeat } from '../lua/worker-heartbeat.ts';
import { LogicalClock } from '../protocol/control-message.ts';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { monotonicMs, RedisClock } from '../runtime/clock.ts';
import { createLog, type Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';
import { defineBuiltinTasks } from './builtin-tasks.ts';
import { type WorkerConfig, type WorkerOptions, workerConfig } from './config.ts';
import { workerView } from './control/worker-view.ts';
import { flowSource } from './ending.ts';
import { Events } from './events.ts';
import { WorkerMetrics } from './metrics.ts';
import { Autoscaler } from './pools/autoscaler.ts';
import { makePool } from './pools/make-pool.ts';
import type { Pool } from './pools/pool.ts';
import { taskPort } from './port.ts';
import { Pump } from './pump.ts';
import { RateLimits } from './rate-limits.ts';
import { RemoteControl } from './remote-control.ts';
import { reportSlots } from './slots.ts';
import { StateFile } from './state-file.ts';
import { loadTasks } from './tasks-modules.ts';

const HEARTBEAT_MS = 2_000;

/** How often dead workers are looked for, ms; their messages are back within the lease and this. */
const LOST_WORKERS_MS = 500;

/** How often messages older than the visibility timeout are looked for, ms. */
const INVISIBLE_MS = 10_000;

/** Scores are refreshed this many times within a visibility timeout, so that two refreshes may be lost. */
const REFRESHES = 3;

/** How long a shutdown waits for Redis before it leaves the rest to the others, ms. */
const GIVE_BACK_MS = 5_000;

/** A bundled worker: takes messages from Celery queues and runs the tasks that are defined in this process. */
export class Worker implements Service {
  readonly config: WorkerConfig;
  readonly metrics = new WorkerMetrics();
  readonly #log: Log;
  readonly #workerId: string;
  readonly #clock = new RedisClock((jumpMs) => this.#clockJumped(jumpMs));
  readonly #logicalClock = new LogicalClock();
  readonly #abort = new AbortController();
  readonly #revoked = new RevokedTasks(() => this.#stateFile?.changed());
  #redis: Redis | null = null;
  /** Closes the client with which tasks send others. */
  #closeClient = async (): Promise<void> => {};
  #pump: Pump | null = null;
  #pool: Pool | null = null;
  #autoscaler: Autoscaler | null = null;
  #events: Events | null = null;
  #control: RemoteControl | null = null;
  readonly #stateFile: StateFile | null;
  /** Shards of the namespace as of the last heartbeat; 0 while there is none. */
  #shards = 0;
  #loops: readonly Loop[] = [];
  #refreshing: Loop | null = null;
  #stopped: Promise<void> | null = null;
  #hasEnded = () => {};
  /** Resolves when the worker has stopped, whoever told it to. */
  readonly ended: Promise<void> = new Promise((resolve) => {
    this.#hasEnded = resolve;
  });
  /** Resolves when the worker is told to stop at once. */
  readonly #toldToStopNow = new Promise<void>((resolve) => {
    this.#abort.signal.addEventListener('abort', () => resolve());
  });

  /** `log` is where events go; default: standard error, at level info. */
  constructor(options: WorkerOptions, log: Log = createLog('info', 'worker')) {
    this.config = workerConfig(options);
    this.#log = log;
    const { statedb } = this.config;
    // Of the machine's own clock, as before Redis is there; what is in it was written by it.
    const local = new RedisClock();
    this.#stateFile =
      statedb === null
        ? null
        : new StateFile({ file: statedb, revoked: this.#revoked, log, nowMs: () => local.nowMs() });
    this.#workerId = `${this.config.hostname}:${process.pid}:${randomBytes(4).toString('hex')}`;
  }

  /**
   * Resolves when the worker takes messages; waits for Redis as long as that takes. Throws TASKS_MODULE where a module of
   * `tasks` cannot be loaded.
   */
  async start(): Promise<void> {
    const { config } = this;
    if (config.tasks.length > 0) await loadTasks(config.tasks);
    defineBuiltinTasks();
    await signals.workerInit.send(this.#asSender, this.#log);
    await this.#stateFile?.open();
    if (this.#stopped !== null) return;
    const redis = connect(config.redis, { option: '--redis', name: `ringbeat-worker ${config.hostname}` });
    this.#redis = redis;
    redis.on('close', () => this.#clock.disturbed());
    const pump: Pump = this.#makePump(redis);
    this.#pump = pump;
    const refreshing = this.#loop('refresh', () => this.#refresh(pump));
    this.#refreshing = refreshing;
    try {
      await this.#pool?.start();
      await this.#firstHeartbeat(redis, pump);
    } catch (error) {
      this.#control?.close();
      redis.disconnect();
      await this.#pool?.stop(true);
      throw error;
    }
    if (this.#stopped !== null) return;
    const { redis: url, namespace, taskSendSentEvent } = config;
    this.#closeClient = offerClient(() => new Client({ redis: url, namespace, taskSendSentEvent, default: false }));
    const control = this.#control;
    await Promise.all([this.#showQueues(redis), this.#sayOnline(), control?.start()]);
    if (this.#stopped !== null) return;
    this.#loops = [
      ...this.#tellingMonitors(),
      this.#loop('heartbeat', () => this.#heartbeat(redis, pump)),
      this.#loop('restore_lost_workers', () => this.#restoreLostWorkers(redis)),
      this.#loop('restore_invisible', () => this.#restoreInvisible(redis)),
      this.#loop('sweep_chords', () => pump.sweepChords()),
      refreshing,
    ];
    for (const loop of this.#loops) loop.start();
    pump.start();
    this.#autoscaler?.start();
    this.#log.info({
      event: 'worker_ready',
      hostname: config.hostname,
      queues: config.queues,
      pool: config.pool,
      concurrency: config.concurrency,
      tasks: [...tasks.keys()].filter((name) => !name.startsWith('celery.')).sort(),
    });
    void signals.workerReady.send(this.#asSender, this.#log);
    this.#log.warn({
      event: 'visibility_timeout',
      seconds: config.visibilityMs / 1_000,
      note: 'the smallest visibility timeout of any worker in this Redis database applies to the messages of all of them',
    });
  }

  /** Warm shutdown: takes no more, gives back what has not started, lets running tasks finish and stores their results. */
  stop(): Promise<void> {
    if (this.#stopped === null) {
      if (!this.#abort.signal.aborted) this.#shuttingDown('warm');
      this.#stopped = this.#shutDown();
    }
    return this.#stopped;
  }

  /** Cold shutdown: does not wait for running tasks, whose `ctx.signal` is aborted; gives back everything unacknowledged. */
  stopNow(): Promise<void> {
    if (!this.#abort.signal.aborted) this.#shuttingDown('cold');
    this.#abort.abort();
    this.#pump?.active.interruptAll(new Error('The worker was told to stop at once.'));
    return this.stop();
  }

  get #asSender(): WorkerEvent {
    return { sender: this.config.hostname, pid: process.pid };
  }

  #shuttingDown(how: 'warm' | 'cold'): void {
    void signals.workerShuttingDown.send({ ...this.#asSender, how }, this.#log);
  }

  /** Writes what every slot is doing to the log. */
  report(): void {
    const pump = this.#pump;
    const pool = this.#pool;
    if (pump === null || pool === null) return;
    reportSlots(this.#log, { pool, jobs: pump.active.running(), waiting: pump.reserved().length });
  }

  #makePump(redis: Redis): Pump {
    const { config, metrics } = this;
    const clock = this.#clock;
    const log = this.#log;
    const workerId = this.#workerId;
    const { namespace } = config;
    const rateLimits = new RateLimits({ redis, namespace, log, onAdmitted: (deliveries) => pump.admitted(deliveries) });
    const events: Events = new Events({
      redis,
      hostname: config.hostname,
      clock: this.#logicalClock,
      isOn: config.taskEvents,
      tellsSent: config.taskSendSentEvent,
      heartbeatSec: config.heartbeatSec,
      log,
      counts: metrics.events,
      nowMs: () => clock.nowMs(),
      state: () => ({
        active: pump.active.running().length,
        processed: [...pump.active.totals.values()].reduce((sum, total) => sum + total, 0),
        loadAverage: loadavg(),
      }),
      onHeartbeat: () => void signals.heartbeatSent.send(this.#asSender, log),
    });
    this.#events = events;
    const port = taskPort({ redis, config, workerId, clock, events, log, active: () => pump.active });
    const pool = makePool(config, port, log, () => pump.wake());
    this.#pool = pool;
    const pump: Pump = new Pump({
      redis,
      config,
      workerId,
      clock,
      metrics,
      pool,
      port,
      events,
      rateLimits,
      revoked: this.#revoked,
      log,
      onTaken: () => this.#autoscaler?.loaded(),
    });
    const { autoscale, autoscaleKeepaliveMs } = config;
    if (autoscale !== null) {
      this.#autoscaler = new Autoscaler({
        pool,
        scale: autoscale,
        keepaliveMs: autoscaleKeepaliveMs,
        log,
        load: () => pump.load,
        onResize: () => pump.wake(),
      });
    }
    const autoscaler = this.#autoscaler;
    const shutdown = () => {
      this.stop().catch((error: unknown) => log.error({ event: 'stop_failed', reason: messageOf(error) }));
    };
    this.#control = new RemoteControl({
      redis,
      config,
      view: workerView({ pump, pool, events, rateLimits, autoscaler, log, shutdown }),
      clock: this.#logicalClock,
      revoked: this.#revoked,
      log,
      nowMs: () => clock.nowMs(),
      shards: () => this.#shards,
    });
    return pump;
  }

  async #firstHeartbeat(redis: Redis, pump: Pump): Promise<void> {
    for (let failures = 0; this.#stopped === null; failures++) {
      try {
        await requireRedisVersion(redis);
        await this.#heartbeat(redis, pump);
        return;
      } catch (error) {
        if (error instanceof RingbeatError && error.code === 'REDIS_TOO_OLD') throw error;
        if (failures === 0) this.#log.warn({ event: 'redis_unreachable', reason: messageOf(error) });
        await Promise.race([sleep(Math.min(50 * 2 ** failures, 1_000)), this.#toldToStopNow]);
      }
    }
  }

  /** Enters the queues where Celery's tools look for them. */
  async #showQueues(redis: Redis): Promise<void> {
    try {
      await Promise.all(this.config.queues.map(queueBinding).map(({ key, member }) => redis.sadd(key, member)));
    } catch (error) {
      // A Redis that is out of memory refuses it, and needs workers all the more.
      this.#log.warn({ event: 'queues_not_shown', reason: messageOf(error) });
    }
  }

  /** Tells monitors that the worker is there, before it hears anybody, as Celery's workers do. */
  async #sayOnline(): Promise<void> {
    try {
      await this.#events?.online();
    } catch (error) {
      // The first heartbeat says the same.
      this.#log.warn({ event: 'events_failed', reason: messageOf(error) });
    }
  }

  #tellingMonitors(): Loop[] {
    const events = this.#events;
    const { heartbeatSec } = this.config;
    if (events === null || heartbeatSec === null) return [];
    return [
      this.#loop('events', async () => {
        await events.heartbeat();
        return heartbeatSec * 1_000;
      }),
    ];
  }

  /** Sends what is left of events, and that the worker has gone. */
  async #sayOffline(): Promise<void> {
    await this.#events?.idle();
    await this.#events?.offline();
  }

  #loop(name: string, step: () => Promise<number>): Loop {
    return new Loop(name, this.#log, async () => {
      try {
        return await step();
      } catch (error) {
        // Redis may have stood still meanwhile: no heartbeat grew old rightly.
        this.#clock.disturbed();
        throw error;
      }
    });
  }

  #clockJumped(jumpMs: number): void {
    this.#log.warn({ event: 'redis_clock_jumped', ms: jumpMs });
    // Scores written before the jump tell a wrong age: renew them before anybody may judge it.
    this.#refreshing?.wake();
  }

  async #heartbeat(redis: Redis, pump: Pump): Promise<number> {
    const sentAtMs = monotonicMs();
    const { nowMs, beats, shards } = await workerHeartbeat(redis, this.config.namespace, this.#workerId);
    this.#clock.observe(nowMs, sentAtMs);
    this.#shards = shards;
    if (pump.heard(beats > 0 ? shards : 0)) this.#refreshing?.wake();
    return HEARTBEAT_MS;
  }

  async #restoreLostWorkers(redis: Redis): Promise<number> {
    if (!this.#clock.steadyFor(WORKER_LEASE_MS)) return LOST_WORKERS_MS;
    const { workers, restored, deadLetters } = await restoreLostWorkers(
      redis,
      this.config.namespace,
      this.#clock.nowMs(),
      flowSource(this.config),
    );
    if (workers.length > 0) this.#log.warn({ event: 'workers_lost', workers, restored, deadLetters });
    return LOST_WORKERS_MS;
  }

  async #restoreInvisible(redis: Redis): Promise<number> {
    const { namespace, visibilityMs } = this.config;
    const everyMs = Math.min(INVISIBLE_MS, visibilityMs);
    if (!this.#clock.steadyFor(Math.min(visibilityMs, WORKER_LEASE_MS))) return Math.min(everyMs, 1_000);
    const { restored, deadLetters } = await restoreInvisible(redis, namespace, this.#workerId, visibilityMs, () =>
      this.#clock.nowMs(),
    );
    if (restored + deadLetters > 0) this.#log.warn({ event: 'messages_restored', restored, deadLetters });
    return everyMs;
  }

  async #refresh(pump: Pump): Promise<number> {
    await pump.refresh();
    return this.config.visibilityMs / REFRESHES;
  }

  async #shutDown(): Promise<void> {
    const redis = this.#redis;
    const pump = this.#pump;
    if (redis === null || pump === null) {
      this.#hasEnded();
      return;
    }
    this.#log.info({ event: 'worker_stopping' });
    try {
      await Promise.race([this.#finish(pump), this.#toldToStopNow]);
      pump.close();
      await Promise.race([
        Promise.all([
          Promise.all(this.#loops.map((loop) => loop.stop())),
          this.#autoscaler?.stop(),
          this.#pool?.stop(this.#abort.signal.aborted),
          restoreOwn(redis, this.config.namespace, this.#workerId),
          this.#control?.stop(),
          this.#stateFile?.close(),
          this.#closeClient(),
          this.#sayOffline(),
        ]),
        sleep(GIVE_BACK_MS, undefined, { ref: false }),
      ]);
    } catch (error) {
      this.#log.warn({
        event: 'give_back_failed',
        reason: messageOf(error),
        note: 'other workers and beat nodes will restore the rest',
      });
    } finally {
      pump.close();
      this.#events?.close();
      redis.disconnect();
      this.#control?.close();
      await signals.workerShutdown.send(this.#asSender, this.#log);
      this.#log.info({ event: 'worker_stopped' });
      this.#hasEnded();
    }
  }

  async #finish(pump: Pump): Promise<void> {
    await pump
      .drain()
      .catch((error: unknown) => this.#log.warn({ event: 'give_back_failed', reason: messageOf(error) }));
    await pump.quiet();
  }
}
