import { messageOf } from './errors.ts';
import { type Json, parseJson, toPythonJson } from './json.ts';

/**
 * Celery's remote control on the wire (kombu/pidbox.py): requests are broadcast, each addressed node answers into a
 * list of the client's own.
 */
export const PIDBOX = {
  exchange: 'celery.pidbox',
  replyExchange: 'reply.celery.pidbox',
} as const;

type JsonObject = { readonly [key: string]: Json };

export interface ControlRequest {
  readonly method: string;
  readonly arguments: JsonObject;
  /** Names of the nodes that are meant; null: see `pattern`. */
  readonly destination: readonly Json[] | null;
  /** Which names are meant, and how it is written: `glob` or `pcre`; null: all. */
  readonly pattern: string | null;
  readonly matcher: string | null;
  /** Where to answer; null: nowhere. */
  readonly replyTo: { readonly exchange: string; readonly routingKey: string } | null;
  readonly ticket: Json;
  /** The sender's logical clock. */
  readonly clock: number;
}

/** Reads a broadcast request. Throws an Error that says why it is none. */
export function readControlRequest(payload: string): ControlRequest {
  const { headers, body } = readBroadcast(payload);
  const { method, destination, pattern, matcher } = body;
  if (typeof method !== 'string') throw new Error('it names no method');
  const replyTo = isObject(body.reply_to) ? body.reply_to : null;
  return {
    method,
    arguments: isObject(body.arguments) ? body.arguments : {},
    destination: Array.isArray(destination) && destination.length > 0 ? destination : null,
    pattern: typeof pattern === 'string' && pattern !== '' ? pattern : null,
    matcher: typeof matcher === 'string' && matcher !== '' ? matcher : null,
    replyTo:
      typeof replyTo?.exchange === 'string' && typeof replyTo.routing_key === 'string'
        ? { exchange: replyTo.exchange, routingKey: replyTo.routing_key }
        : null,
    ticket: body.ticket ?? null,
    clock: clockOf(headers),
  };
}

/** Whether the node of this name is meant. Throws SyntaxError for a pattern that cannot be read. */
export function isAddressedTo(request: ControlRequest, node: string): boolean {
  const { destination, pattern, matcher } = request;
  if (destination !== null) return destination.includes(node);
  if (pattern === null || matcher === null) return true;
  return matcher === 'pcre' ? new RegExp(`^(?:${pattern})`).test(node) : globPattern(pattern).test(node);
}

export interface Broadcast {
  readonly method: string;
  readonly arguments: JsonObject;
  /** Names of the nodes that are meant; null: all. */
  readonly destination: readonly string[] | null;
  /** Where to answer, and until when that makes sense; null: nobody is to answer. */
  readonly reply: {
    readonly ticket: string;
    readonly routingKey: string;
    /** ms since epoch. */
    readonly expiresMs: number;
  } | null;
  /** The sender's logical clock. */
  readonly clock: number;
  /** Different for each message. */
  readonly deliveryTag: string;
}

/** A request as `Control.broadcast` publishes it. */
export function controlRequest(request: Broadcast): string {
  const { method, destination, reply, clock, deliveryTag } = request;
  const body = { method, arguments: request.arguments, destination, pattern: null, matcher: null };
  return controlEnvelope({
    body:
      reply === null
        ? body
        : {
            ...body,
            ticket: reply.ticket,
            reply_to: { exchange: PIDBOX.replyExchange, routing_key: reply.routingKey },
          },
    headers: { clock, expires: reply === null ? 0 : reply.expiresMs / 1_000 },
    mode: 2,
    exchange: PIDBOX.exchange,
    routingKey: '',
    deliveryTag,
  });
}

/** What a node answered. */
export interface ControlAnswer {
  readonly node: string;
  readonly reply: Json;
  readonly ticket: Json;
  /** The node's logical clock. */
  readonly clock: number;
}

