/** The tasks module of the bundled worker under measurement; where it was started by the bench it answers questions. */
import { task } from '../client/task.ts';
import { answerParent } from './ask.ts';
import { Ledger, type Verdict } from './ledger.ts';
import { scheduleIndex } from './occurrence.ts';
import { LatenessHistogram, type Percentiles } from './percentiles.ts';

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

const settings: TasksSettings = JSON.parse(process.env.BENCH_TASKS ?? '{"schedules":0,"everyMs":1000}');
const histogram = new LatenessHistogram();
const ledger = new Ledger(settings.schedules, settings.everyMs);
let ran = 0;

task('bench.noop', async () => {});

task('bench.check', async (context) => {
  ran += 1;
  const { schedule } = context;
  if (schedule === null) return;
  // Redis runs on the same machine, so both read the same clock.
  histogram.record(performance.timeOrigin + performance.now() - schedule.due);
  ledger.record(scheduleIndex(schedule.schedule), schedule.due);
});

if (process.channel !== undefined) {
  answerParent<TasksQuestion, TasksReport>(({ what, atMs }) => {
    if (what === 'open') ledger.open(atMs);
    const report = { ran, startLateness: histogram.read(), verdict: ledger.close(atMs) };
    if (what !== 'read') histogram.reset();
    return report;
  });
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));
  // The channel alone must not keep the worker alive.
  process.channel.unref();
}
