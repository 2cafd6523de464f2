import type { Redis } from 'ioredis';
import {
  decodeDefinition,
  decodeTemplate,
  encodeDefinition,
  encodeTemplate,
  type StoredDefinition,
  type Template,
  type Timing,
} from '../lua/definition.ts';
import { deleteSchedules } from '../lua/delete-schedules.ts';
import { type NamespaceKeys, queueBinding, type ShardKeys, shardKeys, shardOf } from '../lua/keys.ts';
import { type PutEntry, type PutOutcome, putSchedules } from '../lua/put-schedules.ts';
import { decodeScore } from '../lua/score.ts';
import { type EnabledOutcome, setEnabled } from '../lua/set-enabled.ts';
import { RingbeatError } from '../protocol/errors.ts';
import { formatInstant, parseInstant } from '../schedule/instant.ts';
import type { ScheduleSpec } from '../schedule/spec.ts';
import type { Namespace } from './namespace.ts';

/** Schedules and bytes of one script call: about 2 ms of Redis. */
const BATCH = 200;
const BATCH_BYTES = 1_048_576;

const TEMPLATE_CACHE = 10_000;

export interface StoredSchedule {
  readonly spec: ScheduleSpec;
  readonly state: 'scheduled' | 'paused' | 'completed';
  readonly shard: number;
  readonly nextRunAtMs: number | null;
  /** Redis time at which the last run was pushed; null when it has not run. */
  readonly lastRunAtMs: number | null;
  readonly lastLatenessMs: number | null;
  /** Offset of an interval schedule's grid where it counts from registration, ms. */
  readonly nowOffsetMs: number | null;
  /** Changes with every change of the schedule; see `replace`. */
  readonly revision: string;
}

export interface RegistryOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  /** Throws NAMESPACE_GONE while there is none. */
  namespace(): Namespace;
}

/** Schedules as users see them, kept in the shards. */
export class Registry {
  readonly #options: RegistryOptions;
  readonly #templates = new Map<string, string>();
  readonly #decoded = new Map<string, Template>();
  readonly #bound = new Set<string>();
  #boundEpoch = '';

  constructor(options: RegistryOptions) {
    this.#options = options;
    // A Redis that comes back may be another one.
    options.redis.on('ready', () => this.#bound.clear());
  }

  get shards(): number {
    return this.#options.namespace().shards;
  }

  /** Creates or updates; an outcome per spec, in order. Of several with one id the last wins. Throws NAMESPACE_GONE. */
  async put(specs: readonly ScheduleSpec[]): Promise<PutOutcome[]> {
    const outcomes: PutOutcome[] = new Array(specs.length);
    let rest = specs.map((_, at) => at);
    while (rest.length > 0) {
      const seen = new Set<string>();
      const again: number[] = [];
      const now = rest.filter((at) => {
        const { id } = specs[at]!;
        const isFirst = !seen.has(id);
        seen.add(id);
        if (!isFirst) again.push(at);
        return isFirst;
      });
      await this.#bind(now.map((at) => specs[at]!.queue));
      await this.#inBatches(
        now,
        (at) => specs[at]!.id,
        async (shard, keys, batch) => {
          const { redis, names } = this.#options;
          const { epoch, name } = this.#options.namespace();
          const entries = batch.map((at) => this.#encode(specs[at]!));
          for (const part of splitByBytes(entries)) {
            const answers = await putSchedules(redis, names, keys, {
              epoch,
              namespace: name,
              shard,
              entries: entries.slice(part.from, part.to),
            });
            answers.forEach((outcome, i) => {
              outcomes[batch[part.from + i]!] = outcome;
            });
          }
        },
      );
      rest = again;
    }
    return outcomes;
  }

  /** Creates one; the same request again within 10 minutes is told `created` again. Throws NAMESPACE_GONE. */
  async create(spec: ScheduleSpec, requestId: string): Promise<PutOutcome> {
    return this.#putOne(spec, { requestId });
  }

  /** Updates one, unless it has changed or gone since this revision was read. Throws NAMESPACE_GONE. */
  async replace(spec: ScheduleSpec, revision: string): Promise<PutOutcome> {
    return this.#putOne(spec, { revision });
  }

  /** The stored schedules with these ids, in order; null where there is none. */
  async get(ids: readonly string[]): Promise<(StoredSchedule | null)[]> {
    const { redis } = this.#options;
    const found: (StoredSchedule | null)[] = new Array(ids.length).fill(null);
    await this.#inBatches(
      ids.map((_, at) => at),
      (at) => ids[at]!,
      async (shard, keys, batch) => {
        const texts = await redis.hmget(keys.definitions, ...batch.map((at) => ids[at]!));
        const present = batch.flatMap((at, i) => (texts[i] == null ? [] : [{ at, id: ids[at]!, text: texts[i] }]));
        const schedules = await this.#describe(shard, keys, present);
        present.forEach(({ at }, i) => {
          found[at] = schedules[i]!;
        });
      },
    );
    return found;
  }

