import { argsRepr, type Json, kwargsRepr, parseJson, toPythonJson } from './json.ts';
import type { RetryChanges } from './task-errors.ts';
import { celeryTime } from './task-message.ts';

export interface RetryMessage {
  /** How often it was sent again, this time included. */
  readonly retries: number;
  /** ms since epoch. */
  readonly etaMs: number;
  /** The task that sends it: itself, as Celery writes it. */
  readonly parentId: string;
  readonly tag: string;
  readonly changes: RetryChanges;
}

/**
 * The message of a task that is to run again (celery/app/task.py, signature_from_request): what it was, its workflow and its
 * headers included, but for one retry more, an eta, and what the retry changes.
 */
export function retryEnvelope(envelope: string, { retries, etaMs, parentId, tag, changes }: RetryMessage): string {
  const message = object(parseJson(envelope));
  const headers = object(message.headers);
  const properties = object(message.properties);
  const info = object(properties.delivery_info);
  const { args, kwargs, queue, priority, expiresMs, timeLimit, softTimeLimit } = changes;
  const body = args === undefined && kwargs === undefined ? message.body : changedBody(message, changes);
  const [hard = null, soft = null] = Array.isArray(headers.timelimit) ? headers.timelimit : [];
  const { expiration, ...kept } = properties;
  return toPythonJson({
    ...message,
    body: body ?? null,
    headers: {
      ...headers,
      eta: celeryTime(etaMs),
      retries,
      parent_id: parentId,
      timelimit: [timeLimit === undefined ? hard : timeLimit, softTimeLimit === undefined ? soft : softTimeLimit],
      ...(expiresMs === undefined ? {} : { expires: expiresMs === null ? null : celeryTime(expiresMs) }),
      ...(args === undefined ? {} : { argsrepr: argsRepr(args) }),
      ...(kwargs === undefined ? {} : { kwargsrepr: kwargsRepr(kwargs) }),
      ...changes.headers,
    },
    properties: {
      ...kept,
      ...(expiresMs === undefined && expiration !== undefined ? { expiration } : {}),
      delivery_info: queue === undefined ? info : { exchange: '', routing_key: queue },
      ...(priority === undefined ? {} : { priority }),
      delivery_tag: tag,
    },
  });
}

/** The body with other args or kwargs. Only of messages whose body is base64 of plain JSON, which is what Celery writes. */
function changedBody(message: JsonObject, { args, kwargs }: RetryChanges): string {
  const text = Buffer.from(String(message.body), 'base64').toString('utf8');
  const [oldArgs = [], oldKwargs = {}, embed = null] = list(parseJson(text));
  return Buffer.from(toPythonJson([args ?? oldArgs, kwargs ?? oldKwargs, embed])).toString('base64');
}

type JsonObject = { readonly [key: string]: Json };

function object(value: Json | undefined): JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
}

function list(value: Json): readonly Json[] {
  return Array.isArray(value) ? value : [];
}
