import { argsRepr, type Json, kwargsRepr, toPythonJson } from './json.ts';
import {
  BadSignature,
  type JsonObject,
  listOption,
  type Options,
  type OptionValue,
  textOption,
  writeOption,
} from './signature.ts';
import { celeryTime } from './task-message.ts';

/** A message that applying a signature makes. */
export interface SignatureMessage {
  readonly taskId: string;
  readonly task: string;
  readonly queue: string;
  /** 0 (most urgent) to 9. */
  readonly priority: number;
  readonly deliveryTag: string;
  /** Not to be run before; null: at once. ms since epoch. */
  readonly etaMs: number | null;
  readonly envelope: string;
}

/** A task that is sent with Celery's options (celery/app/task.py, apply_async). */
export interface Call {
  readonly task: string;
  readonly args: readonly Json[];
  readonly kwargs: JsonObject;
  readonly options: Options;
}

interface Sender {
  readonly origin: string;
  readonly replyTo: string;
  readonly defaultQueue: string;
  readonly nowMs: number;
  readonly parent: { readonly id: string; readonly rootId: string } | null;
  newId(): string;
}

/** The kombu envelope that Celery's `apply_async` writes for a task with these options. */
export function signatureMessage({ task, args, kwargs, options }: Call, sender: Sender): SignatureMessage {
  const { nowMs, parent } = sender;
  const id = textOption(options, 'task_id') ?? sender.newId();
  const queue = queueOf(options, sender.defaultQueue);
  const priority = priorityOf(options.priority);
  const expires = expiryOf(options.expires, nowMs);
  const stampNames = Array.isArray(options.stamped_headers) ? options.stamped_headers : null;
  const stamps: { [name: string]: Json } = {};
  for (const name of stampNames ?? []) stamps[String(name)] = writeOption(options[String(name)]);
  const embed = {
    callbacks: listOrNull(options, 'link'),
    errbacks: listOrNull(options, 'link_error'),
    chain: options.chain === undefined ? null : writeOption(options.chain),
    chord: writeOption(options.chord),
  };
  const eta = etaOf(options, nowMs);
  const deliveryTag = sender.newId();
  const envelope = toPythonJson({
    body: Buffer.from(toPythonJson([args, kwargs, embed])).toString('base64'),
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers: {
      lang: 'py',
      task,
      id,
      shadow: textOption(options, 'shadow'),
      eta: eta === null ? null : eta.text,
      expires: expires === null ? null : expires.text,
      group: textOption(options, 'group_id'),
      group_index: numberOption(options.group_index),
      retries: numberOption(options.retries) ?? 0,
      timelimit: [numberOption(options.time_limit), numberOption(options.soft_time_limit)],
      root_id: textOption(options, 'root_id') ?? parent?.rootId ?? id,
      parent_id: textOption(options, 'parent_id') ?? parent?.id ?? null,
      argsrepr: argsRepr(args),
      kwargsrepr: kwargsRepr(kwargs),
      origin: sender.origin,
      ignore_result: options.ignore_result === true,
      replaced_task_nesting: numberOption(options.replaced_task_nesting) ?? 0,
      stamped_headers: stampNames,
      stamps,
      ...headersOption(options.headers),
    },
    properties: {
      correlation_id: id,
      reply_to: textOption(options, 'reply_to') ?? sender.replyTo,
      delivery_mode: 2,
      ...(expires === null ? {} : { expiration: String(Math.max(0, Math.round(expires.inMs))) }),
      delivery_info: { exchange: '', routing_key: queue },
      priority,
      body_encoding: 'base64',
      delivery_tag: deliveryTag,
    },
  });
  return { taskId: id, task, queue, priority, deliveryTag, etaMs: eta === null ? null : eta.atMs, envelope };
}

/** A direct exchange is the queue of that name, unless a routing key says more. */
function queueOf(options: Options, defaultQueue: string): string {
  return textOption(options, 'queue') ?? textOption(options, 'routing_key') ?? defaultQueue;
}

/** As kombu reads a priority: a whole number, cut to 0 to 9. */
function priorityOf(value: OptionValue): number {
  const number = Math.trunc(Number(value ?? 0));
  return Number.isFinite(number) ? Math.min(9, Math.max(0, number)) : 0;
}

function numberOption(value: OptionValue): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

function listOrNull(options: Options, name: string): Json {
  const value = options[name];
  return value === undefined || value === null ? null : listOption(options, name).map(writeOption);
}

interface Instant {
  readonly text: string;
  /** ms since epoch. */
  readonly atMs: number;
}

function etaOf(options: Options, nowMs: number): Instant | null {
  const countdown = Number(options.countdown ?? 0);
  if (Number.isFinite(countdown) && countdown !== 0) return inSeconds(countdown, nowMs);
  return instantOf(options.eta);
}

function expiryOf(value: OptionValue, nowMs: number): { readonly text: string; readonly inMs: number } | null {
  const instant = typeof value === 'number' && Number.isFinite(value) ? inSeconds(value, nowMs) : instantOf(value);
  return instant === null ? null : { text: instant.text, inMs: instant.atMs - nowMs };
}

function inSeconds(seconds: number, nowMs: number): Instant {
  const atMs = nowMs + seconds * 1_000;
  return { text: celeryTime(atMs), atMs };
}

/** Without an offset it is UTC, to Celery. Throws BadSignature. */
function instantOf(value: OptionValue): Instant | null {
  if (value === undefined || value === null) return null;
  const text = typeof value === 'string' ? value : '';
  const atMs = Date.parse(/(?:Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`);
  if (Number.isNaN(atMs)) throw new BadSignature(`${JSON.stringify(value)} is no time.`);
  return { text, atMs };
}

function headersOption(value: OptionValue): JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
}