  /** Deletes; per id whether it existed. Throws NAMESPACE_GONE. */
  async remove(ids: readonly string[]): Promise<boolean[]> {
    const existed: boolean[] = new Array(ids.length).fill(false);
    await this.#inBatches(
      ids.map((_, at) => at),
      (at) => ids[at]!,
      async (_, keys, batch) => {
        const { redis, names } = this.#options;
        const answers = await deleteSchedules(
          redis,
          names,
          keys,
          this.#options.namespace().epoch,
          batch.map((at) => ids[at]!),
        );
        answers.forEach((answer, i) => {
          existed[batch[i]!] = answer;
        });
      },
    );
    return existed;
  }

  /** Pauses or resumes; an outcome per id, each of which is given once. Throws NAMESPACE_GONE. */
  async setEnabled(ids: readonly string[], enabled: boolean): Promise<EnabledOutcome[]> {
    const outcomes: EnabledOutcome[] = new Array(ids.length);
    await this.#inBatches(
      ids.map((_, at) => at),
      (at) => ids[at]!,
      async (shard, keys, batch) => {
        const { redis, names } = this.#options;
        const { epoch } = this.#options.namespace();
        const answers = await setEnabled(redis, names, keys, {
          epoch,
          shard,
          enabled,
          ids: batch.map((at) => ids[at]!),
        });
        answers.forEach((answer, i) => {
          outcomes[batch[i]!] = answer;
        });
      },
    );
    return outcomes;
  }

  /** One step of HSCAN over a shard's schedules: what is there throughout a whole scan is seen at least once. */
  async scan(
    shard: number,
    cursor: string,
    count: number,
    idPattern?: string,
  ): Promise<{ cursor: string; schedules: StoredSchedule[] }> {
    const { redis } = this.#options;
    const keys = shardKeys(this.#options.namespace().name, shard);
    const [next, flat] =
      idPattern === undefined
        ? await redis.hscan(keys.definitions, cursor, 'COUNT', count)
        : await redis.hscan(keys.definitions, cursor, 'MATCH', idPattern, 'COUNT', count);
    const present: { id: string; text: string }[] = [];
    for (let i = 0; i + 1 < flat.length; i += 2) present.push({ id: flat[i]!, text: flat[i + 1]! });
    const schedules = await this.#describe(shard, keys, present);
    return { cursor: next, schedules: schedules.filter((schedule) => schedule !== null) };
  }

  async #putOne(spec: ScheduleSpec, mode: { requestId: string } | { revision: string }): Promise<PutOutcome> {
    const { redis, names } = this.#options;
    const { epoch, name, shards } = this.#options.namespace();
    await this.#bind([spec.queue]);
    const shard = shardOf(spec.id, shards);
    const entries = [this.#encode(spec)];
    const [outcome] = await putSchedules(redis, names, shardKeys(name, shard), {
      epoch,
      namespace: name,
      shard,
      entries,
      ...mode,
    });
    return outcome!;
  }

  /** Makes Celery's tools see the queues, as kombu does once per connection. */
  async #bind(queues: readonly string[]): Promise<void> {
    const { epoch } = this.#options.namespace();
    if (epoch !== this.#boundEpoch) this.#bound.clear();
    this.#boundEpoch = epoch;
    const fresh = [...new Set(queues)].filter((queue) => !this.#bound.has(queue));
    if (fresh.length === 0) return;
    const pipeline = this.#options.redis.pipeline();
    for (const queue of fresh) {
      const binding = queueBinding(queue);
      pipeline.sadd(binding.key, binding.member);
    }
    for (const [error] of (await pipeline.exec()) ?? []) if (error) throw error;
    for (const queue of fresh) this.#bound.add(queue);
  }

  async #inBatches(
    positions: readonly number[],
    idAt: (at: number) => string,
    run: (shard: number, keys: ShardKeys, batch: readonly number[]) => Promise<void>,
  ): Promise<void> {
    const { name, shards } = this.#options.namespace();
    const byShard = new Map<number, number[]>();
    for (const at of positions) {
      const shard = shardOf(idAt(at), shards);
      const batch = byShard.get(shard);
      if (batch === undefined) byShard.set(shard, [at]);
      else batch.push(at);
    }
    const runs: Promise<void>[] = [];
    for (const [shard, batch] of byShard) {
      const keys = shardKeys(name, shard);
      for (let from = 0; from < batch.length; from += BATCH)
        runs.push(run(shard, keys, batch.slice(from, from + BATCH)));
    }
    await Promise.all(runs);
  }

  #encode(spec: ScheduleSpec): PutEntry {
    const definition = encodeDefinition({
      id: spec.id,
      timing: timingOf(spec),
      endMs: spec.end === null ? null : parseInstant(spec.end),
      args: spec.args,
      kwargs: spec.kwargs,
      headers: spec.options.headers,
      tags: spec.tags,
      enabled: spec.enabled,
    });
    return { id: spec.id, template: this.#templateOf(spec), ...definition };
  }

  #templateOf(spec: ScheduleSpec): string {
    const { priority, expires, time_limit, soft_time_limit, ignore_result } = spec.options;
    const { policy, grace } = spec.misfire;
    const { name } = this.#options.namespace();
    const key = JSON.stringify([
      name,
      spec.task,
      spec.queue,
      spec.queue_cap,
      policy,
      grace,
      priority,
      expires,
      time_limit,
      soft_time_limit,
      ignore_result,
    ]);
    const known = this.#templates.get(key);
    if (known !== undefined) return known;
    const template = encodeTemplate(
      {
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
      },
      name,
    );
    remember(this.#templates, key, template);
    return template;
  }

  async #describe(
    shard: number,
    keys: ShardKeys,
    present: readonly { id: string; text: string }[],
  ): Promise<(StoredSchedule | null)[]> {
    if (present.length === 0) return [];
    const { redis } = this.#options;
    const ids = present.map(({ id }) => id);
    const definitions = present.map(({ id, text }) => decodeDefinition(id, text));
    const { epoch } = this.#options.namespace();
    // A number is never given out twice in a shard's life, so that what it stood for may be remembered.
    const cacheKey = (number: string) => `${epoch}:${shard}:${number}`;
    const unknown = [...new Set(definitions.map(({ template }) => template))].filter(
      (number) => !this.#decoded.has(cacheKey(number)),
    );
    const [due, completed, last, templates] = await Promise.all([
      redis.zmscore(keys.due, ...ids),
      redis.zmscore(keys.completed, ...ids),
      redis.hmget(keys.last, ...ids),
      unknown.length === 0 ? [] : redis.hmget(keys.templates, ...unknown),
    ]);
    unknown.forEach((number, i) => {
      const text = templates[i];
      if (text != null) remember(this.#decoded, cacheKey(number), decodeTemplate(text));
    });
    return definitions.map((definition, i) => {
      // Deleted between the reads: as good as gone.
      const template = this.#decoded.get(cacheKey(definition.template));
      if (template === undefined) return null;
      return storedSchedule(shard, definition, template, {
        due: due[i] ?? null,
        completed: completed[i] ?? null,
        last: last[i] ?? null,
      });
    });
  }
}

