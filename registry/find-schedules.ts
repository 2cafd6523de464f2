import type { Registry, StoredSchedule } from './registry.ts';

/** Schedules per step of a scan. A cursor is only good for steps of the same size. */
export const SCAN_COUNT = 100;

/** Every member that is given must hold. */
export interface ScheduleFilter {
  readonly tag?: string | undefined;
  readonly task?: string | undefined;
  readonly queue?: string | undefined;
  /** What the id begins with. */
  readonly prefix?: string | undefined;
  readonly state?: string | undefined;
}

/** Where a walk over all schedules stands: the step of a shard that comes next (`scan` is HSCAN's cursor). */
export interface ScanPosition {
  readonly shard: number;
  readonly scan: string;
}

export const SCAN_START: ScanPosition = { shard: 0, scan: '0' };

/** One step of a walk: the schedules in it that match, and where it goes on; null at the end. */
export async function scanStep(
  registry: Registry,
  { shard, scan }: ScanPosition,
  filter: ScheduleFilter,
): Promise<{ readonly schedules: readonly StoredSchedule[]; readonly next: ScanPosition | null }> {
  const step = await registry.scan(shard, scan, SCAN_COUNT, idPattern(filter.prefix));
  const schedules = step.schedules.filter((schedule) => matches(schedule, filter));
  if (step.cursor !== '0') return { schedules, next: { shard, scan: step.cursor } };
  return { schedules, next: shard + 1 < registry.shards ? { shard: shard + 1, scan: '0' } : null };
}

/** All the schedules that match, step by step; what comes or goes meanwhile may or may not be seen, and twice. */
export async function* findSchedules(
  registry: Registry,
  filter: ScheduleFilter,
): AsyncGenerator<readonly StoredSchedule[], void> {
  for (let position: ScanPosition | null = SCAN_START; position !== null; ) {
    const step: Awaited<ReturnType<typeof scanStep>> = await scanStep(registry, position, filter);
    yield step.schedules;
    position = step.next;
  }
}

function matches({ spec, state }: StoredSchedule, filter: ScheduleFilter): boolean {
  return (
    (filter.tag === undefined || spec.tags.includes(filter.tag)) &&
    (filter.task === undefined || spec.task === filter.task) &&
    (filter.queue === undefined || spec.queue === filter.queue) &&
    (filter.prefix === undefined || spec.id.startsWith(filter.prefix)) &&
    (filter.state === undefined || state === filter.state)
  );
}

/** A prefix as HSCAN's MATCH takes it. */
function idPattern(prefix: string | undefined): string | undefined {
  return prefix === undefined ? undefined : `${prefix.replace(/[\\*?[\]]/g, '\\$&')}*`;
}
