import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import type { Test } from 'tap';
import type { Chance } from '../support/chance.ts';
import { eventually, until } from '../support/eventually.ts';
import { isRunning } from '../support/pids.ts';
import { type Spawned, type SpawnedBeat, spawnBeat, spawnRingbeat } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { LEDGER_TASKS, Ledger } from './worker-ledger.ts';

/** Of the namespace. */
export const SHARDS = 4;

const WORKERS = 3;
const POOLS = ['async', 'async', 'threads', 'processes'];

/** A worker that is suspended for longer is taken for dead, ms. */
const WORKER_LEASE_MS = 10_000;

/** What happens to processes, each as often as its number says. */
const FAULTS = {
  killWorker: 4,
  stopWorker: 3,
  suspendWorker: 2,
  suspendWorkerBeyondLease: 1,
  killChild: 4,
  killRedis: 1,
  suspendRedis: 2,
} as const;

type Fault = keyof typeof FAULTS;

/** The processes of a history of workers: a Redis with its append-only file, a beat node, and workers with all kinds of pools. */
export class WorkerFleet {
  readonly server: RedisServer;
  /** Waits for as long as Redis is away. */
  readonly redis: Redis;
  readonly beat: SpawnedBeat;
  readonly ledger: Ledger;
  /** What has been done to it, for whoever looks for the cause of a failure. */
  readonly story: string[] = [];
  readonly #t: Test;
  readonly #chance: Chance;
  readonly #workers: Spawned[] = [];
  /** Of all workers, those too that are starting. */
  readonly #workerPids = new Set<number>();
  readonly #suspended = new Set<number>();
  readonly #underWay = new Set<Promise<void>>();
  readonly #failures: unknown[] = [];
  #isRedisUp = true;
  #names = 0;

  private constructor(t: Test, chance: Chance, server: RedisServer, beat: SpawnedBeat) {
    this.#t = t;
    this.#chance = chance;
    this.server = server;
    this.beat = beat;
    this.ledger = Ledger.open(t);
    this.redis = server.connect();
    t.teardown(() => this.redis.disconnect());
  }

