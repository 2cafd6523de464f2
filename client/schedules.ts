import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import type { z } from 'zod';
import { MAX_BACKLOG } from '../lua/backfill.ts';
import { RingbeatError } from '../protocol/errors.ts';
import { backfillSchedule } from '../registry/backfill-schedule.ts';
import { findSchedules } from '../registry/find-schedules.ts';
import { nextDueTimes } from '../registry/next-due-times.ts';
import { patchSchedule } from '../registry/patch-schedule.ts';
import { type RecentRun, recentRuns } from '../registry/recent-runs.ts';
import { Registry, type StoredSchedule } from '../registry/registry.ts';
import { isObject } from '../schedule/fields.ts';
import {
  createSpecSchema,
  describeErrors,
  MAX_SPEC_BYTES,
  parseJsonText,
  parseSpec,
  type ScheduleSpec,
  type SpecResult,
  type SpecSchema,
} from '../schedule/spec.ts';
import { jsonBytes } from './json-bytes.ts';
import type { NamespaceView } from './namespace-view.ts';
import { SpecError } from './spec-error.ts';

type SpecInput = z.input<SpecSchema>;

/** A spec as a program writes it: the fields of the HTTP API, but that times may be `Date`s. */
export interface ScheduleInput
  extends Partial<Omit<SpecInput, 'id' | 'task' | 'schedule' | 'args' | 'kwargs' | 'start' | 'end'>> {
  readonly id: string;
  readonly task: string;
  readonly schedule: Exclude<SpecInput['schedule'], { at: string }> | { readonly at: Date | string };
  readonly args?: readonly unknown[];
  readonly kwargs?: Readonly<Record<string, unknown>>;
  readonly start?: Date | string | null;
  readonly end?: Date | string | null;
}

export interface Schedule {
  readonly id: string;
  /** With every default filled in. Numbers in args, kwargs and headers that JavaScript would change are LosslessNumbers. */
  readonly spec: ScheduleSpec;
  readonly state: StoredSchedule['state'];
  /** null when it is paused or completed. */
  readonly nextRunAt: Date | null;
  /** When the last run was sent. */
  readonly lastRunAt: Date | null;
  /** How long after its due time that was, ms. */
  readonly lastLatenessMs: number | null;
  /** Regular runs sent; null unless max_runs is set. */
  readonly runs: number | null;
}

/** A run of a schedule; see `RecentRun` for what null means. */
export interface ScheduleRun extends Omit<RecentRun, 'dueMs' | 'dispatchedAtMs'> {
  readonly due: Date;
  readonly dispatchedAt: Date | null;
}

export interface PutSummary {
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly failed: number;
  /** The first 100 specs that failed; `position` counts from 0. */
  readonly errors: readonly { readonly position: number; readonly id: string | null; readonly message: string }[];
}

export interface ListFilter {
  readonly tag?: string;
  readonly task?: string;
  readonly queue?: string;
  /** What the id begins with. */
  readonly prefix?: string;
  readonly state?: Schedule['state'];
}

/** Specs that are sent at once. */
const BATCH = 1_000;

const MAX_ERRORS = 100;

/** The schedules of a namespace. All methods throw NAMESPACE_GONE when there is none. */
export class Schedules {
  readonly #namespace: NamespaceView;
  readonly #redis: Redis;
  readonly #schema: SpecSchema;
  #registry: Registry | null = null;

  /** Made by `new Client()`. */
  constructor(redis: Redis, namespace: NamespaceView) {
    this.#redis = redis;
    this.#namespace = namespace;
    this.#schema = createSpecSchema(namespace.name);
  }

  /** Creates a schedule, or makes the one with this id what the spec says. Throws SpecError. */
  async put(spec: ScheduleInput): Promise<'created' | 'updated' | 'unchanged'> {
    const checked = this.#check(spec);
    const [outcome] = await this.#use((registry) => registry.put([checked]));
    return outcome as 'created' | 'updated' | 'unchanged';
  }