/** Reads an answer. Throws an Error that says why it is none. */
export function readControlReply(payload: string): ControlAnswer {
  const { headers, body } = readBroadcast(payload);
  const [answer] = Object.entries(body);
  if (answer === undefined) throw new Error('it names no node');
  const [node, reply] = answer;
  return { node, reply, ticket: headers.ticket ?? null, clock: clockOf(headers) };
}

/** The headers and the body of what kombu broadcasts. Throws an Error that says what is wrong with it. */
export function readBroadcast(payload: string): { readonly headers: JsonObject; readonly body: JsonObject } {
  const envelope = object(parsed(payload), 'it is no JSON object');
  const body = object(parsed(bodyText(envelope)), 'its body is no JSON object');
  return { headers: isObject(envelope.headers) ? envelope.headers : {}, body };
}

function clockOf(headers: JsonObject): number {
  return typeof headers.clock === 'number' ? headers.clock : 0;
}

/** A node's answer, to be pushed to the lists that are bound to where `request` wants it. */
export function controlReply(
  request: Pick<ControlRequest, 'ticket'> & { readonly replyTo: NonNullable<ControlRequest['replyTo']> },
  answer: { readonly node: string; readonly reply: Json; readonly clock: number; readonly deliveryTag: string },
): string {
  const { exchange, routingKey } = request.replyTo;
  return controlEnvelope({
    body: { [answer.node]: answer.reply },
    headers: { ticket: request.ticket, clock: answer.clock },
    mode: 1,
    exchange,
    routingKey,
    deliveryTag: answer.deliveryTag,
  });
}

/** Lamport's clock, as Celery's nodes keep it (kombu/clocks.py). */
export class LogicalClock {
  #value = 0;

  get value(): number {
    return this.#value;
  }

  /** The time of something that happens here. */
  forward(): number {
    this.#value += 1;
    return this.#value;
  }

  /** Something was heard of that happened at this time elsewhere. */
  adjust(other: number): void {
    this.#value = Math.max(this.#value, Number.isSafeInteger(other) ? other : 0) + 1;
  }
}

function controlEnvelope(message: {
  readonly body: Json;
  readonly headers: JsonObject;
  readonly mode: number;
  readonly exchange: string;
  readonly routingKey: string;
  readonly deliveryTag: string;
}): string {
  return toPythonJson({
    body: Buffer.from(toPythonJson(message.body)).toString('base64'),
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers: message.headers,
    properties: {
      delivery_mode: message.mode,
      delivery_info: { exchange: message.exchange, routing_key: message.routingKey },
      priority: 0,
      body_encoding: 'base64',
      delivery_tag: message.deliveryTag,
    },
  });
}

function bodyText(envelope: JsonObject): string {
  const { body, properties } = envelope;
  if (envelope['content-type'] !== 'application/json') throw new Error('its content type is not application/json');
  if (typeof body !== 'string') throw new Error('its body is no text');
  const isBase64 = isObject(properties) && properties.body_encoding === 'base64';
  return isBase64 ? Buffer.from(body, 'base64').toString('utf8') : body;
}

function parsed(text: string): Json {
  try {
    return parseJson(text);
  } catch (error) {
    throw new Error(`it is not JSON (${messageOf(error)})`, { cause: error });
  }
}

/** As Python's fnmatch reads it. */
function globPattern(glob: string): RegExp {
  const source = glob.replace(/\[!?\]?[^\]]*\]|[\s\S]/g, (token) => {
    if (token === '*') return '[\\s\\S]*';
    if (token === '?') return '[\\s\\S]';
    if (token.length > 1) return token.replace(/\\/g, '\\\\').replace(/^\[!/, '[^');
    return token.replace(/[.*+?^${}()|[\]\\/]/, '\\$&');
  });
  return new RegExp(`^${source}$`);
}

function object(value: Json, reason: string): JsonObject {
  if (isObject(value)) return value;
  throw new Error(reason);
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
