import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import type { Test } from 'tap';
import {
  type Definition,
  encodeDefinition,
  encodeShared,
  encodeTemplate,
  spreadOffsetMs,
  type Template,
  type Timing,
} from '../../lua/definition.ts';
import { type DispatchReply, type DispatchRequest, dispatch } from '../../lua/dispatch.ts';
import { type NamespaceKeys, namespaceKeys, type ShardKeys, shardKeys } from '../../lua/keys.ts';
import { openNamespace } from '../../lua/open-namespace.ts';
import { type PutEntry, type PutOutcome, putSchedules, type SharedText } from '../../lua/put-schedules.ts';
import { decodeScore, type Score } from '../../lua/score.ts';
import { encodeTimes, type Times } from '../../lua/times.ts';
import { until } from '../support/eventually.ts';
import { withRedis } from '../support/redis-server.ts';

/** What a test says of a schedule; the rest is as a spec's defaults. Times are ms. */
export interface ScheduleParts extends Partial<Omit<Definition, 'timing'>>, Partial<Template> {
  readonly id: string;
  readonly every?: number;
  readonly phase?: 'spread' | 'now' | number;
  readonly at?: number;
  readonly in?: number;
  readonly startMs?: number;
  readonly maxRuns?: number;
  readonly jitterMs?: number;
  /** A loop with this pause. */
  readonly after?: number;
  readonly retry?: { readonly delayMs: number; readonly maxDelayMs: number };
  readonly calendar?: TimesParts;
  readonly exclusion?: TimesParts;
}

/** Times computed ahead; texts of one name are one calendar. */
export interface TimesParts extends Times {
  readonly name?: string;
  readonly refillAtMs?: number;
}

export const EPOCH = 'epoch-1';

/** The definition and template of a schedule, as the registry hands them to `put-schedules`. */
export function entry(parts: ScheduleParts, namespace = 'rb'): PutEntry {
  const definition: Definition = {
    id: parts.id,
    timing: timingOf(parts),
    isExcluding: parts.exclusion !== undefined,
    endMs: parts.endMs ?? null,
    args: parts.args ?? [],
    kwargs: parts.kwargs ?? {},
    headers: parts.headers ?? {},
    tags: parts.tags ?? [],
    enabled: parts.enabled ?? true,
  };
  const template: Template = {
    task: parts.task ?? 'monitor.check',
    queue: parts.queue ?? 'celery',
    queueCap: parts.queueCap ?? null,
    misfire: parts.misfire ?? { policy: 'latest', graceMs: null },
    expires: parts.expires ?? null,
    priority: parts.priority ?? null,
    timeLimit: parts.timeLimit ?? null,
    softTimeLimit: parts.softTimeLimit ?? null,
    ignoreResult: parts.ignoreResult ?? true,
    overlap: parts.overlap ?? 'allow',
    isLoop: parts.after !== undefined,
    worker: parts.worker ?? null,
  };
  const { calendar, exclusion } = parts;
  return {
    id: parts.id,
    template: encodeTemplate(template, namespace),
    calendar: calendar === undefined ? undefined : shared('calendar', calendar),
    exclusion: exclusion === undefined ? undefined : shared('exclusion', exclusion),
    ...encodeDefinition(definition),
  };
}

/** A calendar or exclusion with the times that the test gives it; they are to be computed further when it says so. */
function shared(kind: 'calendar' | 'exclusion', { name = kind, refillAtMs = 8e15, ...times }: TimesParts): SharedText {
  return { text: encodeShared(kind, JSON.stringify({ name })), times: encodeTimes(times), refillAtMs };
}

function timingOf(parts: ScheduleParts): Timing {
  const common = {
    startMs: parts.startMs ?? null,
    maxRuns: parts.maxRuns ?? null,
    jitterMs: parts.jitterMs ?? 0,
  };
  if (parts.calendar !== undefined) return { kind: 'calendar', ...common };
  if (parts.after !== undefined) return { kind: 'loop', afterMs: parts.after, retry: parts.retry ?? null, ...common };
  if (parts.at === undefined && parts.in === undefined)
    return { kind: 'every', everyMs: parts.every ?? 10_000, phase: parts.phase ?? 'spread', ...common };
  return { kind: 'once', atMs: parts.at ?? null, inMs: parts.in ?? null, ...common };
}

/** A message as it lies in a queue. */
export interface Sent {
  readonly raw: string;
  readonly id: string;
  readonly tag: string;
  readonly schedule: string;
  readonly due: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly properties: Readonly<Record<string, unknown>>;
  /** `[args, kwargs, embed]`. */
  readonly body: readonly unknown[];
}

