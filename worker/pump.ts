import type { Redis } from 'ioredis';
import type { DirectStart, Reserved } from '../lua/reserve.ts';
import { restoreTags } from '../lua/restore.ts';
import { start } from '../lua/start.ts';
import { readableMessage, type TaskMessage } from '../protocol/message-reader.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Active } from './active.ts';
import type { WorkerConfig } from './config.ts';
import type { TaskPort } from './context.ts';
import { type Delivery, triage } from './delivery.ts';
import { DirectTasks } from './direct-tasks.ts';
import { EtaMessages } from './eta-messages.ts';
import type { Events } from './events.ts';
import { type End, Finisher } from './finisher.ts';
import { Holdings } from './holdings.ts';
import { Intake } from './intake.ts';
import { Lane } from './lane.ts';
import type { WorkerMetrics } from './metrics.ts';
import type { Outcome } from './outcome.ts';
import type { Pool } from './pools/pool.ts';
import type { RateLimits } from './rate-limits.ts';
import { Started } from './started.ts';

/** Most messages that one script call carries. */
const MAX_BATCH = 500;

/** Most messages that start as they are taken by one call: what lives no longer than they do is collected while it is young. */
const MAX_DIRECT = 250;

/** As Celery's worker_prefetch_multiplier. */
const PREFETCH_MULTIPLIER = 4;

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
  readonly #intake: Intake;
  readonly #startLane: Lane;
  readonly #active: Active;
  readonly #finisher: Finisher;
  readonly #directTasks: DirectTasks;
  readonly #started: Started;
  /** Everything of ours that lies in unacked; held messages too. */
  readonly #holdings: Holdings;
  readonly #waiting: Delivery[] = [];
  readonly #eta: EtaMessages;
  /** May be run, in slots or places ahead of them that are already taken for them. */
  readonly #ready: Delivery[] = [];
  /** Would be given up if this worker died beside them, and wait until `#lastChance` has ended: one runs at a time. */
  readonly #putOff: Delivery[] = [];
  #lastChance: string | null = null;
  #starting = 0;
  /** Messages that start as they are taken: how many were asked for, and those that are not yet read. */
  #asked = 0;
  #arrived: Reserved[] = [];
  /** Messages that were taken and will wait for their turn. */
  #unread = 0;
  #shards = 0;
  #isPumpDue = false;
  /** Functions were entered for long enough in this turn of the event loop. */
  #isSliceOver = false;
  #isStopping = false;
  #isClosed = false;
  #isFullSaid = false;
  readonly #onQuiet: (() => void)[] = [];

  constructor(options: PumpOptions) {
    this.#options = options;
    this.#log = options.log;
    const { namespace, queues } = options.config;
    this.#intake = new Intake({ ...options, namespace, queues, onReady: () => this.#pump() });
    // What fails may have waited for a Redis that stood still, in which nobody's heartbeat got older rightly.
    this.#startLane = new Lane('start', options.log, () => options.clock.disturbed());
    this.#finisher = new Finisher({
      ...options,
      shards: () => this.#shards,
      onSettled: (tags) => {
        this.#holdings.drop(tags);
        this.#schedule();
      },
    });
    this.#holdings = new Holdings({
      ...options,
      namespace,
      onFailure: () => options.clock.disturbed(),
      onLost: (tag) => this.#active.interrupt(tag, new Error(LOST)),
      onVerified: (lost) => {
        options.metrics.counts.refused += lost;
        this.#schedule();
      },
    });
    this.#eta = new EtaMessages({
      ...options,
      namespace,
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
    this.#directTasks = new DirectTasks({ acksLate: options.config.acksLate, rateLimits: options.rateLimits });
    this.#started = new Started(options);
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
    return this.#intake.queues;
  }

  addQueue(queue: string): void {
    this.#intake.add(queue);
    this.#schedule();
  }

  /** What was taken from it before is run. */
  cancelQueue(queue: string): void {
    this.#intake.cancel(queue);
  }

  start(): void {
    this.#schedule();
  }

  /** Takes no more messages and starts no more tasks; gives back what has not started. Running tasks go on. */
  async drain(): Promise<void> {
    this.#isStopping = true;
    await Promise.all([this.#intake.stop(), this.#startLane.idle(), this.#eta.idle(), this.#holdings.idle()]);
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
    await this.#finisher.quiet();
  }

  /** Finishes chords that other workers left over when they died; answers when to look again, ms. */
  sweepChords(): Promise<number> {
    return this.#finisher.sweepChords();
  }

  /** Forgets everything at once; what still runs is no longer heard of. */
  close(): void {
    this.#isStopping = true;
    this.#isClosed = true;
    this.#intake.close();
    this.#startLane.close();
    this.#active.close();
    this.#finisher.close();
    this.#eta.close();
    this.#holdings.close();
    this.#options.rateLimits.close();
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
    for (const delivery of this.#active.takeBack(isRevoked)) this.#drop(delivery, 'revoked');
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
      .concat(arrived, this.#active.waiting());
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
      this.#finisher.isIdle
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
    this.#settle();
    if (!this.#isStopping) {
      this.#waiting.push(...this.#eta.takeDue(this.#options.clock.nowMs()));
      this.#startWaiting();
      this.#eta.park(this.#shards);
      this.#reserve();
      // Starting may have settled: revoked ones, and tasks that ended at once.
      this.#started.flush();
      this.#settle();
    }
    this.#options.events.flush();
    if (this.#isStopping && this.#isQuiet) for (const resolve of this.#onQuiet.splice(0)) resolve();
  }

  // Reserve

  #reserve(): void {
    if (!this.#intake.isReady) return;
    const aside = this.#eta.held + this.#options.rateLimits.size + this.#putOff.length;
    if (aside >= MAX_HELD) {
      this.#sayFull(aside);
      this.#intake.pause();
      return;
    }
    // Nothing starts until more results are stored: what is taken meanwhile would only have to go through unacked.
    if (this.#finisher.backlog > 4 * MAX_BATCH) return;
    const { prefetch } = this;
    const direct = this.#startable();
    // Slots will be free as soon as these have been read and entered; what is taken before that has to wait in unacked, and all
    // that comes after it.
    if (direct === null && this.#arrived.length > 1 && this.#waiting.length === 0 && this.#unread === 0) return;
    const room = prefetch - (this.#holdings.size - aside);
    // At most half of the room in one call: then Redis fills the one half while the other half is being run.
    const limit = Math.min(room, direct?.room ?? Math.ceil(prefetch / 2), MAX_BATCH);
    // Many small calls cost more than few large ones, so a little room has to wait, unless there is nothing to start.
    const isWorthwhile =
      direct !== null || room >= Math.max(1, prefetch >> 2) || (room > 0 && this.#waiting.length === 0);
    if (!isWorthwhile || limit <= 0) return;
    this.#asked = direct?.room ?? 0;
    this.#intake.take(limit, direct, (messages, nowMs) => this.#taken(messages, nowMs));
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
    const room = Math.min(this.#free, Math.ceil(slots / 2), MAX_DIRECT);
    if (room < Math.max(1, Math.min(slots >> 2, MAX_DIRECT))) return null;
    const { names } = this.#directTasks;
    return names === '' ? null : { room, tasks: names, maxCrashes: this.#options.config.maxCrashes };
  }

  #taken(taken: readonly Reserved[], nowMs: number): void {
    // Twice in the queue, or answered twice: either way it is the message that we hold.
    const messages = taken.filter(({ tag, isAcked }) => isAcked || !this.#holdings.has(tag));
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
    this.#unread = ordinary.length;
    // Before this batch is read, so that Redis works meanwhile.
    if (!this.#isStopping) this.#reserve();
    this.#unread = 0;
    for (const message of ordinary) this.#take(message, nowMs);
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
      this.#finisher.dead(reserved, found);
      return null;
    }
    if ('settlement' in found) {
      this.#finisher.unknown(found);
      return null;
    }
    const { expiresMs } = found.message;
    const isExpired = expiresMs !== null && nowMs > expiresMs;
    if (!isExpired && !this.#isRevoked(found)) this.#finisher.received(found);
    return found;
  }

  // Start

  #startWaiting(): void {
    if (this.#putOff.length > 0 && this.#lastChance === null && !this.#startLane.isBusy)
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
    if (this.#finisher.backlog > 4 * MAX_BATCH) free = 0;
    if (free <= 0) return;
    // A call for each slot costs more than one for several, and what was started ahead bridges the wait.
    if (free < slots >> 1 && this.#active.size + this.#ready.length + this.#arrived.length >= 2 * pool.usable) return;
    const nowMs = clock.nowMs();
    // Half of the slots at a time: the next are started while these run.
    const most = Math.min(Math.ceil(slots / 2), MAX_BATCH);
    const batch: Delivery[] = [];
    let taken = 0;
    for (const delivery of this.#waiting) {
      const needsStart = !isJournalRun(delivery);
      if (free === 0 || (needsStart && (batch.length === most || this.#startLane.isBusy))) break;
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
    this.#startLane.send(
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
    const most = pool.usable + pool.queue;
    const isOver = () => this.#active.size >= most || monotonicMs() >= untilMs;
    let given = 0;
    while (given < this.#ready.length && !isOver() && this.#give(this.#ready[given]!)) given += 1;
    this.#ready.splice(0, given);
    // Each is read just before it runs: what is read early lives long, and the garbage collector has to move it.
    let read = 0;
    const nowMs = clock.nowMs();
    while (this.#ready.length === 0 && read < this.#arrived.length && !isOver()) {
      const found = this.#read(this.#arrived[read++]!, nowMs);
      if (found === null || (found.isLate && !this.#holdings.has(found.tag))) continue;
      if (found.isLate) this.#holdings.add(found.tag, found);
      if (!this.#give(found)) this.#ready.push(found);
    }
    this.#arrived.splice(0, read);
    this.#isSliceOver = monotonicMs() >= untilMs;
    if (this.#isSliceOver || (this.#ready.length + this.#arrived.length > 0 && this.#active.size < pool.usable))
      this.#schedule();
  }

  /** Gives the task to the pool, unless it is too late for that; false: once a slot is free. */
  #give(delivery: Delivery): boolean {
    const { clock, pool } = this.#options;
    const { expiresMs } = delivery.message;
    // What waits in the pool for its slot does not look at the clock again.
    if (expiresMs !== null && this.#active.size >= pool.usable) return false;
    if (expiresMs !== null && clock.nowMs() > expiresMs) this.#drop(delivery, 'expired');
    else if (this.#isRevoked(delivery)) this.#drop(delivery, 'revoked');
    else this.#active.start(delivery);
    return true;
  }

  /** Ends a message that has been started, and that no slot has entered. */
  #drop(delivery: Delivery, reason: 'expired' | 'revoked'): void {
    this.#ended(delivery, { state: 'revoked', reason, signum: null }, { isAcked: !delivery.isLate, runtimeSec: null });
  }

  /** Ends a message that has not been started. */
  #revoke(delivery: Delivery, reason: 'expired' | 'revoked'): void {
    this.#ended(delivery, { state: 'revoked', reason, signum: null }, { isAcked: false, runtimeSec: null });
  }

  #ended(delivery: Delivery, outcome: Outcome, end: End): void {
    if (this.#isClosed) return;
    if (delivery.tag === this.#lastChance) this.#lastChance = null;
    this.#finisher.ended(delivery, outcome, end);
  }

  #settle(): void {
    const isFull = this.#active.size >= this.#options.pool.usable;
    this.#finisher.flush(isFull && !this.#isStopping);
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
