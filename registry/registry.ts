import type { Redis } from 'ioredis';
import { backfill } from '../lua/backfill.ts';
import {
  decodeDefinition,
  decodeTemplate,
  type StoredDefinition,
  spreadOffsetMs,
  type Timing,
} from '../lua/definition.ts';
import { deleteSchedules } from '../lua/delete-schedules.ts';
import { type NamespaceKeys, type ShardKeys, shardKeys, shardOf } from '../lua/keys.ts';
import { type Occurrence, readOccurrences } from '../lua/occurrences.ts';
import { type Carried, type PutEntry, type PutOutcome, putSchedules } from '../lua/put-schedules.ts';
import { decodeScore } from '../lua/score.ts';
import { type EnabledOutcome, setEnabled } from '../lua/set-enabled.ts';
import { type TriggerOutcome, trigger } from '../lua/trigger.ts';
import { RingbeatError } from '../protocol/errors.ts';
import type { ScheduleSpec } from '../schedule/spec.ts';
import { QueueBindings } from './bindings.ts';
import type { Namespace } from './namespace.ts';
import { decodeSpec, remember, SpecEncoder } from './spec-codec.ts';

/** Schedules and bytes of one script call: about 2 ms of Redis. */
const BATCH = 200;
const BATCH_BYTES = 1_048_576;

export interface StoredSchedule {
  readonly spec: ScheduleSpec;
  /** `running`: a loop whose run is in flight. */
  readonly state: 'scheduled' | 'running' | 'paused' | 'completed';
  readonly shard: number;
  readonly nextRunAtMs: number | null;
  /** Regular runs sent; null unless max_runs is set. */
  readonly runs: number | null;
  /** Runs that the misfire policy or their expiry dropped. */
  readonly misfired: number;
  /** Redis time at which the last run was pushed; null when it has not run. */
  readonly lastRunAtMs: number | null;
  readonly lastLatenessMs: number | null;
  /** What the spec does not tell about when it runs: see `nextRuns`. */
  readonly originMs: number | null;
  /** First three groups of its task ids. */
  readonly seed: string;
  /** What it takes along when it moves. */
  readonly carried: Carried;
  /** Changes with every change of the schedule; see `replace`. */
  readonly revision: string;
}

export interface RegistryOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  /** Throws NAMESPACE_GONE while there is none. */
  namespace(): Pick<Namespace, 'name' | 'epoch' | 'shards'>;
  /** About Redis's time, ms since epoch: from there on calendars are computed. */
  nowMs(): number;
}

/** A schedule as it is handed over: new ones may take along what they had elsewhere. */
export type PutSpec = ScheduleSpec & { readonly carried?: Carried };

