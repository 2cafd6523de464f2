import {
  type Definition,
  decodeShared,
  encodeDefinition,
  encodeShared,
  encodeTemplate,
  type StoredDefinition,
  type Template,
  type Timing,
} from '../lua/definition.ts';
import type { Carried, PutEntry, SharedText } from '../lua/put-schedules.ts';
import { calendarText } from '../schedule/calendar.ts';
import { exclusionText } from '../schedule/exclusion.ts';
import { formatInstant, parseInstant } from '../schedule/instant.ts';
import { zoneNameOf } from '../schedule/next-run.ts';
import type { ScheduleSpec } from '../schedule/spec.ts';
import type { CalendarTiming, Exclude } from '../schedule/timing.ts';
import { computeTimes } from './compute-times.ts';

const MOST_KEPT = 10_000;

/** Turns specs into what Redis stores. Texts that many specs share are rendered and computed once. */
export class SpecEncoder {
  readonly #namespace: string;
  readonly #templates = new Map<string, string>();
  readonly #shared = new Map<string, SharedText>();

  constructor(namespace: string) {
    this.#namespace = namespace;
  }

  /** `nowMs` is about Redis's time: calendars are computed from there on. */
  encode(spec: ScheduleSpec, nowMs: number, carried?: Carried): PutEntry {
    const timing = timingOf(spec);
    const isExcluding = spec.exclude.length > 0;
    const definition: Definition = {
      id: spec.id,
      timing,
      isExcluding,
      endMs: optionalInstant(spec.end),
      args: spec.args,
      kwargs: spec.kwargs,
      headers: spec.options.headers,
      tags: spec.tags,
      enabled: spec.enabled,
    };
    const calendar =
      timing.kind === 'calendar'
        ? this.#sharedText('calendar', calendarText(spec.schedule as CalendarTiming, spec.id, timing.startMs), nowMs)
        : undefined;
    const exclusion = isExcluding
      ? this.#sharedText('exclusion', exclusionText(spec.exclude, zoneNameOf(spec)), nowMs)
      : undefined;
    return {
      id: spec.id,
      template: this.#template(spec),
      calendar,
      exclusion,
      carried,
      ...encodeDefinition(definition),
    };
  }

  #sharedText(kind: 'calendar' | 'exclusion', json: string, nowMs: number): SharedText {
    const key = kind + json;
    const known = this.#shared.get(key);
    // Good until the first of them is over.
    if (known !== undefined && nowMs < known.refillAtMs) return known;
    const computed = computeTimes(kind, json, nowMs);
    const text = { text: encodeShared(kind, json), ...computed };
    remember(this.#shared, key, { ...text, refillAtMs: Math.min(text.refillAtMs, Number.MAX_SAFE_INTEGER) });
    return this.#shared.get(key)!;
  }

