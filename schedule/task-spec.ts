import { z } from 'zod';
import type { Json } from '../protocol/json.ts';
import { type FieldError, fieldErrors, READABLE } from './field-errors.ts';
import { duration, instant, isObject, positiveDuration, printableName } from './fields.ts';
import { createSpecFields, decodeUtf8, MAX_SPEC_BYTES, parseJsonText, withPlainNumbers } from './spec.ts';

/**
 * What a user hands in to have a task run once, now or later. Nothing is coerced, unknown fields are refused, defaults
 * are filled. The namespace's own keys cannot be queues.
 */
export function createTaskSchema(namespace: string) {
  const fields = createSpecFields(namespace);
  const { priority, time_limit, soft_time_limit, headers } = fields.options.unwrap().shape;
  const options = z
    .strictObject({
      priority,
      expires: z
        .union([positiveDuration('s from now'), instant('or a time')], {
          error: 'must be a number of seconds above 0, an ISO 8601 time, or null',
        })
        .nullable()
        .default(null)
        .describe('After this the task is not run any more.'),
      time_limit,
      soft_time_limit,
      ignore_result: z.boolean().default(false),
      headers,
      shadow: printableName('Name to show in logs and monitors instead of the task: 1 to 200 bytes; null: none.')
        .nullable()
        .default(null),
      task_id: printableName('Id of the task: 1 to 200 bytes without control characters; null: a new one.')
        .nullable()
        .default(null),
    })
    .check(({ value, issues }) => {
      if (value.time_limit === null || value.soft_time_limit === null) return;
      if (value.soft_time_limit <= value.time_limit) return;
      const message = 'must not be above time_limit';
      issues.push({ code: 'custom', path: ['soft_time_limit'], message, input: value.soft_time_limit });
    });
  return z
    .strictObject({
      task: fields.task,
      args: fields.args,
      kwargs: fields.kwargs,
      queue: fields.queue,
      eta: instant('Not to be run before this time.').nullable().default(null),
      countdown: duration('Not to be run before this many s from now.').min(0).nullable().default(null),
      options: options.prefault({}),
    })
    .check(({ value, issues }) => {
      if (value.eta === null || value.countdown === null) return;
      issues.push({ code: 'custom', path: ['countdown'], message: 'excludes eta: give one of them', input: value });
    });
}

export type TaskSchema = ReturnType<typeof createTaskSchema>;

/** A checked task with every default filled in. */
export type TaskSpec = z.output<TaskSchema>;

export type TaskResult =
  | { readonly ok: true; readonly task: TaskSpec }
  /** `id` is the one given; null where there is none. */
  | { readonly ok: false; readonly id: string | null; readonly errors: readonly FieldError[] };

/** Checks a task that arrived as JSON, given as it came over the wire. */
export function parseTask(schema: TaskSchema, bytes: Uint8Array): TaskResult {
  const refusal = (message: string): TaskResult => ({ ok: false, id: null, errors: [{ path: '', message }] });
  if (bytes.length > MAX_SPEC_BYTES) return refusal(`is larger than ${MAX_SPEC_BYTES} bytes`);
  const text = decodeUtf8(bytes);
  if (text === null) return refusal('is not valid UTF-8');
  const parsed = parseJsonText(text);
  return 'message' in parsed ? refusal(parsed.message) : checkTask(schema, parsed.value);
}

/** Checks a task that has been parsed. Its JSON must not be longer than MAX_SPEC_BYTES. */
export function checkTask(schema: TaskSchema, value: Json): TaskResult {
  const result = schema.safeParse(withPlainNumbers(value), READABLE);
  if (!result.success) return { ok: false, id: idOf(value), errors: fieldErrors(result.error.issues) };
  return { ok: true, task: result.data };
}

function idOf(value: Json): string | null {
  if (!isObject(value) || !isObject(value.options)) return null;
  const { task_id } = value.options;
  return typeof task_id === 'string' ? task_id.slice(0, 200) : null;
}
