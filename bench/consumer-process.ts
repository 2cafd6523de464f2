import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { askChild } from './ask.ts';
import type { Verdict } from './ledger.ts';
import type { Percentiles } from './percentiles.ts';
import { awaitValue } from './processes.ts';
import { QUEUE, type Stage } from './stage.ts';

export interface ConsumerSettings {
  readonly redisUrl: string;
  readonly queue: string;
  /** How many schedules the ledger knows, and their interval. */
  readonly schedules: number;
  readonly everyMs: number;
  /** Empty the queue and read a few messages of each look, instead of popping and reading all of them. */
  readonly drain: boolean;
  /** Wait for a Redis that has gone, instead of failing. */
  readonly outages: boolean;
}

export interface ConsumerQuestion {
  /** `open` begins the ledger anew, `lap` the lateness; both answer with what was counted up to then. */
  readonly what: 'open' | 'lap' | 'read';
  /** Until when occurrences are accounted for. Default: the last look. */
  readonly untilMs?: number;
}

export interface ConsumerReport {
  /** Redis's clock at the consumer's last look; 0 before the first. */
  readonly nowMs: number;
  /** Messages taken since `open` or the last `lap`. */
  readonly taken: number;
  /** Of these, how many came before they were due. */
  readonly early: number;
  /** Whether the last look took all there was. */
  readonly isCaughtUp: boolean;
  /** Most messages found at one look. */
  readonly longest: number;
  /** Redis TIME at the pop minus due, ms, with the consumer's own waiting in it. */
  readonly lateness: Percentiles;
  readonly verdict: Verdict;
}

export interface Consumer {
  readonly pid: number;
  /** Begins to count. */
  open(): Promise<ConsumerReport>;
  /** What was counted since `open` or the last lap. */
  read(): Promise<ConsumerReport>;
  /** What was counted since `open` or the last lap; the lateness begins anew, the ledger goes on. */
  lap(): Promise<ConsumerReport>;
  /** The account up to now: waits until everything due before this moment should have come. */
  close(): Promise<ConsumerReport>;
  /** Ends the process. */
  stop(): Promise<void>;
}

/** How long after it was due an occurrence is waited for before it counts as lost. */
const SETTLE_MS = 2_000;

export async function startConsumer(
  stage: Stage,
  load: { schedules: number; everyMs: number; drain?: boolean; outages?: boolean },
): Promise<Consumer> {
  const settings: ConsumerSettings = {
    redisUrl: stage.server.url,
    queue: QUEUE,
    drain: false,
    outages: false,
    ...load,
  };
  const child = fork(fileURLToPath(new URL('./consumer.js', import.meta.url)), [JSON.stringify(settings)]);
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const ask = askChild<ConsumerQuestion, ConsumerReport>(child, 'consumer');
  const stop = () => {
    if (child.connected) child.disconnect();
    return ended;
  };
  stage.onClose(stop);
  await awaitValue('the consumer looking at its queue', async () =>
    (await ask({ what: 'read' })).nowMs > 0 ? true : null,
  );
  return {
    pid: child.pid!,
    open: () => ask({ what: 'open' }),
    read: () => ask({ what: 'read' }),
    lap: () => ask({ what: 'lap' }),
    async close() {
      const untilMs = (await ask({ what: 'read' })).nowMs;
      await awaitValue('the consumer catching up', async () => {
        const { nowMs, isCaughtUp } = await ask({ what: 'read' });
        return isCaughtUp && nowMs > untilMs + SETTLE_MS ? true : null;
      });
      return ask({ what: 'read', untilMs });
    },
    stop,
  };
}
