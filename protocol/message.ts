import { createHash } from 'node:crypto';
import { argsRepr, asciiJsonString, type Json, kwargsRepr, toPythonJson } from './json.ts';

/**
 * The Celery message that a schedule sends (message protocol 2 in a kombu envelope, celery/app/amqp.py as_task_v2 and
 * kombu/transport/virtual/base.py), cut where a value changes from one occurrence to the next. Redis joins the pieces;
 * it never computes JSON or base64. In order, with what goes between them in <>:
 *
 *   0 <body> 1 <task id> 2 <expires> 3 <task id> 4 <argsrepr> 5 <kwargsrepr> 6 <headers> 7 <schedule id> 8 <due>
 *   9 <task id> 10 <expiration> 11 <delivery tag> 12
 */
export type MessagePieces = readonly string[];

export interface MessageOptions {
  readonly task: string;
  readonly queue: string;
  /** 0 (most urgent) to 9. */
  readonly priority: number;
  /** Hard and soft limit, s. */
  readonly timeLimit: number | null;
  readonly softTimeLimit: number | null;
  readonly ignoreResult: boolean;
  /** What Celery calls the sending node. */
  readonly origin: string;
  /** Celery's "thread oid" of the producer, UUID-shaped; the Redis result backend does not read it. */
  readonly replyTo: string;
}

/** Base64 begins anew every three bytes, so the body's changing part is padded with blanks, which JSON allows, to a multiple of 3. */
const BODY_TAIL = Buffer.from(', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]').toString(
  'base64',
);

export function messagePieces(options: MessageOptions): MessagePieces {
  const json = asciiJsonString;
  const limits = toPythonJson([options.timeLimit, options.softTimeLimit]);
  return [
    '{"body": "',
    `${BODY_TAIL}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": ${json(options.task)}, "id": "`,
    '", "shadow": null, "eta": null, "expires": ',
    `, "group": null, "group_index": null, "retries": 0, "timelimit": ${limits}, "root_id": "`,
    '", "parent_id": null, "argsrepr": "',
    '", "kwargsrepr": "',
    `", "origin": ${json(options.origin)}, "ignore_result": ${options.ignoreResult}`,
    ', "ringbeat": {"schedule": "',
    '", "due": ',
    ', "run": 0, "attempt": 1}}, "properties": {"correlation_id": "',
    `", "reply_to": ${json(options.replyTo)}, "delivery_mode": 2, `,
    `"delivery_info": {"exchange": "", "routing_key": ${json(options.queue)}}, "priority": ${options.priority}, "body_encoding": "base64", "delivery_tag": "`,
    '"}}',
  ];
}

/** The changing part of the body, `[args, kwargs` in base64; it ends on a 3-byte boundary. */
export function encodeBody(args: readonly Json[], kwargs: { readonly [key: string]: Json }): string {
  const text = `[${toPythonJson(args)}, ${toPythonJson(kwargs)}`;
  return Buffer.from(text.padEnd(Math.ceil(text.length / 3) * 3)).toString('base64');
}

/** The JSON text `[args, kwargs]` of what `encodeBody` made. */
export function decodeBody(body: string): string {
  return `${Buffer.from(body, 'base64').toString('latin1').trimEnd()}]`;
}

/** `argsrepr` and `kwargsrepr` as they stand inside a JSON string. */
export function escapedReprs(
  args: readonly Json[],
  kwargs: { readonly [key: string]: Json },
): readonly [string, string] {
  return [asciiJsonString(argsRepr(args)).slice(1, -1), asciiJsonString(kwargsRepr(kwargs)).slice(1, -1)];
}

/** Custom headers as they stand behind Celery's own: `, "x-tenant": "acme"`, or nothing. */
export function headersPiece(headers: { readonly [key: string]: Json }): string {
  const json = toPythonJson(headers);
  return json === '{}' ? '' : `, ${json.slice(1, -1)}`;
}

/** A UUID (version 8) that stands for a name: the same name always gives the same one. */
export function uuidOf(name: string): string {
  const hex = createHash('sha1').update(name).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
