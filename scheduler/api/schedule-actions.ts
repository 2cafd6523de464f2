import { z } from 'zod';
import { fieldErrors, READABLE } from '../../schedule/field-errors.ts';
import { type Answer, ok } from './answer.ts';
import { invalid } from './problem.ts';
import { type Call, type Route, route } from './route.ts';
import { matchingSchedules } from './schedule-list.ts';
import { missing, readObject, type ScheduleContext, show } from './schedules.ts';

const selection = z
  .union([z.strictObject({ tag: z.string().min(1) }), z.strictObject({ prefix: z.string().min(1) })], {
    error: 'must hold either a tag or a prefix, one that is not empty',
  })
  .describe('The schedules with this tag, or those whose id begins so.');

const manyChanged = { name: 'ManyChanged', schema: z.strictObject({ matched: z.int(), changed: z.int() }) };

/** Pause and resume, of one schedule or of many; delete many. */
export function scheduleActionRoutes(context: ScheduleContext): Route[] {
  return [
    ...[true, false].flatMap((enabled) => [setEnabled(context, enabled), setManyEnabled(context, enabled)]),
    many('delete', 'Delete', (call) =>
      changeMany(
        context,
        call,
        async (ids) => (await context.registry.remove(ids)).filter((existed) => existed).length,
      ),
    ),
  ];
}

function setEnabled(context: ScheduleContext, enabled: boolean): Route {
  return route({
    method: 'POST',
    path: `/v1/schedules/{id}/${enabled ? 'resume' : 'pause'}`,
    summary: enabled
      ? 'Resume a schedule: it goes on at the next point of its grid'
      : 'Pause a schedule: what falls due meanwhile is not missed',
    answers: { 200: context.resource },
    problems: [404],
    async answer({ id }) {
      const [outcome] = await context.registry.setEnabled([id], enabled);
      if (outcome === 'missing') throw missing(id);
      return show(context, id, 200);
    },
  });
}

function setManyEnabled(context: ScheduleContext, enabled: boolean): Route {
  return many(enabled ? 'resume' : 'pause', enabled ? 'Resume' : 'Pause', (call) =>
    changeMany(context, call, async (ids) => {
      const outcomes = await context.registry.setEnabled(ids, enabled);
      return outcomes.filter((outcome) => outcome === 'changed').length;
    }),
  );
}

function many(action: string, verb: string, answer: (call: Call<unknown>) => Promise<Answer>): Route {
  return route({
    method: 'POST',
    path: `/v1/schedules/${action}`,
    summary: `${verb} all schedules with a tag, or whose ids begin alike`,
    bodies: { 'application/json': { name: 'Selection', schema: selection } },
    answers: { 200: manyChanged },
    problems: [413, 415],
    answer,
  });
}

async function changeMany(
  context: ScheduleContext,
  call: Call<unknown>,
  change: (ids: readonly string[]) => Promise<number>,
): Promise<Answer> {
  const result = selection.safeParse(await readObject(call), READABLE);
  if (!result.success) throw invalid('The body', fieldErrors(result.error.issues));
  let matched = 0;
  let changed = 0;
  for await (const schedules of matchingSchedules(context, result.data)) {
    if (schedules.length === 0) continue;
    matched += schedules.length;
    changed += await change(schedules.map(({ spec }) => spec.id));
  }
  return ok({ matched, changed });
}