/** A namespace with one shard on a Redis of the test's own. */
export interface Store {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  readonly keys: ShardKeys;
  put(...schedules: readonly ScheduleParts[]): Promise<PutOutcome[]>;
  /** Puts an interval schedule and moves its next run to this instant, which is on its grid. */
  putDue(parts: ScheduleParts & { readonly dueMs: number }): Promise<void>;
  /** One call for the shard. Runs are never missed, only late, unless the test says so. */
  dispatch(request?: Partial<DispatchRequest>): Promise<DispatchReply>;
  /** Parks a message as it lies in Redis. */
  park(id: string, list: string, envelope: string, atMs: number): Promise<void>;
  /** Redis TIME, ms. */
  now(): Promise<number>;
  /** Waits until Redis TIME is past this instant. */
  passes(atMs: number): Promise<void>;
  score(id: string): Promise<Score | null>;
  /** The messages of a list, first pushed first. */
  queue(list?: string): Promise<Sent[]>;
  counts(): Promise<Record<string, number>>;
  /** The shard's dead letters, oldest first. */
  deadLetters(): Promise<Record<string, string>[]>;
  /** Everything in Redis, by key, in a form that can be compared. */
  snapshot(): Promise<Record<string, unknown>>;
}

/** A Redis for the tests of one file; `open` gives each test an empty one. */
export async function storeFactory(t: Test): Promise<() => Promise<Store>> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return async () => {
    await redis.flushall();
    return openStore(redis);
  };
}

async function openStore(redis: Redis): Promise<Store> {
  const names = namespaceKeys('rb');
  const keys = shardKeys('rb', 0);
  await openNamespace(redis, names, { epoch: EPOCH, settings: { format: '1', shards: '1' } });
  const now = async () => {
    const [seconds, micros] = await redis.time();
    return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
  };
  const put = (...schedules: readonly ScheduleParts[]) =>
    putSchedules(redis, names, keys, {
      epoch: EPOCH,
      namespace: 'rb',
      shard: 0,
      entries: schedules.map((parts) => entry(parts)),
    });
  return {
    redis,
    names,
    keys,
    put,
    async putDue({ dueMs, endMs, ...parts }) {
      await put({ phase: dueMs % (parts.every ?? 10_000), ...parts });
      assert.equal(await redis.zadd(keys.due, 'XX', 'CH', dueMs, parts.id), 1, `${parts.id} was in due`);
      if (endMs == null) return;
      // Had the script been told of an end in the past, the schedule would not be due at all.
      const fields = (await redis.hget(keys.definitions, parts.id))!.split('\x1f');
      await redis.hset(keys.definitions, parts.id, fields.with(3, String(endMs)).join('\x1f'));
    },
    dispatch: (request = {}) =>
      dispatch(redis, names, {
        epoch: EPOCH,
        shards: [keys],
        limit: 1_000,
        graceMs: 0,
        misfireThresholdMs: 1e15,
        queueCap: 1_000_000,
        recoveryRate: 0,
        missedFirst: false,
        ...request,
      }),
    async park(id, list, envelope, atMs) {
      await redis.hset(keys.parked, id, [list, `tag-${id}`, envelope].join('\x1f'));
      await redis.zadd(keys.extra, atMs, id);
    },
    now,
    passes: (atMs) => until(async () => (await now()) > atMs, `Redis TIME is past ${atMs}`, { everyMs: 2 }),
    async score(id) {
      const score = await redis.zscore(keys.due, id);
      return score === null ? null : decodeScore(score);
    },
    queue: async (list = 'celery') => (await redis.lrange(list, 0, -1)).reverse().map(parseMessage),
    async counts() {
      const counts = await redis.hgetall(keys.counts);
      return Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, Number(count)]));
    },
    async deadLetters() {
      const entries = await redis.xrange(keys.deadLetters, '-', '+');
      return entries.map(([, flat]) => fieldsOf(flat));
    },
    snapshot: () => snapshot(redis),
  };
}

export function parseMessage(raw: string): Sent {
  const { headers, properties, body } = JSON.parse(raw);
  return {
    raw,
    id: headers.id,
    tag: properties.delivery_tag,
    schedule: headers.ringbeat.schedule,
    due: headers.ringbeat.due,
    headers,
    properties,
    body: JSON.parse(Buffer.from(body, 'base64').toString()),
  };
}

async function snapshot(redis: Redis): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  for (const key of (await redis.keys('*')).sort()) {
    const type = await redis.type(key);
    if (type === 'string') found[key] = (await redis.getBuffer(key))!.toString('hex');
    else if (type === 'hash') found[key] = await redis.hgetall(key);
    else if (type === 'zset') found[key] = await redis.zrange(key, '0', '-1', 'WITHSCORES');
    else if (type === 'list') found[key] = await redis.lrange(key, 0, -1);
    else if (type === 'set') found[key] = (await redis.smembers(key)).sort();
    else found[key] = await redis.xrange(key, '-', '+');
  }
  return found;
}

/** [field, value, ...] as an object. */
export function fieldsOf(flat: readonly string[]): Record<string, string> {
  const fields: Record<string, string> = {};
  for (let i = 0; i + 1 < flat.length; i += 2) fields[flat[i]!] = flat[i + 1]!;
  return fields;
}

/** The first point of a schedule's grid that is strictly later than `afterMs`. */
export function firstGridPoint(parts: ScheduleParts & { readonly phase?: 'spread' | number }, afterMs: number): number {
  const every = parts.every ?? 10_000;
  const offset = typeof parts.phase === 'number' ? parts.phase : spreadOffsetMs(parts.id, every);
  const from = Math.max(afterMs + 1, parts.startMs ?? 0);
  return offset + Math.ceil((from - offset) / every) * every;
}
