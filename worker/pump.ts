import type { Redis } from 'ioredis';
import { acknowledge } from '../lua/acknowledge.ts';
import { park } from '../lua/park.ts';
import { refresh } from '../lua/refresh.ts';
import { type Reserved, type ReserveReply, reserve } from '../lua/reserve.ts';
import { restoreTags } from '../lua/restore.ts';
import type { Settlement, SettleReply } from '../lua/settle.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { WorkerConfig } from './config.ts';
import { type Delivery, triage } from './delivery.ts';
import { EtaHeap } from './eta-heap.ts';
import { execute, LOST, type Outcome, type Surroundings, settlementOf } from './execute.ts';
import { Lane } from './lane.ts';
import type { State, WorkerMetrics } from './metrics.ts';
import { Settler } from './settler.ts';

/** Most messages that one script call carries. */
const MAX_BATCH = 500;

/** Most bytes that one reserve takes. */
const MAX_BYTES = 1_048_576;

/** Empty queues are looked at again after the first of these, ms, doubling up to the second. */
const POLL_MIN_MS = 1;
const POLL_MAX_MS = 20;

/** Most messages with a future eta that are held while no beat node can park them; then no more are taken. */
const MAX_HELD = 10_000;

/** Functions are entered for about this long, ms, before the event loop gets to hear of anything else. */
const SLICE_MS = 10;

/** After this long without word from Redis, ms, others may have taken us for dead: look before running anything. */
const DOUBT_MS = 8_000;

export interface PumpOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly workerId: string;
  readonly clock: RedisClock;
  readonly metrics: WorkerMetrics;
  readonly surroundings: Surroundings;
  /** Tasks that are not to be run; see `dropRevoked`. */
  readonly revoked: RevokedTasks;
  readonly log: Log;
}

/**
 * Moves messages through the worker:
 *
 *     queue --reserve--> waiting --acknowledge--> running --settle--> done      (acks early)
 *                        waiting ---------------> running --settle--> done      (acks late)
 *                        etaAhead --park--> the namespace's shards
 *                        etaAhead --> held --> waiting                          (while there is no beat node)
 *
 * Whatever it is told (an answer, a task's end, a timer) ends in `#pump`, which sends every lane that is free its next batch.
 * So each lane has one call in flight, and batches grow by themselves with the load.
 */
