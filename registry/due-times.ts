import { setImmediate as nextTurn } from 'node:timers/promises';
import { nextRuns } from '../schedule/next-run.ts';
import type { ScheduleSpec } from '../schedule/spec.ts';

/** Times computed in one go: so few that nothing else of the process waits for long, whatever the kind. */
const STEP = 50;

/**
 * The due times of a schedule strictly after `afterMs`, oldest first, ms since epoch; `originMs` as `nextRuns` takes it.
 * They are computed as they are asked for, in small steps between which other work goes on.
 */
export async function* dueTimes(
  spec: ScheduleSpec,
  originMs: number | null,
  afterMs: number,
): AsyncGenerator<number, void> {
  for (let atMs = afterMs; ; await nextTurn()) {
    const step = nextRuns(spec, originMs, atMs, STEP);
    yield* step;
    if (step.length < STEP) return;
    atMs = step.at(-1) ?? atMs;
  }
}

/** The first `most` of them that are before `endMs`. */
export async function dueTimesBefore(
  spec: ScheduleSpec,
  originMs: number | null,
  afterMs: number,
  endMs: number,
  most: number,
): Promise<number[]> {
  const found: number[] = [];
  if (most <= 0) return found;
  for await (const dueMs of dueTimes(spec, originMs, afterMs)) {
    if (dueMs >= endMs) break;
    found.push(dueMs);
    if (found.length >= most) break;
  }
  return found;
}
