import type { Redis } from 'ioredis';
import { workerKeys } from '../lua/keys.ts';
import { type DirectStart, type Reserved, type ReserveReply, reserve } from '../lua/reserve.ts';
import { restoreTags } from '../lua/restore.ts';
import type { Settlement, SettleReply } from '../lua/settle.ts';
import { start } from '../lua/start.ts';
import { readableMessage, type TaskMessage } from '../protocol/message-reader.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Active } from './active.ts';
import { Chords } from './chords.ts';
import type { WorkerConfig } from './config.ts';
import type { TaskPort } from './context.ts';
import { type Delivery, triage } from './delivery.ts';
import { DirectTasks } from './direct-tasks.ts';
import { type EndingOptions, endingOf, endingOptions } from './ending.ts';
import { EtaMessages } from './eta-messages.ts';
import type { Events } from './events.ts';
import { Holdings } from './holdings.ts';
import { Lane } from './lane.ts';
import type { WorkerMetrics } from './metrics.ts';
import type { Outcome } from './outcome.ts';
import type { Pool } from './pools/pool.ts';
import type { RateLimits } from './rate-limits.ts';
import { Reporter } from './reporter.ts';
import { Settler } from './settler.ts';
import { Started } from './started.ts';

/** Most messages that one script call carries. */
const MAX_BATCH = 500;

/** As Celery's worker_prefetch_multiplier. */
const PREFETCH_MULTIPLIER = 4;

/** Most bytes that one reserve takes. */
const MAX_BYTES = 1_048_576;

/** Empty queues are looked at again after the first of these, ms, doubling up to the second. */
const POLL_MIN_MS = 1;
const POLL_MAX_MS = 20;

/** Most messages that wait here for an eta which no beat node can park, or for a rate limit; then no more are taken. */
const MAX_HELD = 10_000;

/** Functions are entered for about this long, ms, before the event loop gets to hear of anything else. */
const SLICE_MS = 10;

export interface PumpOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly workerId: string;
  readonly clock: RedisClock;
  readonly metrics: WorkerMetrics;
  readonly pool: Pool;
  readonly port: TaskPort;
  readonly events: Events;
  readonly rateLimits: RateLimits;
  /** Tasks that are not to be run; see `dropRevoked`. */
  readonly revoked: RevokedTasks;
  readonly log: Log;
  /** Told whenever messages were taken. */
  onTaken(): void;
}

/**
 * Moves messages through the worker:
 *
 *     queue --reserve--> waiting --start--> active --settle--> done
 *                        waiting --> held back by its rate limit --> waiting
 *                        eta --park--> the namespace's shards, or held until then while there is no beat node
 *
 * `start` acknowledges what is acknowledged early; runs whose end a schedule waits for need no such step.
 *
 * Whatever it is told (an answer, a task's end, a timer) ends in `#pump`, which sends every lane that is free its next batch.
 * So each lane has one call in flight, and batches grow by themselves with the load.
 */
export class Pump {
  readonly #options: PumpOptions;
  readonly #log: Log;
  readonly #lanes: Readonly<Record<'reserve' | 'start' | 'settle', Lane>>;
  readonly #settler: Settler;
  readonly #active: Active;
  readonly #reporter: Reporter;
  readonly #directTasks: DirectTasks;
  readonly #started: Started;
  readonly #endings: EndingOptions;
  readonly #chords: Chords;
  /** Everything of ours that lies in unacked; held messages too. */
  readonly #holdings: Holdings;
  readonly #waiting: Delivery[] = [];
  readonly #eta: EtaMessages;
  /** May be run, in slots that are already taken for them. */
  readonly #ready: Delivery[] = [];
  /** Would be given up if this worker died beside them, and wait until `#lastChance` has ended: one runs at a time. */
  readonly #putOff: Delivery[] = [];
  #lastChance: string | null = null;
  #queues: readonly string[];
  #starting = 0;
  /** Messages that start as they are taken: how many were asked for, and those that are not yet read. */
  #asked = 0;
  #arrived: Reserved[] = [];
  /** Messages that were taken and will wait for their turn. */
  #unread = 0;
  #shards = 0;
  #pollMs = POLL_MIN_MS;
  #pollTimer: NodeJS.Timeout | null = null;
  #isPumpDue = false;
  /** Functions were entered for long enough in this turn of the event loop. */
  #isSliceOver = false;
  #isStopping = false;
  #isClosed = false;
  #isFullSaid = false;
  readonly #reported = new Set<string>();
  readonly #onQuiet: (() => void)[] = [];

