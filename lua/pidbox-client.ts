import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import {
  type ControlAnswer,
  controlRequest,
  type LogicalClock,
  PIDBOX,
  readControlReply,
} from '../protocol/control-message.ts';
import type { Json } from '../protocol/json.ts';
import { monotonicMs } from '../runtime/clock.ts';
import { KOMBU, queueLists } from './keys.ts';
import { bindingKey, requestChannel } from './pidbox.ts';

/** What nodes answered, `[node, reply]`, as they came. */
export type ControlReplies = readonly (readonly [node: string, reply: Json])[];

export interface ControlCall {
  readonly method: string;
  readonly arguments: { readonly [name: string]: Json };
  /** Names of the nodes that are meant; null: all. */
  readonly destination: readonly string[] | null;
  /** How long the first reply, and each further one, is waited for, ms. */
  readonly timeoutMs: number;
  /** Told of each reply as it comes. */
  onReply?(node: string, reply: Json): void;
  /** Whether no further reply is waited for, beside as many as there are destinations; asked before each wait. */
  isEnough?(replies: ControlReplies, hearers: number): Promise<boolean> | boolean;
}

export interface PidboxClientOptions {
  /** Commands are sent here. */
  readonly redis: Redis;
  readonly clock: LogicalClock;
  /** ms since epoch, for how long a reply makes sense. */
  nowMs(): number;
}

/** Longest single wait, s: shorter than any timeout of a connection. */
const SLICE_SEC = 1;

/** Asks nodes by Celery's remote control (kombu/pidbox.py, Mailbox), Celery's workers and ours alike. */
export class PidboxClient {
  readonly #options: PidboxClientOptions;

  constructor(options: PidboxClientOptions) {
    this.#options = options;
  }

  /**
   * Sends a request and collects replies: until every destination has answered, or nobody has for `timeoutMs`. Leaves
   * nothing behind in Redis, and no connection.
   */
  async call(call: ControlCall): Promise<ControlReplies> {
    const { redis } = this.#options;
    const key = randomUUID();
    const queue = `${key}.${PIDBOX.replyExchange}`;
    const binding = [key, '', queue].join(KOMBU.separator);
    // A node that finds nobody bound drops its reply.
    await redis.sadd(bindingKey(PIDBOX.replyExchange), binding);
    // Whoever waits for a reply can send nothing else.
    const waiting = redis.duplicate();
    waiting.on('error', () => {});
    try {
      return await this.#ask(call, key, queue, waiting);
    } finally {
      waiting.disconnect();
      await redis
        .multi()
        .srem(bindingKey(PIDBOX.replyExchange), binding)
        .del(...queueLists(queue))
        .exec();
    }
  }

  async #ask(call: ControlCall, key: string, queue: string, waiting: Redis): Promise<ControlReplies> {
    const { redis, clock, nowMs } = this.#options;
    const { method, destination, timeoutMs, onReply, isEnough } = call;
    const ticket = randomUUID();
    const request = controlRequest({
      method,
      arguments: call.arguments,
      destination,
      reply: { ticket, routingKey: key, expiresMs: nowMs() + timeoutMs },
      clock: clock.forward(),
      deliveryTag: randomUUID(),
    });
    const hearers = await redis.publish(requestChannel(redis), request);
    const replies: [string, Json][] = [];
    const limit = destination === null || destination.length === 0 ? Infinity : destination.length;
    while (replies.length < limit && !(await isEnough?.(replies, hearers))) {
      const payload = await nextReply(waiting, queue, timeoutMs);
      if (payload === null) break;
      const answer = readable(payload);
      if (answer === null || answer.ticket !== ticket) continue;
      clock.adjust(answer.clock);
      replies.push([answer.node, answer.reply]);
      onReply?.(answer.node, answer.reply);
    }
    return replies;
  }
}

async function nextReply(waiting: Redis, queue: string, timeoutMs: number): Promise<string | null> {
  const giveUpAtMs = monotonicMs() + timeoutMs;
  for (;;) {
    // Redis takes 0 for ever.
    const leftSec = Math.max(0.001, (giveUpAtMs - monotonicMs()) / 1_000);
    const popped = await waiting.brpop(...queueLists(queue), Math.min(leftSec, SLICE_SEC));
    if (popped !== null) return popped[1];
    if (monotonicMs() >= giveUpAtMs) return null;
  }
}

function readable(payload: string): ControlAnswer | null {
  try {
    return readControlReply(payload);
  } catch {
    // Of no node that answers in Celery's way.
    return null;
  }
}
