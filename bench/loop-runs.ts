import type { ChildProcess } from 'node:child_process';
import type { LoopRun } from './loop-ledger.ts';

/** How long a run of a loop takes, ms: long enough that two at once would be seen. */
export const LOOP_RUN_MS = 5;

/** Index, due, entered, ended: numbers of each run in a report. */
export const RUN_FIELDS = 4;

/** What a worker tells of the loops' runs that have ended: one after the other. */
export interface RunsReport {
  readonly runs: Float64Array;
}

/** In the parent: hands on every run that this child reports. */
export function readLoopRuns(child: ChildProcess, listen: (run: LoopRun) => void): void {
  child.on('message', (message: Partial<RunsReport>) => {
    const { runs } = message;
    if (runs === undefined) return;
    for (let at = 0; at < runs.length; at += RUN_FIELDS) {
      listen({ index: runs[at]!, dueMs: runs[at + 1]!, enteredMs: runs[at + 2]!, endedMs: runs[at + 3]! });
    }
  });
}
