import { z } from 'zod';
import type { Carried } from '../lua/put-schedules.ts';
import type { Json } from '../protocol/json.ts';
import { type FieldError, fieldErrors, READABLE } from '../schedule/field-errors.ts';
import { instant } from '../schedule/fields.ts';
import { formatInstant, parseInstant } from '../schedule/instant.ts';
import { nextRuns } from '../schedule/next-run.ts';
import { type ScheduleSpec, withPlainNumbers } from '../schedule/spec.ts';
import { originAt } from './origin.ts';
import type { StoredSchedule } from './registry.ts';

/** What a loop that was stopped is held until. */
const STOPPED = 'stopped';

/** What a schedule takes along, beside its spec, to where it does not exist yet. */
export const carrySchema = z
  .strictObject({
    seed: z
      .string()
      .regex(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-$/, { error: 'must be the first three groups of a task id' })
      .describe('What its task ids begin with.'),
    anchor_ms: z
      .int()
      .min(0)
      .nullable()
      .describe('in: the instant that it was resolved to; every with phase now: where its grid lies; ms.'),
    next_run_at: instant('When it is due next; where that is over, it is overdue.').nullable(),
    completed_at: instant('When a one-shot ran.').nullable(),
    runs: z.int().min(0).nullable().describe('Regular runs sent, where max_runs is set.'),
    held: z
      .union([z.literal(STOPPED), instant('')], { error: `must be an ISO 8601 time or "${STOPPED}"` })
      .nullable()
      .describe('When a loop that is paused is due; "stopped": its task has ended it.'),
    in_flight: z.boolean().describe('Whether it is a loop whose run was in flight: it begins its next one at once.'),
  })
  .describe('As an export writes it. Used where the schedule does not exist yet.');

export function encodeCarry({ spec, carried }: StoredSchedule): Json {
  const { seed, anchorMs, dueMs, completedAtMs, runs, held } = carried;
  const isInFlight = 'after' in spec.schedule && dueMs === 0;
  return {
    seed,
    anchor_ms: anchorMs,
    next_run_at: isInFlight ? null : optionalInstant(dueMs),
    completed_at: optionalInstant(completedAtMs),
    runs,
    held: held === '-' ? STOPPED : held === null ? null : formatInstant(Number(held)),
    in_flight: isInFlight,
  };
}

/** What `encodeCarry` wrote, for a schedule with this spec; or what is wrong with it. */
export function decodeCarry(
  spec: ScheduleSpec,
  json: Json,
): { readonly carried: Carried } | { readonly errors: readonly FieldError[] } {
  const parsed = carrySchema.safeParse(json);
  const result = parsed.success ? parsed : carrySchema.safeParse(withPlainNumbers(json), READABLE);
  if (!result.success) return { errors: inCarry(fieldErrors(result.error.issues)) };
  const carry = result.data;
  const anchorMs = carry.anchor_ms;
  const dueMs = instantOf(carry.next_run_at);
  const error = contradiction(spec, anchorMs, dueMs);
  if (error !== null) return { errors: inCarry([error]) };
  const isLoop = 'after' in spec.schedule;
  const singleMs = 'at' in spec.schedule ? parseInstant(spec.schedule.at) : 'in' in spec.schedule ? anchorMs : null;
  const completedAtMs = singleMs === null ? null : instantOf(carry.completed_at);
  const waitsUntilMs = completedAtMs === null ? (dueMs ?? singleMs) : null;
  return {
    carried: {
      seed: carry.seed,
      anchorMs,
      // What is paused waits nowhere.
      dueMs: !spec.enabled ? null : isLoop && carry.in_flight ? 0 : waitsUntilMs,
      completedAtMs,
      runs: spec.max_runs === null ? null : carry.runs,
      held: !isLoop || carry.held === null ? null : carry.held === STOPPED ? '-' : String(instantOf(carry.held)),
    },
  };
}

/** What a carry says that cannot be so with this spec. */
function contradiction(spec: ScheduleSpec, anchorMs: number | null, dueMs: number | null): FieldError | null {
  const { schedule } = spec;
  const isAnchored = 'in' in schedule || ('every' in schedule && schedule.phase === 'now');
  if (isAnchored && anchorMs === null) return { path: 'anchor_ms', message: 'is required for this schedule' };
  // Lua goes on from here by adding the interval. The times of calendars may be others by newer rules of their zone.
  if (dueMs === null || !('every' in schedule || 'at' in schedule || 'in' in schedule)) return null;
  const originMs = isAnchored ? anchorMs : originAt(spec, 0);
  const isItsOwn = nextRuns({ ...spec, exclude: [] }, originMs, dueMs - 1, 1)[0] === dueMs;
  return isItsOwn ? null : { path: 'next_run_at', message: 'is no time at which this schedule is due' };
}

function inCarry(errors: readonly FieldError[]): FieldError[] {
  return errors.map(({ path, message }) => ({ path: path === '' ? 'carry' : `carry.${path}`, message }));
}

function optionalInstant(atMs: number | null): string | null {
  return atMs === null ? null : formatInstant(atMs);
}

function instantOf(text: string | null): number | null {
  return text === null ? null : parseInstant(text);
}
