import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import type { Test } from 'tap';
import type { Chance } from '../support/chance.ts';
import { eventually, until } from '../support/eventually.ts';
import { FAKETIME, faketime } from '../support/faketime.ts';
import { type Spawned, type SpawnedBeat, spawnBeat, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { WORK } from './history-specs.ts';

const TASKS = fileURLToPath(new URL('./history-tasks.js', import.meta.url));

/** Of the namespace. */
export const SHARDS = 8;

const BEATS = 3;
const WORKERS = 2;

/** A worker that was suspended for longer may have been taken for dead, ms. */
const WORKER_LEASE_MS = 10_000;

/** What happens to processes, each as often as its number says. */
const FAULTS = {
  killBeat: 4,
  stopBeat: 2,
  suspendBeat: 4,
  killWorker: 3,
  stopWorker: 2,
  suspendWorker: 2,
  suspendWorkerBeyondLease: 1,
  killRedis: 2,
  restartRedis: 1,
  suspendRedis: 2,
  slowRedis: 2,
  pauseClients: 2,
} as const;

type Fault = keyof typeof FAULTS;

/** The processes of a history: a Redis with its append-only file, beat nodes and workers, and a Redis for what tasks did. */
export class Fleet {
  readonly server: RedisServer;
  /** Waits for as long as Redis is away. */
  readonly redis: Redis;
  readonly ledger: Redis;
  /** What has been done to it, for whoever looks for the cause of a failure. */
  readonly story: string[] = [];
  readonly #t: Test;
  readonly #chance: Chance;
  readonly #ledgerUrl: string;
  readonly #beats: SpawnedBeat[] = [];
  readonly #workers: Spawned[] = [];
  readonly #suspended = new Set<number>();
  readonly #underWay = new Set<Promise<void>>();
  readonly #folder: string;
  #isRedisUp = true;
  #nodes = 0;

  private constructor(t: Test, chance: Chance, server: RedisServer, ledger: RedisServer) {
    this.#t = t;
    this.#chance = chance;
    this.server = server;
    this.#ledgerUrl = ledger.url;
    this.#folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-history-'));
    t.teardown(() => rmSync(this.#folder, { recursive: true, force: true }));
    this.redis = patient(t, server);
    this.ledger = patient(t, ledger);
  }

  static async start(t: Test, chance: Chance): Promise<Fleet> {
    const [server, ledger] = await Promise.all([
      // With `everysec` a slow disk puts writes off for up to 2 s, which kill -9 then loses: here processes die, not machines.
      withRedis(t, { appendonly: true, args: ['--appendfsync', 'no', '--enable-debug-command', 'local'] }),
      withRedis(t),
    ]);
    const fleet = new Fleet(t, chance, server, ledger);
    await Promise.all([
      ...Array.from({ length: BEATS }, () => fleet.#addBeat()),
      ...Array.from({ length: WORKERS }, () => fleet.#addWorker()),
    ]);
    return fleet;
  }

  /** A node that is neither dead nor suspended just now. */
  get beat(): SpawnedBeat {
    const able = this.#beats.filter(({ pid }) => !this.#suspended.has(pid));
    return this.#chance.pick(able);
  }

  get beats(): readonly SpawnedBeat[] {
    return this.#beats;
  }

  tell(line: string): void {
    this.story.push(`${(performance.now() / 1_000).toFixed(3)} ${line}`);
  }

  /** Does one thing to a process; it may still go on when this resolves. */
  async fault(): Promise<void> {
    const fault = this.#chance.weighted(FAULTS);
    const done = this.#begin(fault);
    if (done === null) return;
    this.#underWay.add(done);
    await Promise.race([done.finally(() => this.#underWay.delete(done)), sleep(this.#chance.integer(200, 1_500))]);
  }

  /** Waits until all that happened to processes is over, and they work again. */
  async settled(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
    await eventually(
      async () => {
        for (const beat of this.#beats) {
          assert.ok(!beat.hasExited(), `beat ${beat.pid} ended:\n${beat.stderr.slice(-2_000)}`);
          assert.equal((await fetch(`${beat.api}/readyz`)).status, 200);
        }
        for (const worker of this.#workers) assert.ok(!worker.hasExited(), `worker ${worker.pid} ended`);
      },
      { everyMs: 50 },
    );
  }

  /** Does something while no process of ours acts. */
  async whileFrozen<Result>(look: () => Promise<Result>): Promise<Result> {
    const processes = [...this.#beats, ...this.#workers];
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

  async stopBeats(): Promise<void> {
    for (const beat of this.#beats.splice(0)) assert.deepEqual(await beat.stop(), { code: 0, signal: null });
  }

  #begin(fault: Fault): Promise<void> | null {
    const isRedisFault = /redis|clients/i.test(fault);
    if (isRedisFault && !this.#isRedisUp) return null;
    switch (fault) {
      case 'killBeat':
        return this.#replaceBeat('SIGKILL');
      case 'stopBeat':
        return this.#replaceBeat('SIGTERM');
      case 'suspendBeat':
        return this.#suspend(this.#beats, 'beat', this.#chance.integer(300, 7_000));
      case 'killWorker':
        return this.#replaceWorker('SIGKILL');
      case 'stopWorker':
        return this.#replaceWorker('SIGTERM');
      case 'suspendWorker':
        return this.#suspend(this.#workers, 'worker', this.#chance.integer(300, 6_000));
      case 'suspendWorkerBeyondLease':
        return this.#suspend(this.#workers, 'worker', WORKER_LEASE_MS + this.#chance.integer(3_000, 5_000));
      case 'killRedis':
        return this.#redisAway('killed', () => this.server.kill());
      case 'restartRedis':
        return this.#redisAway('stopped', () => this.server.stop());
      case 'suspendRedis':
        return this.#suspendRedis(this.#chance.integer(200, 3_000));
      case 'slowRedis':
        return this.#slowRedis(['DEBUG', 'SLEEP', String(this.#chance.integer(1, 12) / 10)]);
      case 'pauseClients':
        return this.#slowRedis(['CLIENT', 'PAUSE', String(this.#chance.integer(200, 2_500)), 'ALL']);
    }
  }

  /** Another beat node. Some keep a journal on disk, with which every change to a schedule is recorded in Redis as well. */
  async #addBeat(): Promise<void> {
    const clock = this.#anyClock();
    const journal = this.#nodes++ % 3 === 0 ? ['--journal-dir', mkdtempSync(join(this.#folder, 'journal-'))] : [];
    const args = ['--shards', String(SHARDS), ...journal];
    const beat = await persistently(() => spawnBeat(this.#t, this.server.url, args, { env: clock.env }));
    this.tell(`beat ${beat.pid} is there, ${clock.hours} hours off${journal.length > 0 ? ', with a journal' : ''}`);
    this.#beats.push(beat);
  }

  async #addWorker(): Promise<void> {
    const clock = this.#anyClock();
    const env = { RINGBEAT_TEST_LEDGER: this.#ledgerUrl, ...clock.env };
    const args = ['--tasks', TASKS, '-Q', WORK, '-c', '50'];
    const worker = await persistently(() => spawnWorker(this.#t, this.server.url, args, { env }));
    this.tell(`worker ${worker.pid} is there, ${clock.hours} hours off`);
    this.#workers.push(worker);
  }

  /** The wall clocks of some processes are an hour off. */
  #anyClock(): { readonly hours: number; readonly env: Readonly<Record<string, string>> } {
    const hours = FAKETIME === null ? 0 : this.#chance.pick([0, 0, 1, -1]);
    return { hours, env: hours === 0 ? {} : faketime({ FAKETIME: `${hours > 0 ? '+' : ''}${hours}h` }) };
  }

  /** One that may be ended or suspended: the last of its kind that works is left alone. */
  #victim<Process extends Spawned>(processes: readonly Process[]): Process | null {
    const able = processes.filter(({ pid }) => !this.#suspended.has(pid));
    return able.length > 1 ? this.#chance.pick(able) : null;
  }

  #replaceBeat(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> | null {
    const beat = this.#victim(this.#beats);
    if (beat === null) return null;
    this.#beats.splice(this.#beats.indexOf(beat), 1);
    return this.#end(beat, 'beat', signal).then(() => this.#addBeat());
  }

  #replaceWorker(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> | null {
    const worker = this.#victim(this.#workers);
    if (worker === null) return null;
    this.#workers.splice(this.#workers.indexOf(worker), 1);
    return this.#end(worker, 'worker', signal).then(() => this.#addWorker());
  }

  async #end(process: Spawned, what: string, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    this.tell(`${signal} to ${what} ${process.pid}`);
    process.kill(signal);
    const { code } = await process.exited;
    this.tell(`${what} ${process.pid} ended with ${code}`);
    if (what === 'worker') await this.#noteLost(process.pid);
  }

  #suspend(processes: readonly Spawned[], what: string, ms: number): Promise<void> | null {
    const process = this.#victim(processes);
    if (process === null) return null;
    this.tell(`${what} ${process.pid} is suspended for ${ms} ms`);
    this.#suspended.add(process.pid);
    return this.#sleepThrough(process, what, ms);
  }

  async #sleepThrough(process: Spawned, what: string, ms: number): Promise<void> {
    // It may have been silent for a while before.
    const mayBeTakenForDead = (silentMs: number) => what === 'worker' && silentMs > WORKER_LEASE_MS / 2;
    if (mayBeTakenForDead(ms)) await this.#noteLost(process.pid);
    const suspendedAtMs = performance.now();
    process.kill('SIGSTOP');
    await sleep(ms);
    // On a busy machine it took longer than was meant.
    if (mayBeTakenForDead(performance.now() - suspendedAtMs)) await this.#noteLost(process.pid);
    process.kill('SIGCONT');
    this.#suspended.delete(process.pid);
    this.tell(`${what} ${process.pid} is resumed`);
  }

  async #noteLost(pid: number): Promise<void> {
    await this.ledger.rpush('ledger', JSON.stringify({ is: 'lost', pid }));
  }

  async #redisAway(how: string, end: () => Promise<void>): Promise<void> {
    this.#isRedisUp = false;
    this.tell(`Redis is ${how}`);
    await end();
    await sleep(this.#chance.integer(0, 2_000));
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
    this.#isRedisUp = true;
    this.tell('Redis is resumed');
  }

  async #slowRedis([name, ...args]: readonly [string, ...string[]]): Promise<void> {
    this.#isRedisUp = false;
    this.tell(`Redis does ${[name, ...args].join(' ')}`);
    await this.redis.call(name, ...args);
    await this.redis.ping();
    this.#isRedisUp = true;
  }
}

/** A process that starts while Redis is away says so and ends; it is started again, as whoever runs it would. */
async function persistently<Process>(start: () => Promise<Process>): Promise<Process> {
  for (let failures = 0; ; failures++) {
    try {
      return await start();
    } catch (error) {
      if (failures === 5) throw error;
    }
  }
}

function patient(t: Test, server: RedisServer): Redis {
  const redis = new Redis(server.port, '127.0.0.1', { retryStrategy: () => 20, maxRetriesPerRequest: null });
  redis.on('error', () => {});
  t.teardown(() => redis.disconnect());
  return redis;
}