/** Schedules as users see them, kept in the shards. */
export class Registry {
  readonly #options: RegistryOptions;
  readonly #encoder: SpecEncoder;
  /** Texts under their numbers, which are never given out twice. */
  readonly #texts = new Map<string, string>();
  readonly #bindings: QueueBindings;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.#encoder = new SpecEncoder(options.namespace().name);
    this.#bindings = new QueueBindings(options.redis);
  }

  get shards(): number {
    return this.#options.namespace().shards;
  }

  /** Creates or updates; an outcome per spec, in order. Of several with one id the last wins. Throws NAMESPACE_GONE. */
  async put(specs: readonly PutSpec[]): Promise<PutOutcome[]> {
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
      await this.#bindings.bind(
        now.map((at) => specs[at]!.queue),
        this.#options.namespace().epoch,
      );
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

  /** Runs it once, now, in any state; see `TriggerOutcome`. The same request again changes nothing. Throws NAMESPACE_GONE. */
  async trigger(id: string, requestId: string): Promise<TriggerOutcome> {
    const { redis, names } = this.#options;
    const { epoch, name, shards } = this.#options.namespace();
    const shard = shardOf(id, shards);
    return trigger(redis, names, shardKeys(name, shard), { epoch, shard, id, requestId });
  }

  /**
   * Runs it for each of these due times, oldest first: how many were queued, null where there is no such schedule. The same
   * request again changes nothing. Throws NAMESPACE_GONE.
   */
  async backfill(id: string, duesMs: readonly number[], requestId: string): Promise<number | null> {
    const { redis, names } = this.#options;
    const { epoch, name, shards } = this.#options.namespace();
    const shard = shardOf(id, shards);
    return backfill(redis, names, shardKeys(name, shard), { epoch, shard, id, duesMs, requestId });
  }

  /** Its runs of the last hour that were noted one by one, newest first, at most `limit`. */
  async occurrences(id: string, limit: number): Promise<Occurrence[]> {
    const { name, shards } = this.#options.namespace();
    return readOccurrences(this.#options.redis, shardKeys(name, shardOf(id, shards)), id, limit);
  }

  /** The namespace's epoch, which tells it from a later one of its name. Throws NAMESPACE_GONE. */
  async epoch(): Promise<string> {
    const { redis, names } = this.#options;
    const { name, epoch } = this.#options.namespace();
    if ((await redis.hget(names.meta, 'epoch')) !== epoch) throw namespaceGone(name);
    return epoch;
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
    await this.#bindings.bind([spec.queue], epoch);
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

  #encode(spec: PutSpec): PutEntry {
    return this.#encoder.encode(spec, this.#options.nowMs(), spec.carried);
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
    const [textOf, due, completed, last, journal, claims, missed, runs, held, dropped] = await Promise.all([
      this.#textsOf(shard, keys, definitions),
      redis.zmscore(keys.due, ...ids),
      redis.zmscore(keys.completed, ...ids),
      redis.hmget(keys.last, ...ids),
      redis.hmget(keys.journal, ...ids),
      redis.zmscore(keys.claims, ...ids),
      redis.zmscore(keys.missed, ...ids),
      redis.hmget(keys.runs, ...ids),
      redis.hmget(keys.held, ...ids),
      redis.hmget(keys.dropped, ...ids),
    ]);
    return definitions.map((definition, i) => {
      const texts = [definition.template, definition.calendar, definition.exclusion].map((number) =>
        number === null ? null : textOf(number),
      );
      // Deleted between the reads: as good as gone.
      if (texts.includes(undefined)) return null;
      const [template, calendar, exclusion] = texts as [string, string | null, string | null];
      return storedSchedule(shard, definition, decodeSpec(definition, decodeTemplate(template), calendar, exclusion), {
        due: due[i] ?? null,
        completed: completed[i] ?? null,
        last: last[i] ?? null,
        isInFlight: journal[i] != null,
        isClaimed: claims[i] != null,
        missed: missed[i] ?? null,
        runs: runs[i] ?? null,
        held: held[i] ?? null,
        dropped: Number(dropped[i] ?? 0),
      });
    });
  }

  /** Reads the texts that these definitions share. */
  async #textsOf(
    shard: number,
    keys: ShardKeys,
    definitions: readonly StoredDefinition[],
  ): Promise<(number: string) => string | undefined> {
    const { epoch } = this.#options.namespace();
    const cacheKey = (number: string) => `${epoch}:${shard}:${number}`;
    const numbers = new Set(
      definitions.flatMap(({ template, calendar, exclusion }) => [template, calendar, exclusion]),
    );
    const unknown = [...numbers].filter((number) => number !== null && !this.#texts.has(cacheKey(number))) as string[];
    const found = unknown.length === 0 ? [] : await this.#options.redis.hmget(keys.templates, ...unknown);
    const fresh = new Map<string, string>();
    unknown.forEach((number, i) => {
      const text = found[i];
      if (text == null) return;
      fresh.set(number, text);
      remember(this.#texts, cacheKey(number), text);
    });
    return (number) => fresh.get(number) ?? this.#texts.get(cacheKey(number));
  }
}

interface Marks {
  readonly due: string | null;
  readonly completed: string | null;
  readonly last: string | null;
  readonly isInFlight: boolean;
  /** Whether its next run is being computed. */
  readonly isClaimed: boolean;
  readonly missed: string | null;
  readonly runs: string | null;
  readonly held: string | null;
  readonly dropped: number;
}

function storedSchedule(shard: number, definition: StoredDefinition, spec: ScheduleSpec, marks: Marks): StoredSchedule {
  const { timing } = definition;
  const score = decodeScore(marks.due ?? marks.completed ?? 0);
  const told = marks.last === null ? null : marks.last.split(':').map(Number);
  let lastDueMs = told === null ? null : told[0]!;
  let lastLatenessMs = told === null ? null : told[1]!;
  const isPlain =
    timing.kind === 'every' && timing.jitterMs === 0 && timing.maxRuns === null && !definition.isExcluding;
  if ((isPlain || timing.kind === 'once') && score.latenessMs !== null && Number.isFinite(score.latenessMs)) {
    lastLatenessMs = score.latenessMs;
    lastDueMs = timing.kind === 'every' ? score.atMs - timing.everyMs : score.atMs - score.latenessMs;
  }
  const nextRunAtMs = nextRunOf(timing, marks);
  return {
    spec,
    state: stateOf(definition, marks),
    shard,
    nextRunAtMs,
    runs: timing.maxRuns === null ? null : Number(marks.runs ?? 0),
    misfired: marks.dropped,
    lastRunAtMs: lastDueMs === null || lastLatenessMs === null ? null : lastDueMs + lastLatenessMs,
    lastLatenessMs,
    originMs: originOf(definition, nextRunAtMs),
    seed: definition.seed,
    carried: {
      seed: definition.seed,
      anchorMs: timing.kind === 'once' && timing.inMs !== null ? timing.atMs : definition.nowOffsetMs,
      // A loop whose run is in flight begins its next one where it goes to.
      dueMs: nextRunAtMs ?? (marks.isInFlight && timing.kind === 'loop' && definition.enabled ? 0 : null),
      completedAtMs: marks.completed === null ? null : decodeScore(marks.completed).atMs,
      runs: timing.maxRuns === null ? null : Number(marks.runs ?? 0),
      held: marks.held,
    },
    revision: definition.revision,
  };
}

function stateOf({ timing, enabled }: StoredDefinition, marks: Marks): StoredSchedule['state'] {
  if (marks.completed !== null) return 'completed';
  if (timing.kind === 'loop' && marks.isInFlight) return 'running';
  if (!enabled) return 'paused';
  if (marks.due !== null || marks.missed !== null || marks.isClaimed) return 'scheduled';
  return 'completed';
}

/** A one-shot or loop that a queue cap holds back is tried again later, but stays due at its own time. */
function nextRunOf(timing: Timing, { due, missed, held }: Marks): number | null {
  if (due === null)
    return missed === null || timing.kind === 'every' || timing.kind === 'calendar' ? null : Number(missed);
  if (timing.kind === 'once') return timing.atMs;
  if (timing.kind === 'loop' && held !== null && held !== '-') return Number(held);
  return decodeScore(due).atMs;
}

function originOf({ id, timing, nowOffsetMs }: StoredDefinition, nextRunAtMs: number | null): number | null {
  switch (timing.kind) {
    case 'every':
      if (timing.phase === 'now') return nowOffsetMs;
      return timing.phase === 'spread' ? spreadOffsetMs(id, timing.everyMs) : timing.phase;
    case 'once':
      return timing.atMs;
    default:
      return nextRunAtMs;
  }
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

/** The error while the namespace is not in Redis. */
export function namespaceGone(name: string): RingbeatError {
  return new RingbeatError('NAMESPACE_GONE', { namespace: name });
}
