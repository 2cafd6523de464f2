import { z } from 'zod';
import { type DeadLetter, LETTER_KINDS } from '../../lua/dead-letters.ts';
import { type DeadLetters, type LetterPosition, messageOf, positionOf } from '../../registry/dead-letters.ts';
import { fieldErrors, READABLE } from '../../schedule/field-errors.ts';
import { formatInstant } from '../../schedule/instant.ts';
import { ok } from './answer.ts';
import { invalid } from './problem.ts';
import { instantField, optionalInstant } from './resource.ts';
import { type Call, integerParameter, type Route, route } from './route.ts';
import { readObject } from './schedules.ts';

const MAX_IDS = 1_000;

const kind = z
  .enum(LETTER_KINDS)
  .describe('A run that a schedule could not send, a parked message, or a message that no worker could use.');

const letterQuery = z.strictObject({
  limit: integerParameter('Most dead letters on the page.', { min: 1, max: 1_000, default: 100 }),
  cursor: z.string().optional().describe('As the page before told.'),
  kind: kind.optional().describe('Only those of this kind.'),
});

const letterList = {
  name: 'DeadLetterList',
  schema: z.strictObject({
    dead_letters: z.array(
      z.strictObject({
        id: z.string(),
        at: instantField('When it was given up'),
        kind,
        schedule: z.string().nullable(),
        due: instantField('When the run was due').nullable(),
        queue: z.string().nullable().describe('The one that a worker took it from.'),
        task: z.string().nullable(),
        task_id: z.string().nullable(),
        reason: z.string(),
        data: z.string().describe('The message, or the definition of the schedule, as it was found.'),
      }),
    ),
    cursor: z.string().nullable(),
  }),
};

const selection = z
  .union(
    [
      z.strictObject({ ids: z.array(z.string()).min(1).max(MAX_IDS) }),
      z.strictObject({ all: z.literal(true), kind: kind.optional() }),
    ],
    { error: `must hold either ids, 1 to ${MAX_IDS} of them, or all: true, with a kind or without` },
  )
  .describe('These dead letters, or all of a kind, or simply all.');

const body = { 'application/json': { name: 'DeadLetterSelection', schema: selection } };

const replaySummary = {
  name: 'ReplaySummary',
  schema: z.strictObject({
    replayed: z.int(),
    failed: z
      .array(z.strictObject({ id: z.string(), reason: z.string() }))
      .describe('What stays where it is; the first 1,000.'),
  }),
};

const deleted = { name: 'DeletedLetters', schema: z.strictObject({ deleted: z.int() }) };

/** What was given up, with why: list, send again, forget. */
export function deadLetterRoutes(letters: DeadLetters): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/dead-letters',
      summary: 'What was given up, newest first',
      query: letterQuery,
      answers: { 200: letterList },
      problems: [400],
      async answer({ query }) {
        const after = query.cursor === undefined ? null : parseCursor(query.cursor);
        const page = await letters.list(query.limit, query.kind ?? null, after);
        return ok({
          dead_letters: page.letters.map(letterJson),
          cursor: page.next === null ? null : `${page.next.stream}:${page.next.entry}`,
        });
      },
    }),
    route({
      method: 'POST',
      path: '/v1/dead-letters/replay',
      summary: 'Send again what was given up, each once; what cannot be sent stays',
      bodies: body,
      answers: { 200: replaySummary },
      problems: [413, 415],
      async answer(call) {
        const selected = await readSelection(call);
        const { replayed, failed } =
          'ids' in selected ? await letters.replay(selected.ids) : await letters.replayAll(selected.kind ?? null);
        return ok({ replayed, failed: failed.map(({ id, reason }) => ({ id, reason })) });
      },
    }),
    route({
      method: 'POST',
      path: '/v1/dead-letters/delete',
      summary: 'Forget what was given up',
      bodies: body,
      answers: { 200: deleted },
      problems: [413, 415],
      async answer(call) {
        const selected = await readSelection(call);
        const count =
          'ids' in selected ? await letters.remove(selected.ids) : await letters.removeAll(selected.kind ?? null);
        return ok({ deleted: count });
      },
    }),
  ];
}

function letterJson(letter: DeadLetter) {
  const { id, atMs, kind, schedule, dueMs, queue, reason, data } = letter;
  const message = kind === 'schedule' ? null : messageOf(data);
  return {
    id,
    at: formatInstant(atMs),
    kind,
    schedule,
    due: optionalInstant(dueMs),
    queue: queue ?? message?.routingKey ?? null,
    task: message?.task ?? null,
    task_id: message?.taskId ?? null,
    reason,
    data: data.toString(),
  };
}

async function readSelection(call: Call<unknown>): Promise<z.output<typeof selection>> {
  const result = selection.safeParse(await readObject(call), READABLE);
  if (result.success) return result.data;
  throw invalid('The body', fieldErrors(result.error.issues));
}

function parseCursor(cursor: string): LetterPosition {
  const position = positionOf(cursor);
  if (position === null) throw invalid('The query', [{ path: 'cursor', message: 'is not one that a page told' }]);
  return position;
}
