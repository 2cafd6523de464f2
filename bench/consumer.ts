/**
 * A consumer in a process of its own that knows nothing of Ringbeat but its message header. It pops the queue, compares
 * `due` with Redis TIME at the pop, and keeps the ledger. Started with `fork`; answers its parent, ends with it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { connect } from '../lua/connection.ts';
import { answerParent } from './ask.ts';
import type { ConsumerQuestion, ConsumerReport, ConsumerSettings } from './consumer-process.ts';
import { Ledger } from './ledger.ts';
import { readOccurrence } from './occurrence.ts';
import { LatenessHistogram } from './percentiles.ts';

/** Pause between two looks at a queue that was not full. Part of every lateness that this process measures. */
const POLL_MS = 1;
/** Pause between two looks while Redis is away. */
const OUTAGE_POLL_MS = 10;
/** Messages popped at once at most. */
const BATCH = 1_000;
/** How many messages of each look a draining consumer reads: the oldest ones. */
const SAMPLE = 8;

const settings: ConsumerSettings = JSON.parse(process.argv[2] ?? '');
const redis = connect(settings.redisUrl, {
  option: '--redis',
  name: 'ringbeat-bench-consumer',
  commandTimeoutMs: 60_000,
});
const histogram = new LatenessHistogram();
const ledger = new Ledger(settings.schedules, settings.everyMs);
let nowMs = 0;
let taken = 0;
let early = 0;
let longest = 0;
let isCaughtUp = false;

answerParent<ConsumerQuestion, ConsumerReport>(({ what, untilMs }) => {
  if (what === 'open') {
    ledger.open(nowMs);
    startAnew();
  }
  const report = {
    nowMs,
    taken,
    early,
    longest,
    isCaughtUp,
    lateness: histogram.read(),
    verdict: ledger.close(untilMs ?? nowMs),
  };
  if (what === 'lap') startAnew();
  return report;
});
process.on('disconnect', () => process.exit());

for (;;) {
  try {
    isCaughtUp = settings.drain ? await drain() : await pop();
  } catch (error) {
    if (!settings.outages) throw error;
    isCaughtUp = false;
    await sleep(OUTAGE_POLL_MS);
  }
  if (isCaughtUp) await sleep(POLL_MS);
}

/** Answers whether that was all. */
async function pop(): Promise<boolean> {
  const [time, popped] = await results(redis.multi().time().rpop(settings.queue, BATCH));
  const messages = texts(popped);
  nowMs = timeMs(time);
  for (const message of messages) take(message);
  count(messages.length);
  return messages.length < BATCH;
}

/** Empties the queue without reading all of it, so that at very high rates the reader is not what is measured. */
async function drain(): Promise<boolean> {
  const transaction = redis.multi().time().llen(settings.queue).lrange(settings.queue, -SAMPLE, -1).del(settings.queue);
  const [time, length, oldest] = await results(transaction);
  nowMs = timeMs(time);
  for (const message of texts(oldest)) take(message);
  count(Number(length));
  return true;
}

function count(messages: number): void {
  taken += messages;
  longest = Math.max(longest, messages);
}

function take(message: string): void {
  const occurrence = readOccurrence(message);
  const latenessMs = nowMs - (occurrence?.dueMs ?? 0);
  if (latenessMs < 0) early += 1;
  histogram.record(latenessMs);
  if (!settings.drain) ledger.record(occurrence?.index ?? -1, occurrence?.dueMs ?? nowMs);
}

function startAnew(): void {
  histogram.reset();
  taken = early = longest = 0;
}

async function results(transaction: ReturnType<Redis['multi']>): Promise<unknown[]> {
  const replies = await transaction.exec();
  return (replies ?? []).map(([error, reply]) => {
    if (error !== null) throw error;
    return reply;
  });
}

function texts(reply: unknown): readonly string[] {
  return Array.isArray(reply) ? reply : [];
}

function timeMs(reply: unknown): number {
  const [seconds, microseconds] = texts(reply);
  return Number(seconds) * 1_000 + Number(microseconds) / 1_000;
}