export class Pump {
  readonly #options: PumpOptions;
  readonly #log: Log;
  readonly #lanes: Readonly<Record<'reserve' | 'acknowledge' | 'park' | 'settle' | 'verify', Lane>>;
  readonly #settler: Settler;
  /** Everything of ours that lies in unacked, by tag; held messages too. */
  readonly #known = new Map<string, Delivery | null>();
  readonly #waiting: Delivery[] = [];
  readonly #etaAhead: Delivery[] = [];
  /** May be run, in slots that are already taken for them. */
  readonly #ready: Delivery[] = [];
  readonly #held = new EtaHeap();
  #queues: readonly string[];
  #acknowledging = 0;
  #running = 0;
  #shards = 0;
  #verifiedAtMs = monotonicMs();
  #pollMs = POLL_MIN_MS;
  #pollTimer: NodeJS.Timeout | null = null;
  #isPumpDue = false;
  #isStopping = false;
  #isClosed = false;
  #isHoldingSaid = false;
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
      acknowledge: lane('acknowledge'),
      park: lane('park'),
      settle: lane('settle'),
      verify: lane('verify'),
    };
    this.#settler = new Settler({
      redis: options.redis,
      namespace: options.config.namespace,
      workerId: options.workerId,
      resultExpiresSec: options.config.resultExpiresSec,
      lane: this.#lanes.settle,
      onSettled: (batch, reply) => this.#settled(batch, reply),
    });
  }

  start(): void {
    this.#schedule();
  }

  /** Takes no more messages and starts no more tasks; gives back what has not started. Running tasks go on. */
  async drain(): Promise<void> {
    this.#isStopping = true;
    this.#disarm();
    await Promise.all([
      this.#lanes.reserve.idle(),
      this.#lanes.acknowledge.idle(),
      this.#lanes.park.idle(),
      this.#lanes.verify.idle(),
    ]);
    const rest: Delivery[] = this.#waiting.splice(0);
    rest.push(...this.#etaAhead.splice(0));
    for (let delivery = this.#held.pop(Infinity); delivery !== null; delivery = this.#held.pop(Infinity))
      rest.push(delivery);
    const tags = rest.filter((delivery) => !delivery.isLost).map((delivery) => delivery.tag);
    const { redis, config, workerId } = this.#options;
    await restoreTags(redis, config.namespace, workerId, tags);
    for (const tag of tags) this.#known.delete(tag);
  }

  /** Resolves when no task runs and everything is settled. Only after `drain`. */
  async quiet(): Promise<void> {
    if (this.#isQuiet) return;
    await new Promise<void>((resolve) => {
      this.#onQuiet.push(resolve);
    });
  }

  /** Forgets everything at once; what still runs is no longer heard of. */
  close(): void {
    this.#isStopping = true;
    this.#isClosed = true;
    this.#disarm();
    for (const lane of Object.values(this.#lanes)) lane.close();
  }

  /**
   * Told by every heartbeat: Redis was heard of, and the namespace has so many shards (0: no beat node lives). Answers
   * whether it was the first for so long that others may have taken what we hold: then `refresh` it.
   */
  heard(shards: number): boolean {
    const isInDoubt = this.#isInDoubt;
    this.#shards = shards;
    if (!isInDoubt) this.#verifiedAtMs = monotonicMs();
    this.#schedule();
    return isInDoubt;
  }

  /** Says that we still hold what we hold, so that nobody takes it for lost, and forgets what we do not. */
  async refresh(): Promise<void> {
    this.#forget(await this.#lostOf([...this.#known.keys()]));
  }

  /** Ends what waits here of tasks that have been revoked; what comes later of them ends when it comes. */
  dropRevoked(): void {
    const isRevoked = (delivery: Delivery) => this.#isRevoked(delivery);
    const dropped = [this.#waiting, this.#etaAhead].map((deliveries) => takeWhere(deliveries, isRevoked));
    for (const delivery of [...dropped.flat(), ...this.#held.takeWhere(isRevoked)]) {
      if (!delivery.isLost) this.#ended(delivery, { state: 'revoked', reason: 'revoked' }, false);
    }
    this.#schedule();
  }

  /** Messages with a future eta that lie here, not in a shard. */
  held(): readonly TaskMessage[] {
    const nowMs = this.#options.clock.nowMs();
    return [...this.#etaAhead, ...this.#held.deliveries(), ...this.#waiting]
      .filter(({ isLost, message }) => !isLost && message.etaMs !== null && message.etaMs > nowMs)
      .map(({ message }) => message);
  }

  #isRevoked({ message }: Delivery): boolean {
    const { revoked } = this.#options;
    return revoked.size > 0 && revoked.has(message.id);
  }

  /** These tags are no longer ours: their messages are not to be started. */
  #forget(tags: readonly string[]): void {
    for (const tag of tags) {
      const delivery = this.#known.get(tag);
      if (delivery) {
        delivery.isLost = true;
        delivery.abort?.abort(new Error(LOST));
      }
      this.#known.delete(tag);
    }
  }

  get #isQuiet(): boolean {
    return (
      this.#running === 0 && this.#acknowledging === 0 && this.#settler.backlog === 0 && !this.#lanes.settle.isBusy
    );
  }

  get #isInDoubt(): boolean {
    return monotonicMs() - this.#verifiedAtMs > DOUBT_MS;
  }

  /** Pumps once this turn of the event loop is over, so that everything that happens in it goes into one batch. */
  #schedule(): void {
    if (this.#isPumpDue || this.#isClosed) return;
    this.#isPumpDue = true;
    setImmediate(() => {
      this.#isPumpDue = false;
      if (!this.#isClosed) this.#pump();
    });
  }

  #pump(): void {
    this.#runReady();
    this.#settler.flush();
    if (!this.#isStopping) {
      this.#releaseHeld();
      this.#startWaiting();
      this.#park();
      this.#reserve();
      // Starting may have settled: revoked ones, and tasks that ended at once.
      this.#settler.flush();
    }
    if (this.#isStopping && this.#isQuiet) for (const resolve of this.#onQuiet.splice(0)) resolve();
  }

  // Reserve

  #reserve(): void {
    if (this.#lanes.reserve.isBusy || this.#pollTimer !== null) return;
    const { redis, config, workerId } = this.#options;
    if (this.#held.size >= MAX_HELD) {
      this.#pollIn(POLL_MAX_MS);
      return;
    }
    // At most half of the room in one call: then Redis fills the one half while the other half is being run.
    const room = config.prefetch - (this.#known.size - this.#held.size);
    const limit = Math.min(room, Math.ceil(config.prefetch / 2), MAX_BATCH);
    // Many small calls cost more than few large ones, so a little room has to wait, unless there is nothing to start.
    const isWorthwhile = room >= Math.max(1, config.prefetch >> 2) || (room > 0 && this.#waiting.length === 0);
    if (!isWorthwhile) return;
    const queues = this.#queues;
    this.#queues = [...queues.slice(1), ...queues.slice(0, 1)];
    let sentAtMs = monotonicMs();
    this.#lanes.reserve.send(
      (counter) => {
        sentAtMs = monotonicMs();
        return reserve(redis, config.namespace, { workerId, counter, limit, byteLimit: MAX_BYTES, queues });
      },
      (reply) => this.#reserved(reply, limit, sentAtMs),
    );
  }

  #reserved(reply: ReserveReply, limit: number, sentAtMs: number): void {
    this.#options.clock.observe(reply.nowMs, sentAtMs);
    this.#report(reply);
    // Twice in the queue, or answered twice: either way it is the message that we hold.
    const messages = reply.messages.filter(({ tag }) => !this.#known.has(tag));
    for (const { tag } of messages) this.#known.set(tag, null);
    if (reply.messages.length >= limit) {
      this.#pollMs = POLL_MIN_MS;
    } else {
      if (reply.messages.length > 0) this.#pollMs = POLL_MIN_MS;
      this.#pollIn(this.#pollMs);
      this.#pollMs = Math.min(this.#pollMs * 2, POLL_MAX_MS);
    }
    // Before this batch is read, so that Redis works meanwhile.
    if (!this.#isStopping) this.#reserve();
    for (const message of messages) this.#take(message, reply.nowMs);
    this.#schedule();
  }

  #take(reserved: Reserved, nowMs: number): void {
    const { config, metrics, log } = this.#options;
    const found = triage(reserved, nowMs, { acksLate: config.acksLate, log });
    if ('mode' in found) {
      metrics.counts[found.mode === 'dead' ? 'dead' : 'unknown'] += 1;
      this.#settler.add(found);
      return;
    }
    this.#known.set(found.tag, found);
    const { etaMs } = found.message;
    if (this.#isRevoked(found)) this.#ended(found, { state: 'revoked', reason: 'revoked' }, false);
    else if (etaMs !== null && etaMs > nowMs) this.#etaAhead.push(found);
    else this.#waiting.push(found);
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

  // Eta

  #park(): void {
    if (this.#etaAhead.length === 0 && (this.#shards === 0 || this.#held.size === 0)) return;
    if (this.#shards === 0) {
      this.#hold(this.#etaAhead.splice(0));
      return;
    }
    if (this.#lanes.park.isBusy) return;
    const batch = this.#etaAhead.splice(0, MAX_BATCH);
    for (let held = this.#nextHeld(batch, Infinity); held !== null; held = this.#nextHeld(batch, Infinity))
      batch.push(held);
    const { redis, config, workerId } = this.#options;
    const shards = this.#shards;
    const messages = batch
      .filter((delivery) => !delivery.isLost)
      .map(({ tag, list, message }) => ({ tag, taskId: message.id, list, etaMs: message.etaMs ?? 0 }));
    if (messages.length === 0) return;
    this.#lanes.park.send(
      () => park(redis, config.namespace, { workerId, shards, messages }),
      () => {
        for (const { tag } of messages) this.#known.delete(tag);
        this.#schedule();
      },
      () => {
        this.#shards = 0;
        this.#hold(batch);
        this.#schedule();
      },
    );
  }

  #nextHeld(batch: readonly Delivery[], untilMs: number): Delivery | null {
    return batch.length < MAX_BATCH ? this.#held.pop(untilMs) : null;
  }

  #hold(deliveries: readonly Delivery[]): void {
    if (deliveries.length === 0) return;
    for (const delivery of deliveries) this.#held.push(delivery.message.etaMs ?? 0, delivery);
    if (this.#isHoldingSaid) return;
    this.#isHoldingSaid = true;
    this.#log.warn({
      event: 'eta_held',
      reason: 'no beat node lives in this namespace to park messages with an eta',
      namespace: this.#options.config.namespace,
    });
  }

  #releaseHeld(): void {
    if (this.#held.size === 0) return;
    const nowMs = this.#options.clock.nowMs();
    for (let delivery = this.#held.pop(nowMs); delivery !== null; delivery = this.#held.pop(nowMs))
      this.#waiting.push(delivery);
  }

  // Start

  #startWaiting(): void {
    if (this.#waiting.length === 0) return;
    if (this.#isInDoubt) {
      this.#verify();
      return;
    }
    const { config, clock } = this.#options;
    let free = config.concurrency - this.#running - this.#acknowledging;
    // Results are stored slower than tasks run: let them catch up instead of piling up in memory.
    if (this.#settler.backlog > 4 * MAX_BATCH) free = 0;
    if (free <= 0) return;
    const nowMs = clock.nowMs();
    // Half of the slots at a time: the next are acknowledged while these run.
    const most = Math.min(Math.ceil(config.concurrency / 2), MAX_BATCH);
    const batch: Delivery[] = [];
    const late: Delivery[] = [];
    let taken = 0;
    for (const delivery of this.#waiting) {
      if (free === 0 || (!delivery.isLate && (batch.length === most || this.#lanes.acknowledge.isBusy))) break;
      taken += 1;
      if (delivery.isLost) continue;
      const { expiresMs } = delivery.message;
      const isExpired = expiresMs !== null && nowMs > expiresMs;
      if (isExpired || this.#isRevoked(delivery)) {
        this.#ended(delivery, { state: 'revoked', reason: isExpired ? 'expired' : 'revoked' }, false);
        continue;
      }
      free -= 1;
      if (delivery.isLate) late.push(delivery);
      else batch.push(delivery);
    }
    this.#waiting.splice(0, taken);
    this.#running += late.length;
    if (batch.length > 0) this.#acknowledge(batch);
    this.#ready.push(...late);
    this.#runReady();
  }

  #acknowledge(batch: readonly Delivery[]): void {
    const { redis, config, workerId, clock, metrics } = this.#options;
    const tags = batch.map((delivery) => delivery.tag);
    this.#acknowledging = batch.length;
    let sentAtMs = monotonicMs();
    this.#lanes.acknowledge.send(
      (counter) => {
        sentAtMs = monotonicMs();
        return acknowledge(redis, config.namespace, { workerId, counter, tags });
      },
      ({ nowMs, refused }) => {
        clock.observe(nowMs, sentAtMs);
        this.#acknowledging = 0;
        for (const tag of tags) this.#known.delete(tag);
        if (refused.size > 0) {
          metrics.counts.refused += refused.size;
          this.#log.warn({
            event: 'messages_lost',
            messages: refused.size,
            reason: 'they were restored to another worker before they could start',
          });
        }
        const started = batch.filter((_, index) => !refused.has(index));
        this.#running += started.length;
        this.#ready.push(...started);
        // Before these run, so that Redis works meanwhile.
        if (!this.#isStopping) this.#startWaiting();
        this.#runReady();
        this.#schedule();
      },
    );
  }

  /** Asks Redis which of the waiting messages are still ours: after a long silence others may have restored them. */
  #verify(): void {
    if (this.#lanes.verify.isBusy) return;
    const tags = this.#waiting.map((delivery) => delivery.tag);
    this.#lanes.verify.send(
      () => this.#lostOf(tags),
      (lost) => {
        this.#forget(lost);
        this.#options.metrics.counts.refused += lost.length;
        if (lost.length > 0) {
          this.#log.warn({ event: 'messages_lost', messages: lost.length, reason: 'this worker was taken for dead' });
        }
        this.#verifiedAtMs = monotonicMs();
        this.#schedule();
      },
    );
  }

  async #lostOf(tags: readonly string[]): Promise<string[]> {
    const { redis, config, workerId } = this.#options;
    const gone: string[] = [];
    for (let from = 0; from < tags.length; from += MAX_BATCH) {
      const page = tags.slice(from, from + MAX_BATCH);
      const { lost } = await refresh(redis, config.namespace, workerId, page);
      gone.push(...page.filter((_, index) => lost.has(index)));
    }
    return gone;
  }

  // Run and settle

  #runReady(): void {
    if (this.#ready.length === 0) return;
    const untilMs = monotonicMs() + SLICE_MS;
    let entered = 0;
    for (const delivery of this.#ready) {
      entered += 1;
      this.#run(delivery);
      if (monotonicMs() >= untilMs) break;
    }
    this.#ready.splice(0, entered);
    if (this.#ready.length > 0) this.#schedule();
  }

  /** Enters the task function. */
  #run(delivery: Delivery): void {
    const { clock, metrics, surroundings } = this.#options;
    const { schedule, expiresMs } = delivery.message;
    const isExpired = expiresMs !== null && clock.nowMs() > expiresMs;
    if (isExpired || this.#isRevoked(delivery)) {
      this.#running -= 1;
      this.#ended(delivery, { state: 'revoked', reason: isExpired ? 'expired' : 'revoked' }, !delivery.isLate);
      return;
    }
    const startedAtMs = monotonicMs();
    if (schedule !== null) metrics.startLateness.observe(Math.max(0, clock.nowMs() - schedule.due) / 1_000);
    execute(delivery, surroundings, (outcome) => {
      this.#running -= 1;
      metrics.runtime.observe((monotonicMs() - startedAtMs) / 1_000);
      this.#ended(delivery, outcome, !delivery.isLate);
      this.#schedule();
    });
  }

  #ended(delivery: Delivery, outcome: Outcome, isAcked: boolean): void {
    if (this.#isClosed) return;
    const { clock, metrics } = this.#options;
    const state: State = outcome.state;
    metrics.counts[state] += 1;
    if (this.#log.isLevelEnabled('debug')) {
      const reason = outcome.state === 'failure' ? String(outcome.error) : undefined;
      this.#log.debug({ event: 'task_ended', task: delivery.message.task, id: delivery.message.id, state, reason });
    }
    const settlement = settlementOf(delivery, outcome, clock.nowMs(), isAcked);
    if (settlement !== null) this.#settler.add(settlement);
  }

  #settled(batch: readonly Settlement[], reply: SettleReply): void {
    for (const { tag, mode } of batch) if (mode !== 'acked') this.#known.delete(tag);
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
