/** The tasks module of the bundled worker under measurement; where it was started by the bench it answers questions. */
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread } from 'node:worker_threads';
import { task } from '../client/task.ts';
import { answerParent } from './ask.ts';
import { Ledger, type Verdict } from './ledger.ts';
import { LOOP_RUN_MS, RUN_FIELDS, type RunsReport } from './loop-runs.ts';
import { scheduleIndex } from './occurrence.ts';
import { LatenessHistogram, type Percentiles } from './percentiles.ts';
import { AWAIT_MS, SPIN_MS } from './task-times.ts';

export interface TasksSettings {
  readonly schedules: number;
  readonly everyMs: number;
}

export interface TasksQuestion {
  readonly what: 'open' | 'lap' | 'read';
  /** Redis's clock: from when (`open`) or until when (`read`) occurrences are accounted for. */
  readonly atMs: number;
}

export interface TasksReport {
  readonly ran: number;
  /** Entered minus due, ms. */
  readonly startLateness: Percentiles;
  readonly verdict: Verdict;
}

/** The parent is told of a batch of loop runs so long after the first of them, ms. */
const REPORT_MS = 50;

const settings: TasksSettings = JSON.parse(process.env.BENCH_TASKS ?? '{"schedules":0,"everyMs":1000}');
const histogram = new LatenessHistogram();
const ledger = new Ledger(settings.schedules, settings.everyMs);
let ran = 0;

task('bench.noop', async () => {});

task('bench.await', () => sleep(AWAIT_MS));

task('bench.spin', () => {
  const untilMs = performance.now() + SPIN_MS;
  while (performance.now() < untilMs);
});

task('bench.check', async (context) => {
  ran += 1;
  const { schedule } = context;
  if (schedule === null) return;
  histogram.record(nowMs() - schedule.due);
  ledger.record(scheduleIndex(schedule.schedule), schedule.due);
});

/** Runs of loops that the parent has not been told of. */
let loopRuns: number[] = [];

task('bench.loop', async ({ schedule }) => {
  const enteredMs = nowMs();
  await sleep(LOOP_RUN_MS);
  if (schedule === null) return;
  loopRuns.push(scheduleIndex(schedule.schedule), schedule.due, enteredMs, nowMs());
  if (loopRuns.length === RUN_FIELDS) setTimeout(reportRuns, REPORT_MS);
});

function reportRuns(): void {
  const report: RunsReport = { runs: Float64Array.from(loopRuns) };
  loopRuns = [];
  process.send?.(report);
}

/** Redis runs on the same machine, so both read the same clock. */
function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

// Processes of a pool load this module too, and have channels of their own; threads share the worker's.
if (isMainThread && process.ppid === Number(process.env.BENCH_PID)) {
  answerParent<TasksQuestion, TasksReport>(({ what, atMs }) => {
    if (what === 'open') ledger.open(atMs);
    const report = { ran, startLateness: histogram.read(), verdict: ledger.close(atMs) };
    if (what !== 'read') histogram.reset();
    return report;
  });
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));
  // The channel alone must not keep the worker alive.
  process.channel?.unref();
}