  #template(spec: ScheduleSpec): string {
    const { headers: _, ...options } = spec.options;
    const isLoop = 'after' in spec.schedule;
    const { task, queue, queue_cap, misfire, overlap } = spec;
    const key = JSON.stringify([task, queue, queue_cap, misfire, overlap, isLoop, options]);
    const known = this.#templates.get(key);
    if (known !== undefined) return known;
    const template = encodeTemplate(templateOf(spec), this.#namespace);
    remember(this.#templates, key, template);
    return template;
  }
}

/** A spec from what Redis stores; `calendar` and `exclusion` are the texts under its numbers. */
export function decodeSpec(
  definition: StoredDefinition,
  template: Template,
  calendar: string | null,
  exclusion: string | null,
): ScheduleSpec {
  const { timing } = definition;
  const { expires } = template;
  return {
    id: definition.id,
    task: template.task,
    args: definition.args,
    kwargs: definition.kwargs,
    queue: template.queue,
    schedule: scheduleOf(timing, calendar),
    start: instant(timing.startMs),
    end: instant(definition.endMs),
    max_runs: timing.maxRuns,
    jitter: timing.jitterMs / 1_000,
    exclude:
      exclusion === null ? [] : (JSON.parse(decodeShared(exclusion).json) as { readonly exclude: Exclude[] }).exclude,
    misfire: { policy: template.misfire.policy, grace: seconds(template.misfire.graceMs) },
    overlap: template.overlap,
    queue_cap: template.queueCap,
    options: {
      priority: template.priority,
      expires: expires === null ? null : 'afterMs' in expires ? expires.afterMs / 1_000 : formatInstant(expires.atMs),
      time_limit: template.timeLimit,
      soft_time_limit: template.softTimeLimit,
      ignore_result: template.ignoreResult,
      worker: template.worker,
      headers: definition.headers,
    },
    enabled: definition.enabled,
    tags: [...definition.tags],
  };
}

function scheduleOf(timing: Timing, calendar: string | null): ScheduleSpec['schedule'] {
  switch (timing.kind) {
    case 'every':
      return {
        every: timing.everyMs / 1_000,
        phase: typeof timing.phase === 'number' ? timing.phase / 1_000 : timing.phase,
      };
    case 'once':
      return timing.inMs !== null ? { in: timing.inMs / 1_000 } : { at: formatInstant(timing.atMs!) };
    case 'loop': {
      const { retry } = timing;
      return {
        after: timing.afterMs / 1_000,
        retry: retry === null ? null : { delay: retry.delayMs / 1_000, max_delay: retry.maxDelayMs / 1_000 },
      };
    }
    case 'calendar':
      return calendarScheduleOf(JSON.parse(decodeShared(calendar!).json));
  }
}

/** The part of a calendar's JSON that the spec holds; its seed or anchor follow from the rest. */
function calendarScheduleOf(source: CalendarTiming): ScheduleSpec['schedule'] {
  if ('cron' in source) return { cron: source.cron, tz: source.tz, dialect: source.dialect };
  if ('solar' in source) return { solar: source.solar, lat: source.lat, lon: source.lon };
  return { rrule: source.rrule, tz: source.tz };
}

function timingOf({ schedule, start, max_runs, jitter }: ScheduleSpec): Timing {
  const common = { startMs: optionalInstant(start), maxRuns: max_runs, jitterMs: toMs(jitter) };
  if ('every' in schedule) {
    const { phase } = schedule;
    return {
      kind: 'every',
      everyMs: toMs(schedule.every),
      phase: typeof phase === 'number' ? toMs(phase) : phase,
      ...common,
    };
  }
  if ('at' in schedule) return { kind: 'once', atMs: parseInstant(schedule.at), inMs: null, ...common };
  if ('in' in schedule) return { kind: 'once', atMs: null, inMs: toMs(schedule.in), ...common };
  if ('after' in schedule) {
    const { retry } = schedule;
    return {
      kind: 'loop',
      afterMs: toMs(schedule.after),
      retry: retry === null ? null : { delayMs: toMs(retry.delay), maxDelayMs: toMs(retry.max_delay) },
      ...common,
    };
  }
  return { kind: 'calendar', ...common };
}

function templateOf(spec: ScheduleSpec): Template {
  const { priority, expires, time_limit, soft_time_limit, ignore_result, worker } = spec.options;
  const { policy, grace } = spec.misfire;
  return {
    task: spec.task,
    queue: spec.queue,
    queueCap: spec.queue_cap,
    misfire: { policy, graceMs: grace === null ? null : toMs(grace) },
    expires:
      expires === null
        ? null
        : typeof expires === 'number'
          ? { afterMs: toMs(expires) }
          : { atMs: parseInstant(expires)! },
    priority,
    timeLimit: time_limit,
    softTimeLimit: soft_time_limit,
    ignoreResult: ignore_result,
    overlap: spec.overlap,
    isLoop: 'after' in spec.schedule,
    worker,
  };
}

function optionalInstant(text: string | null): number | null {
  return text === null ? null : parseInstant(text);
}

function instant(ms: number | null): string | null {
  return ms === null ? null : formatInstant(ms);
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1_000;
}

function toMs(seconds: number): number {
  return Math.round(seconds * 1_000);
}

/** Keeps a value, forgetting all others when there are too many. */
export function remember<Value>(cache: Map<string, Value>, key: string, value: Value): void {
  if (cache.size >= MOST_KEPT) cache.clear();
  cache.set(key, value);
}
