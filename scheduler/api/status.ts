import { z } from 'zod';
import { formatInstant } from '../../schedule/instant.ts';
import { ok } from './answer.ts';
import { instantField, optionalInstant } from './resource.ts';
import { type Route, route } from './route.ts';
import type { System } from './system.ts';

const cursor = z.null().describe('There is one page only.');

const nodeList = {
  name: 'NodeList',
  schema: z.strictObject({
    nodes: z.array(
      z.strictObject({
        id: z.string(),
        hostname: z.string(),
        pid: z.int(),
        version: z.string(),
        started_at: instantField('When its process started'),
        last_seen_at: instantField("Its last heartbeat, by Redis's clock"),
        shards: z.array(z.int()).describe('The shards it owns.'),
        rate: z.number().describe('Dispatches per second over the last 10 s.'),
      }),
    ),
    cursor,
  }),
};

const shardList = {
  name: 'ShardList',
  schema: z.strictObject({
    shards: z.array(
      z.strictObject({
        id: z.int(),
        owner: z.string().nullable(),
        schedules: z.int(),
        next_due_at: instantField('null when nothing is due ever').nullable(),
        overdue: z.int().describe('More than 100 ms past due.'),
      }),
    ),
    cursor,
  }),
};

const queueList = {
  name: 'QueueList',
  schema: z.strictObject({
    queues: z.array(
      z.strictObject({
        name: z.string(),
        length: z.int().describe('Messages in all its lists.'),
        by_priority: z.record(z.string(), z.int()).describe("Messages by kombu's priority step: 0, 3, 6, 9."),
        cap: z.int(),
        refused: z.int().describe('Occurrences dropped at the cap since the namespace was created.'),
      }),
    ),
    cursor,
  }),
};

const milliseconds = z.number().nullable().describe('ms; null when nothing was dispatched');

const stats = {
  name: 'Stats',
  schema: z
    .strictObject({
      schedules: z.int(),
      enabled: z.int(),
      parked: z.int(),
      overdue: z.int().describe('More than 100 ms past due.'),
      in_flight: z.int().describe('Runs whose end is waited for: of loops, and where overlap is not allowed.'),
      missed: z.int().describe('Schedules with missed runs that wait for their turn.'),
      dead_letters: z.int().describe('What was given up and is still there.'),
      dispatched: z.int(),
      rate: z.number().describe('Dispatches per second.'),
      lateness_ms: z.strictObject({ p50: milliseconds, p99: milliseconds, p999: milliseconds, max: milliseconds }),
      refused: z.int(),
      misfired: z.int(),
      skipped: z.int().describe('Runs dropped because the one before had not ended.'),
      recovered: z.int(),
    })
    .describe(
      'Of the whole system. rate and lateness_ms cover the last 10 s; totals count since the namespace was created.',
    ),
};

/** How the running system stands. */
export function statusRoutes(system: System): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/stats',
      summary: 'Figures of the whole system',
      answers: { 200: stats },
      problems: [],
      async answer() {
        const { lateness, inFlight, deadLetters, ...rest } = await system.stats();
        return ok({ ...rest, in_flight: inFlight, dead_letters: deadLetters, lateness_ms: lateness });
      },
    }),
    route({
      method: 'GET',
      path: '/v1/nodes',
      summary: 'Live beat nodes',
      answers: { 200: nodeList },
      problems: [],
      async answer() {
        const nodes = (await system.nodes()).map(({ startedAtMs, lastSeenAtMs, ...node }) => ({
          ...node,
          started_at: formatInstant(startedAtMs),
          last_seen_at: formatInstant(lastSeenAtMs),
        }));
        return ok({ nodes, cursor: null });
      },
    }),
    route({
      method: 'GET',
      path: '/v1/shards',
      summary: 'Shards, with who serves them',
      answers: { 200: shardList },
      problems: [],
      async answer() {
        const shards = (await system.shards()).map(({ nextDueAtMs, ...shard }) => ({
          ...shard,
          next_due_at: optionalInstant(nextDueAtMs),
        }));
        return ok({ shards, cursor: null });
      },
    }),
    route({
      method: 'GET',
      path: '/v1/queues',
      summary: 'Queues that schedules are sent to',
      answers: { 200: queueList },
      problems: [],
      async answer() {
        const queues = (await system.queues()).map(({ byPriority, ...queue }) => ({
          ...queue,
          by_priority: Object.fromEntries(byPriority),
        }));
        return ok({ queues, cursor: null });
      },
    }),
  ];
}
