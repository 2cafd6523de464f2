import { toJson } from '../../protocol/json.ts';
import { encodeCarry } from '../../registry/carry.ts';
import { findSchedules } from '../../registry/find-schedules.ts';
import type { Registry } from '../../registry/registry.ts';
import { type Route, route } from './route.ts';
import { NDJSON } from './schedule-import.ts';
import type { ScheduleContext } from './schedules.ts';

export function scheduleExportRoutes({ registry }: ScheduleContext): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/export',
      summary: 'All schedules, a spec a line with what it carries along; POST /v1/schedules takes such lines',
      answers: { 200: { type: NDJSON } },
      problems: [],
      async answer() {
        return { status: 200, type: NDJSON, chunks: exportLines(registry, await registry.epoch()) };
      },
    }),
  ];
}

/** As fast as they are read, in bounded memory. */
async function* exportLines(registry: Registry, epoch: string): AsyncGenerator<string, void> {
  for await (const schedules of findSchedules(registry, {})) {
    const lines = schedules.map((schedule) => `${toJson({ ...schedule.spec, carry: encodeCarry(schedule) })}\n`);
    if (lines.length > 0) yield lines.join('');
  }
  // Where the namespace went meanwhile, what is left of it must not look like all of it.
  if ((await registry.epoch()) !== epoch) throw new Error('the namespace was replaced during the export');
}
