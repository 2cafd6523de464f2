import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Redis } from 'ioredis';
import { AsciiWriter } from '../protocol/ascii-writer.ts';
import { LogicalClock } from '../protocol/control-message.ts';
import {
  beginEvent,
  endEvent,
  eventChannel,
  eventHead,
  eventRoutingKey,
  eventTail,
  utcOffsetAt,
  writeEnvelope,
  writeSent,
} from '../protocol/event-message.ts';
import { readableMessage, type TaskMessage } from '../protocol/message-reader.ts';

const TASK_SENT = 'task-sent';
const ROUTING_KEY = eventRoutingKey(TASK_SENT);
const TAIL = eventTail(TASK_SENT);

/** What most messages and events need at least, bytes; they grow as needed. */
const BUFFER_BYTES = 2_048;

/**
 * Tells monitors of messages that were sent, one event for each, as Celery's producers do with `task_send_sent_event`, and under
 * the same kind of name (celery/utils/nodenames.py, anon_nodename).
 */
export class SentEvents {
  readonly #redis: Redis;
  readonly #clock = new LogicalClock();
  readonly #hostname = `gen${process.pid}@${hostname()}`;

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /** Tells of kombu envelopes that were sent at this time, ms since epoch. Resolves when Redis has been told, or cannot be. */
  async tell(envelopes: readonly string[], nowMs: number): Promise<void> {
    const messages = envelopes.flatMap((envelope) => readableMessage(envelope) ?? []);
    try {
      await Promise.all(messages.map((message) => this.#publish(message, nowMs)));
    } catch {
      // The tasks are sent, whether anybody hears of it or not: who sent them must not be told otherwise.
    }
  }

  #publish(message: TaskMessage, nowMs: number): Promise<number> {
    const envelope = new AsciiWriter(BUFFER_BYTES);
    const body = this.#event(message, nowMs);
    writeEnvelope(envelope, { body, hostname: this.#hostname, routingKey: ROUTING_KEY, deliveryTag: randomUUID() });
    return this.#redis.publish(eventChannel(this.#redis.options.db ?? 0, ROUTING_KEY), envelope.bytes);
  }

  #event(message: TaskMessage, nowMs: number): Buffer {
    const sender = { hostname: this.#hostname, pid: process.pid, utcOffset: utcOffsetAt(nowMs) };
    const writer = new AsciiWriter(BUFFER_BYTES);
    beginEvent(writer, eventHead(sender), this.#clock.forward());
    writeSent(writer, message);
    endEvent(writer, nowMs, TAIL);
    return writer.bytes;
  }
}
