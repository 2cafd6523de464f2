import { nextRuns } from '../../schedule/next-run.ts';
import type { ScheduleSpec } from '../../schedule/spec.ts';
import type { Chance } from '../support/chance.ts';

/** A spec as it is sent, without its id. */
export interface SpecJson {
  readonly [field: string]: unknown;
  readonly enabled?: boolean;
}

/** Messages of these schedules are left in this queue, and counted there. */
export const SINK = 'sink';

/** Messages of these are taken by the bundled workers. */
export const WORK = 'work';

/** Any spec whose runs can be accounted for, with short intervals. */
export function randomSpec(chance: Chance, nowMs: number): SpecJson {
  const kind = chance.weighted({ every: 5, cron: 2, rrule: 1, once: 3, loop: 5, overlap: 4 });
  switch (kind) {
    case 'loop':
      return loop(chance);
    case 'overlap':
      return {
        ...working(chance, ['steady', 'fails']),
        schedule: chance.next() < 0.7 ? every(chance) : cron(chance),
        overlap: chance.pick(['skip', 'buffer_one']),
        misfire: { policy: 'all' },
      };
    case 'once':
      return { ...sunk(chance), schedule: once(chance, nowMs), misfire: { policy: chance.pick(['latest', 'all']) } };
    case 'every':
      return repeated(chance, nowMs, every(chance));
    case 'cron':
      return repeated(chance, nowMs, cron(chance));
    case 'rrule':
      return repeated(chance, nowMs, { rrule: `FREQ=SECONDLY;INTERVAL=${chance.integer(1, 3)}` });
  }
}

/** Another spec for the same schedule; of the same kind, so that what was sent before stays accountable. */
export function randomEdit(chance: Chance, json: SpecJson, nowMs: number): SpecJson {
  const schedule = json.schedule as object;
  const edit = chance.weighted({ args: 2, timing: 3, end: 1, exclude: 1, tags: 1 });
  const isRepeated = 'every' in schedule || 'cron' in schedule;
  if (edit === 'timing' && isRepeated && (json.max_runs ?? null) === null)
    return { ...json, schedule: chance.next() < 0.6 ? every(chance) : cron(chance), jitter: 0 };
  if (edit === 'timing' && 'after' in schedule) return { ...json, schedule: pauses(chance) };
  if (edit === 'end' && isRepeated)
    return { ...json, end: chance.next() < 0.5 ? null : iso(nowMs + chance.integer(3_000, 20_000)) };
  if (edit === 'exclude' && isRepeated) return { ...json, exclude: exclusions(chance, nowMs) };
  if (edit === 'args') return { ...json, kwargs: { edited: chance.integer(0, 9) } };
  return { ...json, tags: [`tag-${chance.integer(0, 9)}`] };
}

function repeated(chance: Chance, nowMs: number, schedule: SpecJson): SpecJson {
  const policy = chance.weighted({ all: 3, latest: 2, skip: 1 });
  return {
    ...sunk(chance),
    schedule,
    misfire: { policy, grace: policy === 'all' || chance.next() < 0.7 ? null : chance.integer(1, 3) },
    ...(chance.next() < 0.2 ? { max_runs: chance.integer(1, 15) } : {}),
    ...(chance.next() < 0.2 ? { jitter: 0.05 } : {}),
    ...(chance.next() < 0.15 ? { start: iso(nowMs + chance.integer(-1_000, 5_000)) } : {}),
    ...(chance.next() < 0.15 ? { end: iso(nowMs + chance.integer(6_000, 20_000)) } : {}),
    ...(chance.next() < 0.2 ? { exclude: exclusions(chance, nowMs) } : {}),
  };
}

function loop(chance: Chance): SpecJson {
  return {
    ...working(chance, ['steady', 'returns', 'sets', 'fails', 'fails', 'stops']),
    schedule: pauses(chance),
    ...(chance.next() < 0.15 ? { max_runs: chance.integer(2, 12) } : {}),
  };
}

function pauses(chance: Chance): SpecJson {
  const retry = chance.next() < 0.4 ? { delay: 0.1, max_delay: 0.8 } : null;
  return { after: chance.integer(2, 10) / 10, retry };
}

function sunk(chance: Chance): SpecJson {
  return { task: 'counted', queue: SINK, args: [chance.integer(0, 3)] };
}

function working(chance: Chance, moods: readonly string[]): SpecJson {
  return {
    task: chance.pick(['work', 'work-late']),
    queue: WORK,
    args: [chance.pick([0, 0.05, 0.3, 0.8]), chance.pick(moods)],
    options: { worker: 'ringbeat', ignore_result: chance.next() < 0.5 },
  };
}

function every(chance: Chance): SpecJson {
  const interval = chance.pick([0.2, 0.35, 0.5, 1, 2]);
  return { every: interval, phase: chance.pick(['spread', 'spread', 'now', 0.1]) };
}

function cron(chance: Chance): SpecJson {
  const tz = chance.pick(['UTC', 'Europe/Berlin', 'Australia/Lord_Howe']);
  return { cron: chance.pick(['* * * * * *', '*/2 * * * * *', '0-30/3,40-59 * * * * *']), tz };
}

function once(chance: Chance, nowMs: number): SpecJson {
  const delayMs = chance.integer(0, 8_000);
  return chance.next() < 0.5 ? { in: delayMs / 1_000 } : { at: iso(nowMs + delayMs - 1_500) };
}

function exclusions(chance: Chance, nowMs: number): SpecJson[] {
  const fromMs = nowMs + chance.integer(0, 4_000);
  return [{ from: iso(fromMs), to: iso(fromMs + chance.integer(500, 4_000)) }];
}

function iso(atMs: number): string {
  return new Date(atMs).toISOString();
}

/** All due times of a spec from one instant up to another, both included. */
export function duesOf(spec: ScheduleSpec, originMs: number | null, fromMs: number, untilMs: number): number[] {
  const dues: number[] = [];
  for (let after = fromMs - 1; after < untilMs; ) {
    const page = nextRuns(spec, originMs, after, 500);
    dues.push(...page.filter((due) => due <= untilMs));
    if (page.length < 500) break;
    after = page.at(-1)!;
  }
  return dues;
}