interface Marks {
  readonly due: string | null;
  readonly completed: string | null;
  readonly last: string | null;
}

function storedSchedule(shard: number, definition: StoredDefinition, template: Template, marks: Marks): StoredSchedule {
  const { timing } = definition;
  const score = decodeScore(marks.due ?? marks.completed ?? 0);
  const told = marks.last === null ? null : marks.last.split(':').map(Number);
  let lastDueMs = told === null ? null : told[0]!;
  let lastLatenessMs = told === null ? null : told[1]!;
  if (score.latenessMs !== null && Number.isFinite(score.latenessMs)) {
    lastLatenessMs = score.latenessMs;
    lastDueMs = timing.kind === 'once' ? score.atMs - score.latenessMs : score.atMs - timing.everyMs;
  }
  return {
    spec: specOf(definition, template),
    state:
      marks.completed !== null
        ? 'completed'
        : !definition.enabled
          ? 'paused'
          : marks.due === null
            ? 'completed'
            : 'scheduled',
    shard,
    // A one-shot that a queue cap holds back is tried again later, but stays due at its own time.
    nextRunAtMs: marks.due === null ? null : timing.kind === 'once' ? timing.atMs : score.atMs,
    lastRunAtMs: lastDueMs === null || lastLatenessMs === null ? null : lastDueMs + lastLatenessMs,
    lastLatenessMs,
    nowOffsetMs: definition.nowOffsetMs,
    revision: definition.revision,
  };
}

