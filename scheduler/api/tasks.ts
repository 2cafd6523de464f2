import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { toJson } from '../../protocol/json.ts';
import type { Sent, TaskState, Tasks } from '../../registry/tasks.ts';
import { formatInstant } from '../../schedule/instant.ts';
import { checkTask, createTaskSchema } from '../../schedule/task-spec.ts';
import { type Answer, jsonAnswer, noContent } from './answer.ts';
import { invalid, Problem } from './problem.ts';
import { type Named, type Route, route } from './route.ts';
import { NDJSON } from './schedule-import.ts';
import { readObject } from './schedules.ts';
import { sendLines, sendSummary, whyNotSent } from './task-import.ts';

const JSON_BODY = 'application/json';

const accepted: Named = { name: 'AcceptedTask', schema: z.strictObject({ task_id: z.string() }) };

const state: Named = {
  name: 'TaskState',
  schema: z.strictObject({
    task_id: z.string(),
    state: z
      .string()
      .describe(
        "SCHEDULED while it is parked until its eta; else as Celery's result record says; PENDING: nothing is known.",
      ),
    eta: z.string().nullable().describe('When it is to run, while it is parked.'),
    result: z.unknown().describe('What it returned, or the exception as Celery writes it.'),
    traceback: z.string().nullable(),
    date_done: z.string().nullable(),
  }),
};

/** Single tasks: send, look at, revoke. */
export function taskRoutes(tasks: Tasks, namespace: string): Route[] {
  const schema = createTaskSchema(namespace);
  const body: Named = { name: 'Task', schema };
  return [
    route({
      method: 'POST',
      path: '/v1/tasks',
      summary: 'Send one task now or later (JSON), or any number (NDJSON, one task a line)',
      bodies: { [JSON_BODY]: body, [NDJSON]: body },
      answers: { 200: sendSummary, 202: accepted },
      problems: [413, 415, 429],
      async answer(call) {
        const requestId = call.requestId ?? randomUUID();
        if (call.mediaType === NDJSON) return sendLines({ tasks, schema, requestId }, call.readChunks());
        const checked = checkTask(schema, await readObject(call));
        if (!checked.ok) throw invalid('The task', checked.errors);
        const [sent] = await tasks.send([{ task: checked.task, position: 0 }], requestId);
        return answerSent(sent!, checked.task.queue);
      },
    }),
    route({
      method: 'GET',
      path: '/v1/tasks/{id}',
      summary: 'The state of a task, its result or its eta',
      answers: { 200: state },
      problems: [],
      answer: async ({ id }) => jsonAnswer(200, stateJson(await tasks.state(id))),
    }),
    route({
      method: 'DELETE',
      path: '/v1/tasks/{id}',
      summary: 'Revoke a task: 204 when it was parked and is revoked now, 202 when the workers were told to drop it',
      answers: { 202: accepted, 204: null },
      problems: [],
      async answer({ id }) {
        const parked = await tasks.revoke([id]);
        return parked.length > 0 ? noContent() : jsonAnswer(202, toJson({ task_id: id }));
      },
    }),
  ];
}

function answerSent({ taskId, outcome }: Sent, queue: string): Answer {
  if (outcome === 'taken') {
    return jsonAnswer(202, toJson({ task_id: taskId }), { location: `/v1/tasks/${encodeURIComponent(taskId)}` });
  }
  if (outcome === 'not a list') throw new Problem(409, whyNotSent(outcome, queue));
  throw new Problem(429, whyNotSent(outcome, queue), { headers: { 'retry-after': '1' } });
}

function stateJson({ taskId, state, etaMs, result, traceback, doneAtMs }: TaskState): string {
  return toJson({
    task_id: taskId,
    state,
    eta: etaMs === null ? null : formatInstant(etaMs),
    result,
    traceback,
    date_done: doneAtMs === null ? null : formatInstant(doneAtMs),
  });
}
