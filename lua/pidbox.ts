import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import {
  type ControlRequest,
  controlReply,
  controlRequest,
  isAddressedTo,
  type LogicalClock,
  PIDBOX,
  readControlRequest,
} from '../protocol/control-message.ts';
import { messageOf } from '../protocol/errors.ts';
import { type Json, pythonRepr } from '../protocol/json.ts';
import { keepSubscribed } from './connection.ts';
import { KOMBU } from './keys.ts';

/** How long replies lie there that nobody takes, s. */
const REPLIES_SEC = 60;

/**
 * Answers of one node to the requests that it understands, by method; undefined: it gives none. A thrown error is
 * answered as Celery does.
 */
export type ControlCommands = Readonly<
  Record<string, (args: { readonly [key: string]: Json }) => Promise<Json | undefined> | Json | undefined>
>;

/** An error that Python would have raised: its class, and what it was raised with. */
export class PythonError extends Error {
  constructor(name: string, message: string) {
    super(message);
    this.name = name;
  }
}

export interface PidboxOptions {
  readonly redis: Redis;
  /** A connection that listens; others may listen on it too. */
  readonly subscriber: Redis;
  /** The node's name, such as `ringbeat@host`; null: it answers nobody, and is addressed only when everybody is. */
  readonly node: string | null;
  readonly commands: ControlCommands;
  readonly clock: LogicalClock;
  /** Told of requests that could not be read, understood or answered. */
  onProblem(problem: { readonly event: string; readonly [field: string]: unknown }): void;
}

/** A node's ear for Celery's remote control (kombu/pidbox.py). */
export class Pidbox {
  readonly #options: PidboxOptions;

  constructor(options: PidboxOptions) {
    this.#options = options;
  }

  /** Resolves when it is heard. Listens again by itself after the connection was lost. */
  async start(): Promise<void> {
    const { subscriber, redis, node } = this.#options;
    const channel = requestChannel(redis);
    subscriber.on('message', (heardOn: string, payload: string) => {
      if (heardOn !== channel) return;
      this.#hear(payload).catch((error: unknown) =>
        this.#options.onProblem({ event: 'control_failed', reason: messageOf(error) }),
      );
    });
    await keepSubscribed(subscriber, 'subscribe', channel);
    if (node !== null) await redis.sadd(bindingKey(PIDBOX.exchange), bindingOf(node));
  }

  /** Celery's tools no longer see the node. Its connections are for their owner to close. */
  async stop(): Promise<void> {
    const { redis, node } = this.#options;
    if (node !== null) await redis.srem(bindingKey(PIDBOX.exchange), bindingOf(node));
  }

  async #hear(payload: string): Promise<void> {
    const { node, clock, commands, onProblem } = this.#options;
    let request: ControlRequest;
    let isForUs: boolean;
    try {
      request = readControlRequest(payload);
      isForUs = isAddressedTo(request, node ?? '');
    } catch (error) {
      onProblem({ event: 'control_unreadable', reason: messageOf(error) });
      return;
    }
    clock.adjust(request.clock);
    if (!isForUs) return;
    const { method } = request;
    let reply: Json | undefined;
    try {
      const command = Object.hasOwn(commands, method) ? commands[method] : undefined;
      if (command === undefined && node === null) return;
      if (command === undefined) throw new PythonError('KeyError', method);
      reply = await command(request.arguments);
    } catch (error) {
      onProblem({ event: 'control_command_failed', method, reason: messageOf(error) });
      reply = { error: errorRepr(error) };
    }
    if (node !== null && request.replyTo !== null && reply !== undefined) {
      await this.#answer({ ...request, replyTo: request.replyTo }, node, reply);
    }
  }

  async #answer(
    request: ControlRequest & { readonly replyTo: NonNullable<ControlRequest['replyTo']> },
    node: string,
    reply: Json,
  ): Promise<void> {
    const { redis, clock } = this.#options;
    const { exchange, routingKey } = request.replyTo;
    const message = controlReply(request, { node, reply, clock: clock.forward(), deliveryTag: randomUUID() });
    // Whoever no longer waits has taken its binding away; who died before could not, and its replies go by themselves.
    for (const binding of await redis.smembers(bindingKey(exchange))) {
      const [key, , queue] = binding.split(KOMBU.separator);
      if (key !== routingKey || queue === undefined) continue;
      await redis.multi().lpush(queue, message).expire(queue, REPLIES_SEC).exec();
    }
  }
}

/** Sends a request to all nodes, Celery's and ours; nobody answers. */
export async function broadcast(
  redis: Redis,
  clock: LogicalClock,
  method: string,
  args: { readonly [key: string]: Json },
): Promise<void> {
  const message = controlRequest({
    method,
    arguments: args,
    destination: null,
    reply: null,
    clock: clock.forward(),
    deliveryTag: randomUUID(),
  });
  await redis.publish(requestChannel(redis), message);
}

/** Where requests are heard. Channels are shared by all databases of a Redis, so that kombu writes the database into their names. */
export function requestChannel(redis: Redis): string {
  return `/${redis.options.db ?? 0}.${PIDBOX.exchange}`;
}

/** Where kombu looks up who is bound to an exchange. */
export function bindingKey(exchange: string): string {
  return `_kombu.binding.${exchange}`;
}

function bindingOf(node: string): string {
  return ['', '', `${node}.${PIDBOX.exchange}`].join(KOMBU.separator);
}

/** As Python's repr() writes an exception. */
function errorRepr(error: unknown): string {
  const name = error instanceof Error ? error.name : 'Error';
  return `${name}(${pythonRepr(messageOf(error))})`;
}