  constructor(options: PumpOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#queues = options.config.queues;
    // What fails may have waited for a Redis that stood still, in which nobody's heartbeat got older rightly.
    const lane = (name: string) => new Lane(name, options.log, () => options.clock.disturbed());
    this.#lanes = {
      reserve: lane('reserve'),
      start: lane('start'),
      settle: lane('settle'),
    };
    this.#settler = new Settler({
      redis: options.redis,
      namespace: options.config.namespace,
      workerId: options.workerId,
      resultExpiresSec: options.config.resultExpiresSec,
      lane: this.#lanes.settle,
      shards: () => this.#shards,
      onSettled: (batch, reply) => this.#settled(batch, reply),
    });
    this.#holdings = new Holdings({
      ...options,
      namespace: options.config.namespace,
      onFailure: () => options.clock.disturbed(),
      onLost: (tag) => this.#active.interrupt(tag, new Error(LOST)),
      onVerified: (lost) => {
        options.metrics.counts.refused += lost;
        this.#schedule();
      },
    });
    this.#eta = new EtaMessages({
      ...options,
      namespace: options.config.namespace,
      onFailure: () => options.clock.disturbed(),
      onParked: (tags) => {
        this.#holdings.drop(tags);
        this.#schedule();
      },
      onGone: () => {
        this.#shards = 0;
        this.#schedule();
      },
    });
    this.#reporter = new Reporter(options);
    this.#directTasks = new DirectTasks({ acksLate: options.config.acksLate, rateLimits: options.rateLimits });
    this.#started = new Started(options);
    this.#endings = endingOptions(options.config);
    this.#chords = new Chords({
      ...options,
      namespace: options.config.namespace,
      token: workerKeys(options.config.namespace, options.workerId).state,
      resultExpiresSec: options.config.resultExpiresSec,
      source: this.#endings.source,
      nowMs: () => options.clock.nowMs(),
      shards: () => this.#shards,
    });
    this.#active = new Active({
      ...options,
      limits: { soft: options.config.softTimeLimitSec, hard: options.config.timeLimitSec },
      onStart: (job) => this.#started.add(job),
      onEnd: (delivery, outcome, runtimeSec) => {
        this.#ended(delivery, outcome, { isAcked: !delivery.isLate, runtimeSec });
        this.#schedule();
      },
    });
  }

  /** The tasks that run. */
  get active(): Active {
    return this.#active;
  }

  /** Most unacknowledged messages, those with a future eta and those that a rate limit holds back aside. */
  get prefetch(): number {
    const { config, pool } = this.#options;
    return config.prefetch ?? (pool.size + pool.ahead) * PREFETCH_MULTIPLIER;
  }

  /** Queues that messages are taken from. */
  get queues(): readonly string[] {
    return [...this.#queues].sort();
  }

  addQueue(queue: string): void {
    if (!this.#queues.includes(queue)) this.#queues = [...this.#queues, queue];
    this.#schedule();
  }

  /** What was taken from it before is run. */
  cancelQueue(queue: string): void {
    this.#queues = this.#queues.filter((name) => name !== queue);
  }

  start(): void {
    this.#schedule();
  }

  /** Takes no more messages and starts no more tasks; gives back what has not started. Running tasks go on. */
  async drain(): Promise<void> {
    this.#isStopping = true;
    this.#disarm();
    await Promise.all([this.#lanes.reserve.idle(), this.#lanes.start.idle(), this.#eta.idle(), this.#holdings.idle()]);
    const rest: Delivery[] = this.#waiting.splice(0);
    const everything = () => true;
    rest.push(
      ...this.#putOff.splice(0),
      ...this.#eta.takeWhere(everything),
      ...this.#options.rateLimits.takeWhere(everything),
    );
    const tags = rest.filter((delivery) => !delivery.isLost).map((delivery) => delivery.tag);
    const { redis, config, workerId } = this.#options;
    await restoreTags(redis, config.namespace, workerId, tags);
    this.#holdings.drop(tags);
  }

  /** Resolves when no task runs, everything is settled, and the bodies of chords are sent. Only after `drain`. */
  async quiet(): Promise<void> {
    if (!this.#isQuiet) {
      await new Promise<void>((resolve) => {
        this.#onQuiet.push(resolve);
      });
    }
    await this.#chords.quiet();
  }

  /** Finishes chords that other workers left over when they died; answers when to look again, ms. */
  sweepChords(): Promise<number> {
    return this.#chords.sweep();
  }

  /** Forgets everything at once; what still runs is no longer heard of. */
  close(): void {
    this.#isStopping = true;
    this.#isClosed = true;
    this.#disarm();
    this.#active.close();
    this.#eta.close();
    this.#holdings.close();
    this.#options.rateLimits.close();
    for (const lane of Object.values(this.#lanes)) lane.close();
  }

  /**
   * Told by every heartbeat: Redis was heard of, and the namespace has so many shards (0: no beat node lives). Answers
   * whether it was the first for so long that others may have taken what we hold: then `refresh` it.
   */
  heard(shards: number): boolean {
    this.#shards = shards;
    this.#schedule();
    return this.#holdings.heard();
  }

  /** Says that we still hold what we hold, so that nobody takes it for lost, and forgets what we do not. */
  refresh(): Promise<void> {
    return this.#holdings.refresh();
  }

  /** Ends what waits here of tasks that have been revoked; what comes later of them ends when it comes. */
  dropRevoked(): void {
    const isRevoked = (delivery: Delivery) => this.#isRevoked(delivery);
    const dropped = [
      ...takeWhere(this.#waiting, isRevoked),
      ...takeWhere(this.#putOff, isRevoked),
      ...this.#eta.takeWhere(isRevoked),
      ...this.#options.rateLimits.takeWhere(isRevoked),
    ];
    for (const delivery of dropped) if (!delivery.isLost) this.#revoke(delivery, 'revoked');
    this.#schedule();
  }

  /** Messages with a future eta that lie here, not in a shard. */
  held(): readonly TaskMessage[] {
    const nowMs = this.#options.clock.nowMs();
    return [...this.#eta.items(), ...this.#waiting]
      .filter(({ isLost, message }) => !isLost && message.etaMs !== null && message.etaMs > nowMs)
      .map(({ message }) => message);
  }

  /** Messages that wait for a slot, or for their rate limit. */
  reserved(): readonly TaskMessage[] {
    const nowMs = this.#options.clock.nowMs();
    const deliveries = [...this.#ready, ...this.#waiting, ...this.#putOff, ...this.#options.rateLimits.deliveries()];
    const arrived = this.#arrived.flatMap(({ envelope }) => readableMessage(envelope) ?? []);
    return deliveries
      .filter(({ isLost, message }) => !isLost && (message.etaMs === null || message.etaMs <= nowMs))
      .map(({ message }) => message)
      .concat(arrived);
  }

  /** How many tasks run or wait for a slot. */
  get load(): number {
    return this.#active.size + this.#ready.length + this.#arrived.length + this.#starting + this.#waiting.length;
  }

  /** Takes up work again after something outside changed: the pool's size, a rate limit. */
  wake(): void {
    this.#schedule();
  }

  /** Messages that a rate limit lets pass now. */
  admitted(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) delivery.isAdmitted = true;
    this.#waiting.push(...deliveries);
    this.#schedule();
  }

  #isRevoked({ message }: Delivery): boolean {
    return this.#options.revoked.covers(message);
  }

  get #isQuiet(): boolean {
    return (
      this.#active.size === 0 &&
      this.#ready.length === 0 &&
      this.#arrived.length === 0 &&
      this.#starting === 0 &&
      this.#settler.backlog === 0 &&
      !this.#lanes.settle.isBusy
    );
  }

  /** How many messages may be started: for slots, and ahead of them. */
  get #slots(): number {
    const { pool } = this.#options;
    return pool.usable + pool.ahead;
  }

  /** Slots for which nothing is there or on its way. */
  get #free(): number {
    return this.#slots - this.#active.size - this.#ready.length - this.#starting - this.#asked - this.#arrived.length;
  }

  /** Pumps once this turn of the event loop is over, so that everything that happens in it goes into one batch. */
  #schedule(): void {
    if (this.#isPumpDue || this.#isClosed) return;
    this.#isPumpDue = true;
    setImmediate(() => {
      this.#isPumpDue = false;
      this.#isSliceOver = false;
      if (!this.#isClosed) this.#pump();
    });
  }

  #pump(): void {
    this.#runReady();
    this.#started.flush();
    this.#settler.flush();
    if (!this.#isStopping) {
      this.#waiting.push(...this.#eta.takeDue(this.#options.clock.nowMs()));
      this.#startWaiting();
      this.#eta.park(this.#shards);
      this.#reserve();
      // Starting may have settled: revoked ones, and tasks that ended at once.
      this.#started.flush();
      this.#settler.flush();
    }
    this.#options.events.flush();
    if (this.#isStopping && this.#isQuiet) for (const resolve of this.#onQuiet.splice(0)) resolve();
  }

  // Reserve

  #reserve(): void {
    if (this.#lanes.reserve.isBusy || this.#pollTimer !== null) return;
    const { redis, config, workerId, rateLimits } = this.#options;
    const aside = this.#eta.held + rateLimits.size + this.#putOff.length;
    if (aside >= MAX_HELD || this.#queues.length === 0) {
      if (aside >= MAX_HELD) this.#sayFull(aside);
      this.#pollIn(POLL_MAX_MS);
      return;
    }
    const { prefetch } = this;
    const direct = this.#startable();
    const room = prefetch - (this.#holdings.size - aside);
    // At most half of the room in one call: then Redis fills the one half while the other half is being run.
    const limit = Math.min(room, direct?.room ?? Math.ceil(prefetch / 2), MAX_BATCH);
    // Many small calls cost more than few large ones, so a little room has to wait, unless there is nothing to start.
    const isWorthwhile =
      direct !== null || room >= Math.max(1, prefetch >> 2) || (room > 0 && this.#waiting.length === 0);
    if (!isWorthwhile || limit <= 0) return;
    const queues = this.#queues;
    this.#queues = [...queues.slice(1), ...queues.slice(0, 1)];
    this.#asked = direct?.room ?? 0;
    let sentAtMs = monotonicMs();
    this.#lanes.reserve.send(
      (counter) => {
        sentAtMs = monotonicMs();
        const request = { workerId, counter, limit, byteLimit: MAX_BYTES, queues };
        return reserve(redis, config.namespace, direct === null ? request : { ...request, direct });
      },
      (reply) => this.#reserved(reply, limit, sentAtMs),
    );
  }

  #sayFull(messages: number): void {
    if (this.#isFullSaid) return;
    this.#isFullSaid = true;
    const reason = 'so many messages wait for their eta or their rate limit that no more are taken, of no queue';
    this.#log.warn({ event: 'hold_full', messages, reason });
  }

  /**
   * What can start as soon as it is taken, which spares a call, and where acks are early the way through unacked. Null where
   * no slot, or only few, are free.
   */
  #startable(): DirectStart | null {
    if (this.#waiting.length > 0 || this.#unread > 0 || this.#holdings.isInDoubt) return null;
    const slots = this.#slots;
    const room = Math.min(this.#free, Math.ceil(slots / 2), MAX_BATCH);
    if (room < 1 || room < slots >> 2 || this.#settler.backlog > 4 * MAX_BATCH) return null;
    const { names } = this.#directTasks;
    return names === '' ? null : { room, tasks: names, maxCrashes: this.#options.config.maxCrashes };
  }

  #reserved(reply: ReserveReply, limit: number, sentAtMs: number): void {
    this.#options.clock.observe(reply.nowMs, sentAtMs);
    this.#report(reply);
    // Twice in the queue, or answered twice: either way it is the message that we hold.
    const messages = reply.messages.filter(({ tag, isAcked }) => isAcked || !this.#holdings.has(tag));
    // What we hold may have been given to others meanwhile: then it waits until we know.
    const startsNow = ({ isStarted, isAcked }: Reserved) => isAcked || (isStarted && !this.#holdings.isInDoubt);
    const ordinary: Reserved[] = [];
    for (const message of messages) {
      const { tag, isAcked } = message;
      // What we held of it was given to others, and has come back.
      if (isAcked && this.#holdings.has(tag)) this.#holdings.lose([tag]);
      if (!isAcked) this.#holdings.add(tag, null);
      if (startsNow(message)) this.#arrived.push(message);
      else ordinary.push(message);
    }
    this.#asked = 0;
    if (reply.messages.length >= limit) {
      this.#pollMs = POLL_MIN_MS;
    } else {
      if (reply.messages.length > 0) this.#pollMs = POLL_MIN_MS;
      this.#pollIn(this.#pollMs);
      this.#pollMs = Math.min(this.#pollMs * 2, POLL_MAX_MS);
    }
    this.#unread = ordinary.length;
    // Before this batch is read, so that Redis works meanwhile.
    if (!this.#isStopping) this.#reserve();
    this.#unread = 0;
    for (const message of ordinary) this.#take(message, reply.nowMs);
    if (messages.length > 0) this.#options.onTaken();
    this.#runReady();
    this.#schedule();
  }

  /** Puts a message where it waits for what comes next. */
  #take(reserved: Reserved, nowMs: number): void {
    const found = this.#read(reserved, nowMs);
    if (found === null) return;
    this.#holdings.add(found.tag, found);
    const { etaMs } = found.message;
    if (this.#isRevoked(found)) this.#revoke(found, 'revoked');
    else if (etaMs !== null && etaMs > nowMs) this.#eta.add(found);
    else this.#waiting.push(found);
  }

  /** Reads a message; null where that already ended it. */
  #read(reserved: Reserved, nowMs: number): Delivery | null {
    const { config, log } = this.#options;
    const found = triage(reserved, nowMs, { acksLate: config.acksLate, log });
    if ('mode' in found) {
      this.#reporter.dead(reserved.envelope, found.letter?.reason ?? '');
      this.#settler.add(found);
      return null;
    }
    if ('settlement' in found) {
      this.#reporter.unknown(found.message);
      this.#settler.add(found.settlement);
      return null;
    }
    const { expiresMs } = found.message;
    const isExpired = expiresMs !== null && nowMs > expiresMs;
    if (!isExpired && !this.#isRevoked(found)) this.#reporter.received(found);
    return found;
  }

  #report(reply: ReserveReply): void {
    if (reply.deadLetters > 0) {
      this.#options.metrics.counts.dead += reply.deadLetters;
      this.#log.error({ event: 'no_message', elements: reply.deadLetters });
    }
    for (const key of reply.wrongTypes) {
      if (this.#reported.has(key)) continue;
      this.#reported.add(key);
      this.#log.error({ event: 'queue_is_no_list', key });
    }
  }

  #pollIn(ms: number): void {
    if (this.#isStopping) return;
    this.#pollTimer ??= setTimeout(() => {
      this.#pollTimer = null;
      this.#pump();
    }, ms);
  }

  #disarm(): void {
    if (this.#pollTimer !== null) clearTimeout(this.#pollTimer);
    this.#pollTimer = null;
  }

  // Start

  #startWaiting(): void {
    if (this.#putOff.length > 0 && this.#lastChance === null && !this.#lanes.start.isBusy)
      this.#waiting.unshift(...this.#putOff.splice(0, 1));
    if (this.#waiting.length === 0) return;
    if (this.#holdings.isInDoubt) {
      this.#holdings.verify(this.#waiting.map(({ tag }) => tag));
      return;
    }
    const { pool, clock, rateLimits } = this.#options;
    const slots = this.#slots;
    let free = this.#free;
    // Results are stored slower than tasks run: let them catch up instead of piling up in memory.
    if (this.#settler.backlog > 4 * MAX_BATCH) free = 0;
    if (free <= 0) return;
    // A call for each slot costs more than one for several, and what was started ahead bridges the wait.
    if (free < slots >> 1 && this.#ready.length + this.#arrived.length >= pool.usable) return;
    const nowMs = clock.nowMs();
    // Half of the slots at a time: the next are started while these run.
    const most = Math.min(Math.ceil(slots / 2), MAX_BATCH);
    const batch: Delivery[] = [];
    let taken = 0;
    for (const delivery of this.#waiting) {
      const needsStart = !isJournalRun(delivery);
      if (free === 0 || (needsStart && (batch.length === most || this.#lanes.start.isBusy))) break;
      taken += 1;
      if (delivery.isLost) continue;
      const { expiresMs } = delivery.message;
      if (expiresMs !== null && nowMs > expiresMs) {
        this.#revoke(delivery, 'expired');
      } else if (this.#isRevoked(delivery)) {
        this.#revoke(delivery, 'revoked');
      } else if (delivery.isAdmitted || !rateLimits.isOn || rateLimits.admit(delivery)) {
        free -= 1;
        if (needsStart) batch.push(delivery);
        else this.#ready.push(delivery);
      }
    }
    this.#waiting.splice(0, taken);
    if (batch.length > 0) this.#start(batch);
    this.#runReady();
  }

  #start(batch: readonly Delivery[]): void {
    const { redis, config, workerId, clock, metrics } = this.#options;
    const tagsOf = (isLate: boolean) => batch.filter((one) => one.isLate === isLate).map(({ tag }) => tag);
    const early = tagsOf(false);
    const late = tagsOf(true);
    const { maxCrashes } = config;
    const mayStartLastChance = this.#lastChance === null;
    this.#starting = batch.length;
    let sentAtMs = monotonicMs();
    this.#lanes.start.send(
      (counter) => {
        sentAtMs = monotonicMs();
        return start(redis, config.namespace, { workerId, counter, maxCrashes, mayStartLastChance, early, late });
      },
      ({ nowMs, refused, lastChance, putOff }) => {
        clock.observe(nowMs, sentAtMs);
        this.#starting = 0;
        this.#holdings.drop(early);
        this.#holdings.drop(refused);
        if (refused.size > 0) {
          metrics.counts.refused += refused.size;
          this.#log.warn({
            event: 'messages_lost',
            messages: refused.size,
            reason: 'they were restored to another worker before they could start',
          });
        }
        this.#lastChance ??= lastChance;
        for (const delivery of batch) {
          if (putOff.has(delivery.tag)) this.#putOff.push(delivery);
          else if (!refused.has(delivery.tag)) this.#ready.push(delivery);
        }
        // Before these run, so that Redis works meanwhile.
        if (!this.#isStopping) this.#startWaiting();
        this.#runReady();
        this.#schedule();
      },
    );
  }

  // Run and settle

  #runReady(): void {
    if (this.#isSliceOver || (this.#ready.length === 0 && this.#arrived.length === 0)) return;
    const { pool, clock } = this.#options;
    const untilMs = monotonicMs() + SLICE_MS;
    // What was started ahead waits here for its slot; the end of a task comes back here.
    const isOver = () => this.#active.size >= pool.usable || monotonicMs() >= untilMs;
    let entered = 0;
    while (entered < this.#ready.length && !isOver()) this.#run(this.#ready[entered++]!);
    this.#ready.splice(0, entered);
    // Each is read just before it runs: what is read early lives long, and the garbage collector has to move it.
    let read = 0;
    const nowMs = clock.nowMs();
    while (read < this.#arrived.length && !isOver()) {
      const found = this.#read(this.#arrived[read++]!, nowMs);
      if (found === null || (found.isLate && !this.#holdings.has(found.tag))) continue;
      if (found.isLate) this.#holdings.add(found.tag, found);
      this.#run(found);
    }
    this.#arrived.splice(0, read);
    this.#isSliceOver = monotonicMs() >= untilMs;
    if (this.#isSliceOver || (this.#ready.length + this.#arrived.length > 0 && this.#active.size < pool.usable))
      this.#schedule();
  }

  /** Enters the task, unless it is too late for that. */
  #run(delivery: Delivery): void {
    const { clock } = this.#options;
    const { expiresMs } = delivery.message;
    const isExpired = expiresMs !== null && clock.nowMs() > expiresMs;
    if (!isExpired && !this.#isRevoked(delivery)) {
      this.#active.start(delivery);
      return;
    }
    const reason = isExpired ? 'expired' : 'revoked';
    this.#ended(delivery, { state: 'revoked', reason, signum: null }, { isAcked: !delivery.isLate, runtimeSec: null });
  }

  /** Ends a message that has not been started. */
  #revoke(delivery: Delivery, reason: 'expired' | 'revoked'): void {
    this.#ended(delivery, { state: 'revoked', reason, signum: null }, { isAcked: false, runtimeSec: null });
  }

  #ended(delivery: Delivery, outcome: Outcome, how: { isAcked: boolean; runtimeSec: number | null }): void {
    if (this.#isClosed) return;
    const { clock } = this.#options;
    if (delivery.tag === this.#lastChance) this.#lastChance = null;
    const moment = { nowMs: clock.nowMs(), isAcked: how.isAcked };
    const ending = endingOf(delivery, outcome, moment, this.#endings);
    this.#reporter.ended(delivery, ending.outcome, how.runtimeSec);
    if (ending.settlement !== null) this.#settler.add(ending.settlement);
  }

  /** One of these parts was the last of its chord. */
  #completed(actions: Settlement['actions']): void {
    for (const action of actions) if (action.kind === 'chord') this.#chords.complete(action.groupId, action.follow);
  }

  #settled(batch: readonly Settlement[], reply: SettleReply): void {
    this.#holdings.drop(batch.filter(({ mode }) => mode !== 'acked').map(({ tag }) => tag));
    for (const index of reply.chords) this.#completed(batch[index]?.actions ?? []);
    if (reply.late > 0) {
      this.#log.warn({
        event: 'settled_late',
        messages: reply.late,
        reason: 'they were restored to another worker meanwhile; nothing was stored',
      });
    }
    this.#schedule();
  }
}

/** Why the signal of a task is aborted whose message went to somebody else. */
const LOST = 'This worker was taken for dead, and the task was given to another.';

/** A run whose end a schedule waits for: its attempts are counted there. */
function isJournalRun({ message }: Delivery): boolean {
  return message.schedule !== null && message.schedule.journal !== null;
}

/** Takes the members of a list of which `isWanted` holds out of it. */
function takeWhere<Member>(list: Member[], isWanted: (member: Member) => boolean): Member[] {
  const taken: Member[] = [];
  let kept = 0;
  for (const member of list) {
    if (isWanted(member)) taken.push(member);
    else list[kept++] = member;
  }
  list.length = kept;
  return taken;
}
