import type { Redis } from 'ioredis';
import { z } from 'zod';
import { OUTCOMES, recentRuns } from '../../registry/recent-runs.ts';
import { formatInstant } from '../../schedule/instant.ts';
import { ok } from './answer.ts';
import { instantField, optionalInstant } from './resource.ts';
import { integerParameter, type Route, route } from './route.ts';
import { missing, type ScheduleContext } from './schedules.ts';

const runsQuery = z.strictObject({
  limit: integerParameter('Most runs on the page.', { min: 1, max: 1_000, default: 100 }),
});

const runList = {
  name: 'RunList',
  schema: z.strictObject({
    runs: z.array(
      z.strictObject({
        due: instantField('When it was to be sent'),
        dispatched_at: instantField('When it was sent; null when it was not, or when that was not noted').nullable(),
        lateness_ms: z.number().nullable(),
        task_id: z.string().nullable(),
        run: z.int().describe('0 for a regular run; of a triggered or backfilled one its number.'),
        outcome: z
          .enum(OUTCOMES)
          .nullable()
          .describe('What became of it, as far as it is known; sent: no result tells more.'),
        count: z.int().describe('How many occurrences from this one on were dropped together; else 1.'),
      }),
    ),
    cursor: z.null().describe('There is one page only.'),
  }),
};

export function scheduleRunsRoutes({ registry, system }: ScheduleContext, redis: Redis): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/schedules/{id}/runs',
      summary: 'Runs of the last hour, newest first',
      query: runsQuery,
      answers: { 200: runList },
      problems: [400, 404],
      async answer({ id, query }) {
        const runs = await recentRuns(redis, registry, id, system.nowMs(), query.limit);
        if (runs === null) throw missing(id);
        return ok({
          runs: runs.map(({ dueMs, dispatchedAtMs, latenessMs, taskId, ...run }) => ({
            due: formatInstant(dueMs),
            dispatched_at: optionalInstant(dispatchedAtMs),
            lateness_ms: latenessMs,
            task_id: taskId,
            ...run,
          })),
          cursor: null,
        });
      },
    }),
  ];
}
