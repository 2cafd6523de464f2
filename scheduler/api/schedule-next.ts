import { z } from 'zod';
import { dueTimesBefore } from '../../registry/due-times.ts';
import { nextDueTimes } from '../../registry/next-due-times.ts';
import { originAt } from '../../registry/origin.ts';
import { fieldErrors, READABLE } from '../../schedule/field-errors.ts';
import { instant } from '../../schedule/fields.ts';
import { formatInstant, parseInstant } from '../../schedule/instant.ts';
import { checkSpec, createSpecFields, withPlainNumbers } from '../../schedule/spec.ts';
import { ok } from './answer.ts';
import { invalid } from './problem.ts';
import { instantField } from './resource.ts';
import { integerParameter, type Route, route } from './route.ts';
import { missing, readObject, type ScheduleContext } from './schedules.ts';

const MAX_COUNT = 1_000;
const DEFAULT_COUNT = 10;

const nextQuery = z.strictObject({
  count: integerParameter('How many at most.', { min: 1, max: MAX_COUNT, default: DEFAULT_COUNT }),
  after: instantField('Strictly after this time; default: now.')
    .refine((text) => parseInstant(text) !== null, 'must be an ISO 8601 time with Z or an offset')
    .optional(),
});

const previewOptions = {
  after: instant('Strictly after this time; default: from now on.').nullable().default(null),
  count: z.int().min(1).max(MAX_COUNT).default(DEFAULT_COUNT).describe('How many at most.'),
};

/** The id of an unsaved schedule that is given none. */
const UNSAVED_ID = 'preview';

const answers = {
  200: { name: 'NextOccurrences', schema: z.strictObject({ next: z.array(instantField('Due time')) }) },
};

/** When schedules run next: stored ones, and such as somebody only thinks of. */
export function scheduleNextRoutes(context: ScheduleContext): Route[] {
  const { registry, system } = context;
  const preview = previewSchema(context.namespace);
  return [
    route({
      method: 'GET',
      path: '/v1/schedules/{id}/next',
      summary: 'The next occurrences of a schedule; none while it is paused, or a loop whose run is in flight',
      query: nextQuery,
      answers,
      problems: [400, 404],
      async answer({ id, query }) {
        const [stored] = await registry.get([id]);
        if (stored == null) throw missing(id);
        const afterMs = query.after === undefined ? null : parseInstant(query.after);
        return ok({ next: (await nextDueTimes(stored, afterMs, query.count, system.nowMs())).map(formatInstant) });
      },
    }),
    route({
      method: 'POST',
      path: '/v1/preview',
      summary: 'The next occurrences of a schedule that is not stored',
      bodies: { 'application/json': { name: 'Preview', schema: preview } },
      answers,
      problems: [400, 413, 415],
      async answer(call) {
        const { after, count, ...spec } = await readObject(call);
        const unknown = Object.keys(spec).filter((field) => !Object.hasOwn(preview.shape, field));
        const given = { ...(after === undefined ? {} : { after }), ...(count === undefined ? {} : { count }) };
        const options = z.strictObject(previewOptions).safeParse(withPlainNumbers(given), READABLE);
        const checked = checkSpec(context.spec, { id: UNSAVED_ID, ...spec, task: UNSAVED_ID });
        if (unknown.length > 0 || !options.success || !checked.ok) {
          const ownErrors = checked.ok ? [] : checked.errors.filter(({ path }) => !unknown.includes(path));
          throw invalid('The preview', [
            ...unknown.map((path) => ({ path, message: 'is not a known field' })),
            ...ownErrors,
            ...(options.success ? [] : fieldErrors(options.error.issues)),
          ]);
        }
        const nowMs = system.nowMs();
        const afterMs = options.data.after === null ? nowMs - 1 : (parseInstant(options.data.after) ?? nowMs);
        const next = await dueTimesBefore(
          checked.spec,
          originAt(checked.spec, nowMs),
          afterMs,
          Number.POSITIVE_INFINITY,
          options.data.count,
        );
        return ok({ next: next.map(formatInstant) });
      },
    }),
  ];
}

function previewSchema(namespace: string) {
  const { id, schedule, start, end, exclude, jitter } = createSpecFields(namespace);
  return z
    .strictObject({ schedule, id: id.optional(), start, end, exclude, jitter, ...previewOptions })
    .describe('The fields of a spec that say when it runs. An id matters for spread phases, H in crons, and jitter.');
}
