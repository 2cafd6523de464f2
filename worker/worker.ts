import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { Client } from '../client/client.ts';
import { offerClient } from '../client/default-client.ts';
import { tasks } from '../client/task.ts';
import { connect } from '../lua/connection.ts';
import { queueBinding } from '../lua/keys.ts';
import { Pidbox } from '../lua/pidbox.ts';
import { requireRedisVersion } from '../lua/redis-version.ts';
import { restoreInvisible, restoreLostWorkers, restoreOwn, WORKER_LEASE_MS } from '../lua/restore.ts';
import { workerHeartbeat } from '../lua/worker-heartbeat.ts';
import { LogicalClock } from '../protocol/control-message.ts';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { monotonicMs, RedisClock } from '../runtime/clock.ts';
import { createLog, type Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';
import { type WorkerConfig, type WorkerOptions, workerConfig } from './config.ts';
import { controlCommands } from './control.ts';
import { WorkerMetrics } from './metrics.ts';
import { Pump } from './pump.ts';

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
  readonly #abort = new AbortController();
  readonly #revoked = new RevokedTasks();
  #redis: Redis | null = null;
  /** Closes the client with which tasks send others. */
  #closeClient = async (): Promise<void> => {};
  #pump: Pump | null = null;
  #pidbox: Pidbox | null = null;
  #subscriber: Redis | null = null;
  /** Shards of the namespace as of the last heartbeat; 0 while there is none. */
  #shards = 0;
  #loops: readonly Loop[] = [];
  #refreshing: Loop | null = null;
  #stopped: Promise<void> | null = null;
  /** Resolves when the worker is told to stop at once. */
  readonly #toldToStopNow = new Promise<void>((resolve) => {
    this.#abort.signal.addEventListener('abort', () => resolve());
  });

  /** `log` is where events go; default: standard error, at level info. */
  constructor(options: WorkerOptions, log: Log = createLog('info', 'worker')) {
    this.config = workerConfig(options);
    this.#log = log;
    this.#workerId = `${this.config.hostname}:${process.pid}:${randomBytes(4).toString('hex')}`;
  }

  /** Resolves when the worker takes messages; waits for Redis as long as that takes. */
  async start(): Promise<void> {
    const { config } = this;
    const redis = connect(config.redis, { option: '--redis', name: `ringbeat-worker ${config.hostname}` });
    this.#redis = redis;
    redis.on('close', () => this.#clock.disturbed());
    const pump = new Pump({
      redis,
      config,
      workerId: this.#workerId,
      clock: this.#clock,
      metrics: this.metrics,
      surroundings: { hostname: config.hostname, signal: this.#abort.signal, log: this.#log },
      revoked: this.#revoked,
      log: this.#log,
    });
    this.#pump = pump;
    const refreshing = this.#loop('refresh', () => this.#refresh(pump));
    this.#refreshing = refreshing;
    try {
      await this.#firstHeartbeat(redis, pump);
    } catch (error) {
      redis.disconnect();
      throw error;
    }
    if (this.#stopped !== null) return;
    this.#closeClient = offerClient(
      () => new Client({ redis: config.redis, namespace: config.namespace, default: false }),
    );
    await this.#showQueues(redis);
    await this.#listen(redis, pump);
    if (this.#stopped !== null) return;
    this.#loops = [
      this.#loop('heartbeat', () => this.#heartbeat(redis, pump)),
      this.#loop('restore_lost_workers', () => this.#restoreLostWorkers(redis)),
      this.#loop('restore_invisible', () => this.#restoreInvisible(redis)),
      refreshing,
    ];
    for (const loop of this.#loops) loop.start();
    pump.start();
    this.#log.info({
      event: 'worker_ready',
      hostname: config.hostname,
      queues: config.queues,
      pool: config.pool,
      concurrency: config.concurrency,
      tasks: [...tasks.keys()].sort(),
    });
    this.#log.warn({
      event: 'visibility_timeout',
      seconds: config.visibilityMs / 1_000,
      note: 'the smallest visibility timeout of any worker in this Redis database applies to the messages of all of them',
    });
  }

  /** Warm shutdown: takes no more, gives back what has not started, lets running tasks finish and stores their results. */
  stop(): Promise<void> {
    this.#stopped ??= this.#shutDown();
    return this.#stopped;
  }

  /** Cold shutdown: does not wait for running tasks, whose `ctx.signal` is aborted; gives back everything unacknowledged. */
  stopNow(): Promise<void> {
    this.#abort.abort();
    return this.stop();
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

  /** Hears remote control from now on. */
  async #listen(redis: Redis, pump: Pump): Promise<void> {
    if (this.#stopped !== null) return;
    const { config } = this;
    const clock = new LogicalClock();
    const commands = controlCommands({
      redis,
      config,
      clock,
      revoked: this.#revoked,
      nowMs: () => this.#clock.nowMs(),
      shards: () => this.#shards,
      held: () => pump.held(),
      drop: () => pump.dropRevoked(),
    });
    const subscriber = connect(config.redis, { option: '--redis', name: `ringbeat-control ${config.hostname}` });
    this.#subscriber = subscriber;
    const onProblem = (problem: object) => this.#log.warn(problem);
    this.#pidbox = new Pidbox({ redis, subscriber, node: config.hostname, commands, clock, onProblem });
    try {
      await this.#pidbox.start();
    } catch (error) {
      // It listens once Redis is there again; a Redis that is out of memory refuses only to be told of it.
      this.#log.warn({ event: 'control_not_announced', reason: messageOf(error) });
    }
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
    if (redis === null || pump === null) return;
    this.#log.info({ event: 'worker_stopping' });
    try {
      await Promise.race([this.#finish(pump), this.#toldToStopNow]);
      pump.close();
      await Promise.race([
        Promise.all([
          Promise.all(this.#loops.map((loop) => loop.stop())),
          restoreOwn(redis, this.config.namespace, this.#workerId),
          this.#pidbox?.stop(),
          this.#closeClient(),
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
      redis.disconnect();
      this.#subscriber?.disconnect();
      this.#log.info({ event: 'worker_stopped' });
    }
  }

  async #finish(pump: Pump): Promise<void> {
    await pump
      .drain()
      .catch((error: unknown) => this.#log.warn({ event: 'give_back_failed', reason: messageOf(error) }));
    await pump.quiet();
  }
}
