import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Json } from '../../protocol/json.ts';
import { uuidOf } from '../../protocol/message.ts';
import { patchSchedule } from '../../registry/patch-schedule.ts';
import type { Registry } from '../../registry/registry.ts';
import { isObject } from '../../schedule/fields.ts';
import {
  checkSpec,
  createSpecFields,
  MAX_SPEC_BYTES,
  type ScheduleSpec,
  type SpecSchema,
} from '../../schedule/spec.ts';
import { type Answer, jsonAnswer, noContent } from './answer.ts';
import { invalid, Problem } from './problem.ts';
import { resourceJson } from './resource.ts';
import { type Call, type Named, type Route, route } from './route.ts';
import { importSchedules, importSummary, NDJSON } from './schedule-import.ts';
import type { System } from './system.ts';

/** What the routes about schedules share. */
export interface ScheduleContext {
  readonly registry: Registry;
  readonly system: System;
  readonly namespace: string;
  readonly spec: SpecSchema;
  /** The schedule as it is answered. */
  readonly resource: Named;
}

const JSON_BODY = 'application/json';

const patch: Named = {
  name: 'SchedulePatch',
  schema: z
    .record(z.string(), z.unknown())
    .describe('JSON merge patch (RFC 7396) on the spec: null brings the default back.'),
};

/** One schedule: create, replace, read, change, delete. */
export function scheduleRoutes(context: ScheduleContext): Route[] {
  const { registry, namespace, spec, resource } = context;
  const fields = createSpecFields(namespace);
  const optionalId = { ...fields, id: fields.id.optional() };
  return [
    route({
      method: 'POST',
      path: '/v1/schedules',
      summary: 'Create one schedule (JSON), or create and update any number (NDJSON, one spec a line)',
      bodies: {
        [JSON_BODY]: {
          name: 'NewSchedule',
          schema: z.strictObject(optionalId).describe('Without an id it is given a UUID.'),
        },
        [NDJSON]: { name: 'ScheduleSpec', schema: spec },
      },
      answers: { 200: importSummary, 201: resource },
      problems: [413, 415],
      answer: (call) =>
        call.mediaType === NDJSON ? importSchedules(context, call.readChunks()) : create(context, call),
    }),
    route({
      method: 'PUT',
      path: '/v1/schedules/{id}',
      summary: 'Create or replace a schedule',
      bodies: {
        [JSON_BODY]: {
          name: 'ScheduleReplacement',
          schema: z.strictObject(optionalId).describe('An id must be the one in the path.'),
        },
      },
      answers: { 200: resource, 201: resource },
      problems: [400, 413, 415],
      async answer(call) {
        const body = await readObject(call);
        if (body.id !== undefined && body.id !== call.id)
          throw invalid('The spec', [{ path: 'id', message: 'must be the one in the path, or be left out' }]);
        const checked = check(context, { ...body, id: call.id });
        const [outcome] = await registry.put([checked]);
        return show(context, call.id, outcome === 'created' ? 201 : 200);
      },
    }),
    route({
      method: 'GET',
      path: '/v1/schedules/{id}',
      summary: 'Read a schedule',
      answers: { 200: resource },
      problems: [404],
      answer: (call) => show(context, call.id, 200),
    }),
    route({
      method: 'PATCH',
      path: '/v1/schedules/{id}',
      summary: 'Change some fields of a schedule',
      bodies: { 'application/merge-patch+json': patch, [JSON_BODY]: patch },
      answers: { 200: resource },
      problems: [400, 404, 409, 413, 415],
      async answer(call) {
        const body = await readObject(call);
        if (body.id !== undefined && body.id !== call.id)
          throw invalid('The patch', [{ path: 'id', message: 'cannot be changed' }]);
        const outcome = await patchSchedule(registry, spec, call.id, body);
        switch (outcome.kind) {
          case 'done':
            return show(context, call.id, 200);
          case 'missing':
            throw missing(call.id);
          case 'too large':
            throw new Problem(413, `The patched spec is larger than ${MAX_SPEC_BYTES} bytes.`);
          case 'invalid':
            throw invalid('The patched spec', outcome.errors);
          case 'contended':
            throw new Problem(
              409,
              `The schedule "${call.id}" was changed by others ${outcome.attempts} times in a row. Send the patch again.`,
            );
        }
      },
    }),
    route({
      method: 'DELETE',
      path: '/v1/schedules/{id}',
      summary: 'Delete a schedule; what is in a queue already is not taken back',
      answers: { 204: null },
      problems: [404],
      async answer({ id }) {
        const [existed] = await registry.remove([id]);
        if (!existed) throw missing(id);
        return noContent();
      },
    }),
  ];
}

export function missing(id: string): Problem {
  return new Problem(404, `There is no schedule "${id}".`);
}

/** The schedule as it is now. Throws a 404 Problem. */
export async function show({ registry, system }: ScheduleContext, id: string, status: number): Promise<Answer> {
  const [stored] = await registry.get([id]);
  if (stored == null) throw missing(id);
  const headers = status === 201 ? { location: `/v1/schedules/${encodeURIComponent(id)}` } : {};
  return jsonAnswer(status, resourceJson(stored, system), headers);
}

async function create(context: ScheduleContext, call: Call<unknown>): Promise<Answer> {
  const body = await readObject(call);
  // A repetition of the request must mean the same schedule.
  const givenId = call.requestId === null ? randomUUID() : uuidOf(`${context.namespace}:request:${call.requestId}`);
  const spec = check(context, body.id === undefined ? { ...body, id: givenId } : body);
  const outcome = await context.registry.create(spec, call.requestId ?? randomUUID());
  if (outcome === 'refused')
    throw new Problem(409, `There is a schedule "${spec.id}" already. PUT replaces it, PATCH changes it.`);
  return show(context, spec.id, 201);
}

type JsonObject = { readonly [key: string]: Json };

export async function readObject(call: Call<unknown>): Promise<JsonObject> {
  const body = await call.readJson();
  if (isObject(body)) return body;
  throw invalid('The body', [{ path: '', message: body === undefined ? 'is missing' : 'must be a JSON object' }]);
}

function check(context: ScheduleContext, value: Json): ScheduleSpec {
  const result = checkSpec(context.spec, value);
  if (result.ok) return result.spec;
  throw invalid('The spec', result.errors);
}
