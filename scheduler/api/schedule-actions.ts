import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { MAX_BACKLOG } from '../../lua/backfill.ts';
import { RingbeatError } from '../../protocol/errors.ts';
import { backfillSchedule } from '../../registry/backfill-schedule.ts';
import { findSchedules } from '../../registry/find-schedules.ts';
import { fieldErrors, READABLE } from '../../schedule/field-errors.ts';
import { instant } from '../../schedule/fields.ts';
import { parseInstant } from '../../schedule/instant.ts';
import { type Answer, jsonAnswer, ok } from './answer.ts';
import { invalid, Problem } from './problem.ts';
import { type Call, type Route, route } from './route.ts';
import { missing, readObject, type ScheduleContext, show } from './schedules.ts';

const selection = z
  .union([z.strictObject({ tag: z.string().min(1) }), z.strictObject({ prefix: z.string().min(1) })], {
    error: 'must hold either a tag or a prefix, one that is not empty',
  })
  .describe('The schedules with this tag, or those whose id begins so.');

const triggered = { name: 'Triggered', schema: z.strictObject({ task_id: z.string() }) };

const backfillRange = z.strictObject({
  from: instant('The first time that is run.'),
  to: instant('Only what is before this time is run.'),
});

const backfilled = { name: 'Backfilled', schema: z.strictObject({ runs: z.int().describe('How many were queued.') }) };

const manyChanged = { name: 'ManyChanged', schema: z.strictObject({ matched: z.int(), changed: z.int() }) };

/** Pause and resume, of one schedule or of many; trigger and backfill one; delete many. */
export function scheduleActionRoutes(context: ScheduleContext): Route[] {
  return [
    ...[true, false].flatMap((enabled) => [setEnabled(context, enabled), setManyEnabled(context, enabled)]),
    triggerRoute(context),
    backfillRoute(context),
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

function triggerRoute({ registry }: ScheduleContext): Route {
  return route({
    method: 'POST',
    path: '/v1/schedules/{id}/trigger',
    summary: 'Run a schedule once, now, in whatever state it is; a loop that waits starts its next run',
    answers: { 202: triggered },
    problems: [404, 409],
    async answer({ id, requestId }) {
      const outcome = await registry.trigger(id, requestId ?? randomUUID());
      if (outcome === 'missing') throw missing(id);
      if (outcome === 'in_flight')
        throw new Problem(
          409,
          `The schedule "${id}" is a loop whose run has not ended yet; none was started beside it.`,
        );
      if (outcome === 'full')
        throw new Problem(
          409,
          `${MAX_BACKLOG} extra runs of the schedule "${id}" are waiting already; try again later.`,
        );
      return jsonAnswer(202, JSON.stringify({ task_id: outcome.taskId }));
    },
  });
}

function backfillRoute({ registry }: ScheduleContext): Route {
  return route({
    method: 'POST',
    path: '/v1/schedules/{id}/backfill',
    summary: `Run a schedule for each of its times from one time up to another, ${MAX_BACKLOG} at most`,
    bodies: { 'application/json': { name: 'BackfillRange', schema: backfillRange } },
    answers: { 202: backfilled },
    problems: [400, 404, 409, 413, 415],
    async answer(call) {
      const { id } = call;
      const result = backfillRange.safeParse(await readObject(call), READABLE);
      if (!result.success) throw invalid('The body', fieldErrors(result.error.issues));
      const range = { fromMs: parseInstant(result.data.from) ?? 0, toMs: parseInstant(result.data.to) ?? 0 };
      if (range.toMs <= range.fromMs) throw invalid('The body', [{ path: 'to', message: 'must be later than from' }]);
      const outcome = await backfillSchedule(registry, id, range, call.requestId ?? randomUUID()).catch(refuseFull);
      switch (outcome.kind) {
        case 'done':
          return jsonAnswer(202, JSON.stringify({ runs: outcome.runs }));
        case 'missing':
          throw missing(id);
        case 'loop':
          throw new Problem(400, `The schedule "${id}" is a loop: it has no times that could be made up for.`);
        case 'too many':
          throw invalid('The body', [
            { path: 'to', message: `leaves more than ${outcome.most} occurrences; at most ${outcome.most} go at once` },
          ]);
      }
    },
  });
}

function refuseFull(error: unknown): never {
  if (error instanceof RingbeatError && error.code === 'BACKLOG_FULL')
    throw new Problem(409, error.message, { cause: error });
  throw error;
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
  for await (const schedules of findSchedules(context.registry, result.data)) {
    if (schedules.length === 0) continue;
    matched += schedules.length;
    changed += await change(schedules.map(({ spec }) => spec.id));
  }
  return ok({ matched, changed });
}
