import type { Redis } from 'ioredis';
import { workerKeys } from '../lua/keys.ts';
import type { Reserved } from '../lua/reserve.ts';
import type { Settlement, SettleReply } from '../lua/settle.ts';
import type { RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Chords } from './chords.ts';
import type { WorkerConfig } from './config.ts';
import type { Delivery, Unknown } from './delivery.ts';
import { type EndingOptions, endingOf, endingOptions } from './ending.ts';
import type { Events } from './events.ts';
import { Lane } from './lane.ts';
import type { WorkerMetrics } from './metrics.ts';
import type { Outcome } from './outcome.ts';
import { Reporter } from './reporter.ts';
import { Settler } from './settler.ts';

export interface FinisherOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly workerId: string;
  readonly clock: RedisClock;
  readonly metrics: WorkerMetrics;
  readonly events: Events;
  readonly log: Log;
  /** Shards of the namespace; 0 while no beat node lives. */
  shards(): number;
  /** Told of messages that do not lie in unacked any more, once they are settled. */
  onSettled(tags: readonly string[]): void;
}

/** How a delivery came to its end. */
export interface End {
  /** Its message was acknowledged before. */
  readonly isAcked: boolean;
  /** s; null: its task was never entered. */
  readonly runtimeSec: number | null;
}

/** Ends messages: tells whoever watches, settles them batch by batch, and sends the bodies of chords that this completes. */
export class Finisher {
  readonly #options: FinisherOptions;
  readonly #lane: Lane;
  readonly #settler: Settler;
  readonly #reporter: Reporter;
  readonly #endings: EndingOptions;
  readonly #chords: Chords;

  constructor(options: FinisherOptions) {
    this.#options = options;
    const { config, workerId, clock, log, shards } = options;
    const { namespace, resultExpiresSec } = config;
    this.#lane = new Lane('settle', log, () => clock.disturbed());
    this.#reporter = new Reporter(options);
    this.#endings = endingOptions(config);
    this.#settler = new Settler({
      ...options,
      namespace,
      resultExpiresSec,
      lane: this.#lane,
      onSettled: (batch, reply) => this.#settled(batch, reply),
    });
    this.#chords = new Chords({
      ...options,
      namespace,
      resultExpiresSec,
      token: workerKeys(namespace, workerId).state,
      source: this.#endings.source,
      nowMs: () => clock.nowMs(),
      shards,
    });
  }

  /** Settlements that are not yet on their way. */
  get backlog(): number {
    return this.#settler.backlog;
  }

  get isIdle(): boolean {
    return this.#settler.backlog === 0 && !this.#lane.isBusy;
  }

  /** A message was taken that is to be run. */
  received(delivery: Delivery): void {
    this.#reporter.received(delivery);
  }

  /** A message that could not be read. */
  dead(reserved: Reserved, settlement: Settlement): void {
    this.#reporter.dead(reserved.envelope, settlement.letter?.reason ?? '');
    this.#settler.add(settlement);
  }

  /** A message of a task that nobody has defined here. */
  unknown({ message, settlement }: Unknown): void {
    this.#reporter.unknown(message);
    this.#settler.add(settlement);
  }

  ended(delivery: Delivery, outcome: Outcome, { isAcked, runtimeSec }: End): void {
    const moment = { nowMs: this.#options.clock.nowMs(), isAcked };
    const ending = endingOf(delivery, outcome, moment, this.#endings);
    this.#reporter.ended(delivery, ending, runtimeSec);
    if (ending.settlement !== null) this.#settler.add(ending.settlement);
  }

  /** Sends the next batch unless one is in flight. `mayGather`: unless one was just sent and the next is small. */
  flush(mayGather: boolean): void {
    this.#settler.flush(mayGather);
  }

  /** Finishes chords that other workers left over when they died; answers when to look again, ms. */
  sweepChords(): Promise<number> {
    return this.#chords.sweep();
  }

  /** Resolves when no body of a chord is about to be sent. */
  quiet(): Promise<void> {
    return this.#chords.quiet();
  }

  /** Forgets what is not yet settled. */
  close(): void {
    this.#settler.close();
    this.#lane.close();
  }

  #settled(batch: readonly Settlement[], reply: SettleReply): void {
    for (const index of reply.chords) {
      // One of these parts was the last of its chord.
      for (const action of batch[index]?.actions ?? [])
        if (action.kind === 'chord') this.#chords.complete(action.groupId, action.follow);
    }
    if (reply.late > 0) {
      this.#options.log.warn({
        event: 'settled_late',
        messages: reply.late,
        reason: 'they were restored to another worker meanwhile; nothing was stored',
      });
    }
    this.#options.onSettled(batch.filter(({ mode }) => mode !== 'acked').map(({ tag }) => tag));
  }
}
