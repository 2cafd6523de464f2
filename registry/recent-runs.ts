import type { Redis } from 'ioredis';
import type { Occurrence } from '../lua/occurrences.ts';
import { readStates } from '../lua/result-states.ts';
import { KEEP_OCCURRENCES_MS } from '../lua/sweep-shard.ts';
import { isJournal } from '../schedule/spec.ts';
import { dueTimesBefore } from './due-times.ts';
import type { Registry, StoredSchedule } from './registry.ts';

/** Due times of one schedule that are looked at: an interval of 0.1 s has 36,000 an hour. */
const MOST_LOOKED_AT = 36_000;

/**
 * What became of a run. `sent`: it was pushed, and no result tells more; `started`: a worker has it; `misfired`, `refused`
 * and `skipped` were never sent.
 */
export const OUTCOMES = [
  'sent',
  'started',
  'success',
  'failure',
  'retry',
  'revoked',
  'misfired',
  'refused',
  'skipped',
] as const;

export type Outcome = (typeof OUTCOMES)[number];

export interface RecentRun {
  readonly dueMs: number;
  /** null where it was not sent, or was not noted. */
  readonly dispatchedAtMs: number | null;
  readonly latenessMs: number | null;
  readonly taskId: string | null;
  /** 0 for a regular run. */
  readonly run: number;
  /** null where nothing is known: a time between two of its runs that was not noted itself. */
  readonly outcome: Outcome | null;
  /** How many occurrences from `dueMs` on were dropped at once; else 1. */
  readonly count: number;
}

/**
 * Runs of a schedule in the last hour, newest first, at most `limit`; null where there is no such schedule. What was noted
 * one by one comes first; of the runs in time, of which few are noted, its last one is known, and those that follow from
 * its grid: where a run before them was noted, or where a result proves them. Throws NAMESPACE_GONE.
 */
export async function recentRuns(
  redis: Redis,
  registry: Registry,
  id: string,
  nowMs: number,
  limit: number,
): Promise<RecentRun[] | null> {
  const [[stored], noted] = await Promise.all([registry.get([id]), registry.occurrences(id, limit)]);
  if (stored == null) return null;
  const inferred = await inferRuns(stored, noted, nowMs, limit);
  const candidates = [...noted.map(notedRun), ...inferred.map(({ run }) => run)];
  const states = await readStates(
    redis,
    candidates.map(({ taskId }) => taskId ?? ''),
  );
  const runs = candidates.map((run, at) => ({ ...run, outcome: outcomeOf(states[at] ?? null) ?? run.outcome }));
  const certain = runs.flatMap((run, at) => {
    const isProven = states[at] != null || (inferred[at - noted.length]?.isCertain ?? true);
    if (isProven) return [run];
    // Its last run is told in any case, but it may have had another id: of before its timing was changed.
    return run.dispatchedAtMs === null ? [] : [{ ...run, taskId: null }];
  });
  return certain
    .sort((one, other) => other.atMs - one.atMs || other.dueMs - one.dueMs)
    .map(({ atMs: _, ...run }) => run)
    .slice(0, limit);
}

/** `atMs`: when it was sent or dropped; where that is not known, when it was due. */
type TimedRun = RecentRun & { readonly atMs: number };

function notedRun({ kind, dueMs, run, count, atMs, latenessMs, taskId }: Occurrence): TimedRun {
  return {
    atMs,
    dueMs,
    dispatchedAtMs: latenessMs === null ? null : dueMs + latenessMs,
    latenessMs,
    taskId,
    run,
    outcome: kind === 'dispatched' ? 'sent' : kind,
    count,
  };
}

interface InferredRun {
  readonly run: TimedRun;
  /** Whether its due time and task id are beyond doubt. */
  readonly isCertain: boolean;
}

/** Its last run, and the due times before that, as far as none of them was noted. */
async function inferRuns(
  stored: StoredSchedule,
  noted: readonly Occurrence[],
  nowMs: number,
  limit: number,
): Promise<InferredRun[]> {
  const { spec, lastRunAtMs, lastLatenessMs, originMs } = stored;
  if (lastRunAtMs === null || lastLatenessMs === null) return [];
  const oldestMs = nowMs - KEEP_OCCURRENCES_MS;
  const lastDueMs = lastRunAtMs - lastLatenessMs;
  // From its first noted run on its timing is what it is now: earlier ones may have followed another.
  const ownDuesMs = noted
    .filter(({ run, taskId }) => run === 0 && taskId?.startsWith(stored.seed))
    .map((one) => one.dueMs);
  const sinceMs = Math.min(...ownDuesMs);
  const isSingle = 'at' in spec.schedule || 'in' in spec.schedule;
  const isNoted = new Set(noted.filter(({ run }) => run === 0).map(({ dueMs }) => dueMs));
  const infer = (dueMs: number, latenessMs: number | null, isCertain: boolean): InferredRun => ({
    run: {
      atMs: dueMs + (latenessMs ?? 0),
      dueMs,
      dispatchedAtMs: latenessMs === null ? null : dueMs + latenessMs,
      latenessMs,
      taskId: taskIdOf(stored, dueMs),
      run: 0,
      outcome: latenessMs === null ? null : 'sent',
      count: 1,
    },
    isCertain,
  });
  const last =
    lastRunAtMs < oldestMs || isNoted.has(lastDueMs)
      ? []
      : [infer(lastDueMs, lastLatenessMs, lastDueMs >= sinceMs || isSingle)];
  if (isSingle || 'after' in spec.schedule) return last;
  const duesMs = await dueTimesBefore(spec, originMs, oldestMs, lastDueMs, MOST_LOOKED_AT);
  const dropped = droppedAmong(duesMs, noted);
  const others = duesMs.filter((dueMs) => !isNoted.has(dueMs) && !dropped.has(dueMs));
  return [...last, ...others.slice(-limit).map((dueMs) => infer(dueMs, null, dueMs >= sinceMs))];
}

/** The due times that were dropped together with one that was noted. */
function droppedAmong(duesMs: readonly number[], noted: readonly Occurrence[]): ReadonlySet<number> {
  const dropped = new Set<number>();
  for (const { dueMs, count } of noted) {
    if (count <= 1) continue;
    const from = duesMs.findIndex((each) => each >= dueMs);
    if (from !== -1) for (const each of duesMs.slice(from, from + count)) dropped.add(each);
  }
  return dropped;
}

/** The id of the regular run that was due then, as `lua/dispatch.lua` makes it. */
function taskIdOf({ spec, seed, shard }: StoredSchedule, dueMs: number): string {
  const group = isJournal(spec) ? `a${shard.toString(16).padStart(3, '0')}` : '8000';
  return `${seed}${group}-${dueMs.toString(16).padStart(12, '0')}`;
}

function outcomeOf(state: string | null): Outcome | null {
  switch (state) {
    case null:
      return null;
    case 'SUCCESS':
      return 'success';
    case 'FAILURE':
      return 'failure';
    case 'RETRY':
      return 'retry';
    case 'REVOKED':
      return 'revoked';
    default:
      // A state of the task's own, or STARTED.
      return 'started';
  }
}