  /**
   * `put` for any number of specs, from whatever can be iterated over, in bounded memory. A spec that is not valid is
   * told in the summary and never stops the others; of several with one id the last wins.
   */
  async putMany(specs: Iterable<ScheduleInput> | AsyncIterable<ScheduleInput>): Promise<PutSummary> {
    const counts = { created: 0, updated: 0, unchanged: 0, failed: 0 };
    const errors: PutSummary['errors'][number][] = [];
    let batch: ScheduleSpec[] = [];
    const send = async () => {
      const specs = batch;
      batch = [];
      if (specs.length === 0) return;
      for (const outcome of await this.#use((registry) => registry.put(specs))) {
        if (outcome !== 'refused') counts[outcome] += 1;
      }
    };
    let position = 0;
    for await (const spec of specs) {
      const result = this.#parse(spec);
      if (result.ok) batch.push(result.spec);
      else {
        counts.failed += 1;
        if (errors.length < MAX_ERRORS)
          errors.push({ position, id: result.id, message: describeErrors(result.errors) });
      }
      position += 1;
      if (batch.length >= BATCH) await send();
    }
    await send();
    return { ...counts, errors };
  }

  /** Creates a schedule; without an id it is given a UUID. Throws SpecError, and SCHEDULE_EXISTS. */
  async create(spec: Omit<ScheduleInput, 'id'> & { readonly id?: string }): Promise<Schedule> {
    const checked = this.#check({ ...spec, id: spec.id ?? randomUUID() });
    const requestId = randomUUID();
    const outcome = await this.#use((registry) => registry.create(checked, requestId));
    if (outcome === 'refused') throw new RingbeatError('SCHEDULE_EXISTS', this.#named(checked.id));
    return this.#require(checked.id);
  }

  /** The schedule with this id; null when there is none. */
  async get(id: string): Promise<Schedule | null> {
    const [stored] = await this.#use((registry) => registry.get([id]));
    return stored == null ? null : scheduleOf(stored);
  }

  /** All schedules that match, in no particular order. What comes or goes meanwhile may or may not be seen, or twice. */
  async *list(filter: ListFilter = {}): AsyncGenerator<Schedule, void> {
    const registry = await this.#use(async (registry) => registry);
    for await (const schedules of findSchedules(registry, filter)) yield* schedules.map(scheduleOf);
  }

  /**
   * Changes some fields, by a JSON merge patch on the spec (RFC 7396): null brings a default back. Throws SpecError,
   * NO_SCHEDULE, and SCHEDULE_CONTENDED.
   */
  async update(id: string, patch: { readonly [Field in keyof ScheduleInput]?: unknown }): Promise<Schedule> {
    const what = `patch of schedule "${id}"`;
    const json = jsonBytes(patch);
    if ('error' in json) throw new SpecError(what, [json.error]);
    const parsed = parseJsonText(json.bytes.toString());
    if ('message' in parsed) throw new SpecError(what, [{ path: '', message: parsed.message }]);
    const members = parsed.value;
    if (!isObject(members)) throw new SpecError(what, [{ path: '', message: 'must be an object' }]);
    const outcome = await this.#use((registry) => patchSchedule(registry, this.#schema, id, members));
    switch (outcome.kind) {
      case 'done':
        return this.#require(id);
      case 'missing':
        throw this.#missing(id);
      case 'contended':
        throw new RingbeatError('SCHEDULE_CONTENDED', { id, attempts: outcome.attempts });
      case 'too large':
        throw new SpecError(what, [{ path: '', message: `would be larger than ${MAX_SPEC_BYTES} bytes` }]);
      case 'invalid':
        throw new SpecError(what, outcome.errors);
    }
  }

  /** Removes a schedule; whether there was one. What is in a queue already is not taken back. */
  async remove(id: string): Promise<boolean> {
    const [existed] = await this.#use((registry) => registry.remove([id]));
    return existed === true;
  }

  /** Pauses a schedule: what falls due meanwhile is not missed. Whether it was not paused before. Throws NO_SCHEDULE. */
  pause(id: string): Promise<boolean> {
    return this.#setEnabled(id, false);
  }

  /** Lets a schedule go on, at the next point of its grid. Whether it was paused before. Throws NO_SCHEDULE. */
  resume(id: string): Promise<boolean> {
    return this.#setEnabled(id, true);
  }

  /**
   * Runs a schedule once, now, beside its regular runs and whatever its state: the task's id. Of a loop that waits it
   * starts the next run. Throws NO_SCHEDULE, LOOP_IN_FLIGHT, and BACKLOG_FULL.
   */
  async trigger(id: string): Promise<string> {
    const requestId = randomUUID();
    const outcome = await this.#use((registry) => registry.trigger(id, requestId));
    if (outcome === 'missing') throw this.#missing(id);
    if (outcome === 'in_flight') throw new RingbeatError('LOOP_IN_FLIGHT', { id });
    if (outcome === 'full') throw new RingbeatError('BACKLOG_FULL', { id, runs: 1, most: MAX_BACKLOG });
    return outcome.taskId;
  }

  /**
   * Runs a schedule for each time from `from` on and before `to` at which it is due, or was, or would have been: how many.
   * Throws NO_SCHEDULE, LOOP_HAS_NO_TIMES, and BACKLOG_FULL for more than 10,000.
   */
  async backfill(id: string, { from, to }: { readonly from: Date; readonly to: Date }): Promise<number> {
    const requestId = randomUUID();
    const range = { fromMs: from.getTime(), toMs: to.getTime() };
    const outcome = await this.#use((registry) => backfillSchedule(registry, id, range, requestId));
    switch (outcome.kind) {
      case 'done':
        return outcome.runs;
      case 'missing':
        throw this.#missing(id);
      case 'loop':
        throw new RingbeatError('LOOP_HAS_NO_TIMES', { id });
      case 'too many':
        throw new RingbeatError('BACKLOG_FULL', { id, runs: `more than ${outcome.most}`, most: outcome.most });
    }
  }

  /**
   * When a schedule is due next, strictly after `after` (default now); nothing while it is paused, or a loop whose run is
   * in flight. Throws NO_SCHEDULE.
   */
  async next(id: string, options: { readonly after?: Date; readonly count?: number } = {}): Promise<Date[]> {
    const [stored] = await this.#use((registry) => registry.get([id]));
    if (stored == null) throw this.#missing(id);
    const afterMs = options.after?.getTime() ?? null;
    const duesMs = await nextDueTimes(stored, afterMs, options.count ?? 10, this.#namespace.nowMs());
    return duesMs.map((dueMs) => new Date(dueMs));
  }

  /** Its runs of the last hour, newest first, as far as they are known, at most `limit` (100). Throws NO_SCHEDULE. */
  async runs(id: string, options: { readonly limit?: number } = {}): Promise<ScheduleRun[]> {
    const limit = options.limit ?? 100;
    const runs = await this.#use((registry) => recentRuns(this.#redis, registry, id, this.#namespace.nowMs(), limit));
    if (runs === null) throw this.#missing(id);
    return runs.map(({ dueMs, dispatchedAtMs, ...run }) => ({
      due: new Date(dueMs),
      dispatchedAt: dateOf(dispatchedAtMs),
      ...run,
    }));
  }

  async #setEnabled(id: string, enabled: boolean): Promise<boolean> {
    const [outcome] = await this.#use((registry) => registry.setEnabled([id], enabled));
    if (outcome === 'missing') throw this.#missing(id);
    return outcome === 'changed';
  }

  #use<T>(act: (registry: Registry) => Promise<T>): Promise<T> {
    return this.#namespace.use(() => {
      this.#registry ??= new Registry({
        redis: this.#redis,
        names: this.#namespace.names,
        namespace: () => this.#namespace.current(),
        nowMs: () => this.#namespace.nowMs(),
      });
      return act(this.#registry);
    });
  }

  #missing(id: string): RingbeatError {
    return new RingbeatError('NO_SCHEDULE', this.#named(id));
  }

  #check(spec: object): ScheduleSpec {
    const result = this.#parse(spec);
    if (result.ok) return result.spec;
    throw new SpecError(result.id === null ? 'schedule' : `schedule "${result.id}"`, result.errors);
  }

  #parse(spec: unknown): SpecResult {
    const json = jsonBytes(spec);
    return 'bytes' in json ? parseSpec(this.#schema, json.bytes) : { ok: false, id: null, errors: [json.error] };
  }

  async #require(id: string): Promise<Schedule> {
    const schedule = await this.get(id);
    if (schedule === null) throw this.#missing(id);
    return schedule;
  }

  #named(id: string): { id: string; namespace: string } {
    return { id, namespace: this.#namespace.name };
  }
}

function scheduleOf({ spec, state, nextRunAtMs, lastRunAtMs, lastLatenessMs, runs }: StoredSchedule): Schedule {
  return {
    id: spec.id,
    spec,
    state,
    nextRunAt: dateOf(nextRunAtMs),
    lastRunAt: dateOf(lastRunAtMs),
    lastLatenessMs,
    runs,
  };
}

function dateOf(ms: number | null): Date | null {
  return ms === null ? null : new Date(ms);
}