  static async start(t: Test, chance: Chance): Promise<WorkerFleet> {
    // With `everysec` a slow disk puts writes off for up to 2 s, which kill -9 then loses: here processes die, not machines.
    const server = await withRedis(t, { appendonly: true, args: ['--appendfsync', 'no'] });
    const beat = await spawnBeat(t, server.url, ['--shards', String(SHARDS)]);
    const fleet = new WorkerFleet(t, chance, server, beat);
    await Promise.all(Array.from({ length: WORKERS }, () => fleet.#add()));
    return fleet;
  }

  /** Does one thing to a process; it may still go on when this resolves. */
  async fault(): Promise<void> {
    const done = this.#begin(this.#chance.weighted(FAULTS));
    if (done === null) return;
    this.#underWay.add(done);
    const over = done.catch((error: unknown) => this.#failures.push(error)).then(() => this.#underWay.delete(done));
    await Promise.race([over, sleep(this.#chance.integer(300, 2_000))]);
  }

  /** Waits until all that happened to processes is over. */
  async settled(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
    assert.deepEqual(this.#failures, []);
    for (const worker of this.#workers) assert.ok(!worker.hasExited(), `worker ${worker.pid} ended:\n${worker.stderr}`);
  }

  /** Does something while no process of ours acts. */
  async whileFrozen<Result>(look: () => Promise<Result>): Promise<Result> {
    const processes = [this.beat, ...this.#workers];
    for (const process of processes) process.kill('SIGSTOP');
    try {
      // What they have sent already, Redis still does.
      await sleep(50);
      await this.redis.ping();
      return await look();
    } finally {
      for (const process of processes) process.kill('SIGCONT');
    }
  }

  async stopWorkers(): Promise<void> {
    for (const worker of this.#workers.splice(0)) assert.deepEqual(await worker.stop(), { code: 0, signal: null });
  }

  tell(line: string): void {
    this.story.push(`${(performance.now() / 1_000).toFixed(3)} ${line}`);
  }

  #begin(fault: Fault): Promise<void> | null {
    switch (fault) {
      case 'killWorker':
        return this.#replace('SIGKILL');
      case 'stopWorker':
        return this.#replace('SIGTERM');
      case 'suspendWorker':
        return this.#suspend(this.#chance.integer(300, 6_000));
      case 'suspendWorkerBeyondLease':
        return this.#suspend(WORKER_LEASE_MS + this.#chance.integer(3_000, 5_000));
      case 'killChild':
        return this.#killChild();
      case 'killRedis':
        return this.#isRedisUp ? this.#killRedis() : null;
      case 'suspendRedis':
        return this.#isRedisUp ? this.#suspendRedis(this.#chance.integer(200, 3_000)) : null;
    }
  }

  async #add(): Promise<void> {
    const pool = this.#chance.pick(POOLS);
    this.#names += 1;
    // Here workers are killed that did not die of their tasks.
    const args = ['--tasks', LEDGER_TASKS, '-n', `worker-${this.#names}@%h`, '--pool', pool, '--max-crashes', '1000'];
    const concurrency = pool === 'async' ? '20' : '2';
    const worker = await spawnRingbeat(this.#t, ['worker', '--redis', this.server.url, ...args, '-c', concurrency]);
    this.#workerPids.add(worker.pid);
    await worker.logged('worker_ready');
    this.tell(`worker ${worker.pid} is there, pool ${pool}`);
    this.#workers.push(worker);
  }

  /** One that may be ended or suspended: the last that works is left alone. */
  #victim(): Spawned | null {
    const able = this.#workers.filter(({ pid }) => !this.#suspended.has(pid));
    return able.length > 1 ? this.#chance.pick(able) : null;
  }

  #replace(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> | null {
    const worker = this.#victim();
    if (worker === null) return null;
    this.#workers.splice(this.#workers.indexOf(worker), 1);
    return this.#end(worker, signal).then(() => this.#add());
  }

  async #end(worker: Spawned, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    this.tell(`${signal} to worker ${worker.pid}`);
    worker.kill(signal);
    const { code } = await worker.exited;
    this.tell(`worker ${worker.pid} ended with ${code}`);
  }

  #suspend(ms: number): Promise<void> | null {
    const worker = this.#victim();
    if (worker === null) return null;
    return this.#sleepThrough(worker, ms);
  }

  async #sleepThrough(worker: Spawned, ms: number): Promise<void> {
    this.tell(`worker ${worker.pid} is suspended for ${ms} ms`);
    this.#suspended.add(worker.pid);
    worker.kill('SIGSTOP');
    await sleep(ms);
    worker.kill('SIGCONT');
    this.#suspended.delete(worker.pid);
    this.tell(`worker ${worker.pid} is resumed`);
  }

  /** A process of a pool that has run a task and still lives. */
  async #killChild(): Promise<void> {
    const pids = [...new Set(this.ledger.lines().map(({ pid }) => pid))].filter(
      (pid) => !this.#workerPids.has(pid) && isRunning(pid),
    );
    if (pids.length === 0) return;
    const pid = this.#chance.pick(pids);
    this.tell(`kill -9 of process ${pid} of a pool`);
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }

  async #killRedis(): Promise<void> {
    this.#isRedisUp = false;
    this.tell('Redis is killed');
    await this.server.kill();
    await sleep(this.#chance.integer(0, 1_000));
    await this.server.restart();
    await until(async () => (await this.redis.ping()) === 'PONG', 'Redis is back');
    this.#isRedisUp = true;
    this.tell('Redis is back');
  }

  async #suspendRedis(ms: number): Promise<void> {
    this.#isRedisUp = false;
    this.tell(`Redis is suspended for ${ms} ms`);
    this.server.pause();
    await sleep(ms);
    this.server.resume();
    await eventually(async () => assert.equal(await this.redis.ping(), 'PONG'));
    this.#isRedisUp = true;
  }
}
