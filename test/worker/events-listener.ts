import assert from 'node:assert/strict';
import { Redis } from 'ioredis';
import type { Test } from 'tap';
import { eventually } from '../support/eventually.ts';
import type { RedisServer } from '../support/redis-server.ts';

/** One event as a monitor reads it. */
export interface HeardEvent {
  readonly type: string;
  readonly uuid?: string;
  readonly [field: string]: unknown;
}

export interface EventsListener {
  /** Every event so far, in the order of the messages. */
  readonly events: readonly HeardEvent[];
  /** How many events each message carried, and under which routing key it came. */
  readonly messages: readonly { readonly routingKey: string; readonly events: number; readonly bytes: number }[];
  /** The types of a task's events so far. */
  typesOf(id: string): string[];
  /** The first event that `isWanted`; fails when none comes in time. */
  heard(isWanted: (event: HeardEvent) => boolean): Promise<HeardEvent>;
  /** Events of a task once they are of these types. */
  life(id: string, types: readonly string[]): Promise<readonly HeardEvent[]>;
}

/** Hears all monitoring events of database 0, as flower does; ends with the test. */
export async function listenToEvents(t: Test, server: RedisServer): Promise<EventsListener> {
  const redis = new Redis(server.port, '127.0.0.1', { maxRetriesPerRequest: null });
  redis.on('error', () => {});
  t.teardown(() => redis.disconnect());
  const events: HeardEvent[] = [];
  const messages: { routingKey: string; events: number; bytes: number }[] = [];
  redis.on('pmessage', (_pattern: string, channel: string, payload: string) => {
    const { body, headers, properties } = JSON.parse(payload);
    const decoded: HeardEvent | HeardEvent[] = JSON.parse(Buffer.from(body, 'base64').toString());
    const all = Array.isArray(decoded) ? decoded : [decoded];
    const { routing_key: routingKey } = properties.delivery_info;
    assert.equal(channel, `/0.celeryev/${routingKey}`);
    assert.equal(typeof properties.delivery_tag, 'string');
    for (const event of all) assert.equal(headers.hostname, event.hostname);
    events.push(...all);
    messages.push({ routingKey, events: all.length, bytes: payload.length });
  });
  await redis.psubscribe('/0.celeryev/*');
  const typesOf = (id: string) => events.filter(({ uuid }) => uuid === id).map(({ type }) => type);
  return {
    events,
    messages,
    typesOf,
    heard: (isWanted) =>
      eventually(() => {
        const event = events.find(isWanted);
        assert.ok(event, `not among ${JSON.stringify(events.map(({ type, uuid }) => [type, uuid]))}`);
        return event;
      }),
    async life(id, types) {
      await eventually(() => assert.deepEqual(typesOf(id), types));
      return events.filter(({ uuid }) => uuid === id);
    },
  };
}
