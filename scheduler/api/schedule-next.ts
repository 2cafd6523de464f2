import { z } from 'zod';
import { spreadOffsetMs } from '../../lua/definition.ts';
import type { StoredSchedule } from '../../registry/registry.ts';
import { formatInstant, parseInstant } from '../../schedule/instant.ts';
import { nextRuns } from '../../schedule/next-run.ts';
import { ok } from './answer.ts';
import { instantField } from './resource.ts';
import { integerParameter, type Route, route } from './route.ts';
import { missing, type ScheduleContext } from './schedules.ts';

const nextQuery = z.strictObject({
  count: integerParameter('How many at most.', { min: 1, max: 1_000, default: 10 }),
  after: instantField('Strictly after this time; default: now.')
    .refine((text) => parseInstant(text) !== null, 'must be an ISO 8601 time with Z or an offset')
    .optional(),
});

export function scheduleNextRoutes({ registry, system }: ScheduleContext): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/schedules/{id}/next',
      summary: 'The next occurrences of a schedule; none while it is paused',
      query: nextQuery,
      answers: {
        200: { name: 'NextOccurrences', schema: z.strictObject({ next: z.array(instantField('Due time')) }) },
      },
      problems: [400, 404],
      async answer({ id, query }) {
        const [stored] = await registry.get([id]);
        if (stored == null) throw missing(id);
        const afterMs = query.after === undefined ? null : parseInstant(query.after);
        const next =
          stored.state === 'paused'
            ? []
            : nextRuns(stored.spec, originOf(stored), afterMs ?? system.nowMs(), query.count);
        return ok({ next: next.map(formatInstant) });
      },
    }),
  ];
}

/** What the spec does not tell about when a schedule runs: see `nextRuns`. */
function originOf({ spec, nextRunAtMs, nowOffsetMs }: StoredSchedule): number | null {
  const { schedule } = spec;
  if (!('every' in schedule)) return nextRunAtMs;
  if (schedule.phase === 'now') return nowOffsetMs;
  return schedule.phase === 'spread'
    ? spreadOffsetMs(spec.id, Math.round(schedule.every * 1_000))
    : Math.round(schedule.phase * 1_000);
}