function timingOf(spec: ScheduleSpec): Timing {
  const { schedule } = spec;
  const startMs = spec.start === null ? null : parseInstant(spec.start);
  if ('every' in schedule) {
    const { phase } = schedule;
    return {
      kind: 'every',
      everyMs: toMs(schedule.every),
      phase: typeof phase === 'number' ? toMs(phase) : phase,
      startMs,
    };
  }
  if ('at' in schedule) return { kind: 'once', atMs: parseInstant(schedule.at), inMs: null, startMs };
  return { kind: 'once', atMs: null, inMs: toMs(schedule.in), startMs };
}

function specOf(definition: StoredDefinition, template: Template): ScheduleSpec {
  const { timing } = definition;
  const instant = (ms: number | null) => (ms === null ? null : formatInstant(ms));
  const seconds = (ms: number | null) => (ms === null ? null : ms / 1_000);
  const { expires } = template;
  return {
    id: definition.id,
    task: template.task,
    args: definition.args,
    kwargs: definition.kwargs,
    queue: template.queue,
    schedule:
      timing.kind === 'every'
        ? {
            every: timing.everyMs / 1_000,
            phase: typeof timing.phase === 'number' ? timing.phase / 1_000 : timing.phase,
          }
        : timing.inMs !== null
          ? { in: timing.inMs / 1_000 }
          : { at: formatInstant(timing.atMs!) },
    start: instant(timing.startMs),
    end: instant(definition.endMs),
    max_runs: null,
    jitter: 0,
    exclude: [],
    misfire: { policy: template.misfire.policy, grace: seconds(template.misfire.graceMs) },
    overlap: 'allow',
    queue_cap: template.queueCap,
    options: {
      priority: template.priority,
      expires: expires === null ? null : 'afterMs' in expires ? expires.afterMs / 1_000 : formatInstant(expires.atMs),
      time_limit: template.timeLimit,
      soft_time_limit: template.softTimeLimit,
      ignore_result: template.ignoreResult,
      headers: definition.headers,
    },
    enabled: definition.enabled,
    tags: [...definition.tags],
  };
}

function toMs(seconds: number): number {
  return Math.round(seconds * 1_000);
}

/** Ranges of entries that fit one script call each. */
function splitByBytes(entries: readonly PutEntry[]): { from: number; to: number }[] {
  const parts: { from: number; to: number }[] = [];
  let from = 0;
  let bytes = 0;
  entries.forEach((entry, at) => {
    if (bytes + entry.rest.length > BATCH_BYTES && at > from) {
      parts.push({ from, to: at });
      from = at;
      bytes = 0;
    }
    bytes += entry.rest.length;
  });
  parts.push({ from, to: entries.length });
  return parts;
}

function remember<Value>(cache: Map<string, Value>, key: string, value: Value): void {
  if (cache.size >= TEMPLATE_CACHE) cache.clear();
  cache.set(key, value);
}

/** The error while the namespace is not in Redis. */
export function namespaceGone(name: string): RingbeatError {
  return new RingbeatError('NAMESPACE_GONE', { namespace: name });
}
