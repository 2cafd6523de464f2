import { z } from 'zod';
import { SCAN_COUNT, scanStep } from '../../registry/find-schedules.ts';
import { type Answer, jsonAnswer } from './answer.ts';
import { invalid } from './problem.ts';
import { resourceJson, STATES } from './resource.ts';
import { integerParameter, type Route, route } from './route.ts';
import type { ScheduleContext } from './schedules.ts';

/** A page looks at about this many schedules at most, however few of them match. */
const MAX_LOOKED_AT = 5_000;

const listQuery = z.strictObject({
  limit: integerParameter('Most schedules on the page.', { min: 1, max: 1_000, default: 100 }),
  cursor: z.string().optional().describe('As the page before told.'),
  tag: z.string().min(1).optional().describe('Only those with this tag.'),
  task: z.string().min(1).optional().describe('Only those of this task.'),
  queue: z.string().min(1).optional().describe('Only those for this queue.'),
  prefix: z.string().min(1).optional().describe('Only those whose id begins so.'),
  state: z.enum(STATES).optional().describe('Only those in this state.'),
});

export function scheduleListRoutes(context: ScheduleContext): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/schedules',
      summary: 'Page through schedules, in no particular order',
      query: listQuery,
      answers: {
        200: {
          name: 'ScheduleList',
          schema: z.strictObject({ schedules: z.array(context.resource.schema), cursor: z.string().nullable() }),
        },
      },
      problems: [400],
      answer: ({ query }) => listPage(context, query),
    }),
  ];
}

/**
 * Where a page ended: the step that comes next (`scan` is HSCAN's cursor), or the step of which the schedules up to
 * `afterId` are on it. A step that is taken again holds at least what it held, unless the shard has shrunk to a tenth.
 */
interface Position {
  readonly shard: number;
  readonly scan: string;
  readonly afterId: string | null;
}

async function listPage({ registry, system }: ScheduleContext, query: z.output<typeof listQuery>): Promise<Answer> {
  const page: string[] = [];
  let position: Position | null =
    query.cursor === undefined ? { shard: 0, scan: '0', afterId: null } : parseCursor(query.cursor, registry.shards);
  for (
    let lookedAt = 0;
    position !== null && page.length < query.limit && lookedAt < MAX_LOOKED_AT;
    lookedAt += SCAN_COUNT
  ) {
    const { shard, scan, afterId }: Position = position;
    const step = await scanStep(registry, { shard, scan }, query);
    const matching = step.schedules
      .filter((schedule) => afterId === null || schedule.spec.id > afterId)
      .sort((one, other) => (one.spec.id < other.spec.id ? -1 : 1));
    const shown = matching.slice(0, query.limit - page.length);
    // As text at once, since rendering a page of 1,000 in one go would hold up dispatching.
    for (const schedule of shown) page.push(resourceJson(schedule, system));
    position =
      shown.length < matching.length
        ? { shard, scan, afterId: shown.at(-1)!.spec.id }
        : step.next && { ...step.next, afterId: null };
  }
  const cursor = position === null ? 'null' : JSON.stringify(formatCursor(position));
  return jsonAnswer(200, `{"schedules":[${page.join(',')}],"cursor":${cursor}}`);
}

function formatCursor({ shard, scan, afterId }: Position): string {
  return Buffer.from(JSON.stringify([shard, scan, ...(afterId === null ? [] : [afterId])])).toString('base64url');
}

function parseCursor(cursor: string, shards: number): Position {
  const [shard, scan, afterId = null] = cursorParts(cursor);
  const isOurs =
    Number.isInteger(shard) &&
    Number(shard) >= 0 &&
    Number(shard) < shards &&
    typeof scan === 'string' &&
    /^\d{1,20}$/.test(scan);
  if (!isOurs || (afterId !== null && typeof afterId !== 'string'))
    throw invalid('The query', [{ path: 'cursor', message: 'is not one that a page told' }]);
  return { shard: Number(shard), scan, afterId };
}

function cursorParts(cursor: string): unknown[] {
  try {
    const parts: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    return Array.isArray(parts) ? parts : [];
  } catch {
    // Not one of ours, which the caller says.
    return [];
  }
}
