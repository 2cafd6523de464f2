import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { decodeDefinition, spreadOffsetMs } from '../../lua/definition.ts';
import { backlogKey, type ShardKeys, shardKeys, shardOf } from '../../lua/keys.ts';
import { createSpecSchema, parseSpec, type ScheduleSpec } from '../../schedule/spec.ts';
import type { Chance } from '../support/chance.ts';
import { type Fleet, SHARDS } from './history-fleet.ts';
import { duesOf, randomEdit, randomSpec, type SpecJson } from './history-specs.ts';

/** A time during which a schedule had one spec and was enabled. Redis times, ms. */
export interface Era {
  readonly spec: ScheduleSpec;
  /** As `nextRuns` takes it. */
  readonly originMs: number | null;
  /** What is due from here on may run, and from there on must. */
  readonly mayFromMs: number;
  readonly mustFromMs: number;
  /** What is due before this must run, and up to there it may. */
  mustUntilMs: number;
  mayUntilMs: number;
}

export interface Page {
  readonly id: string;
  readonly keys: ShardKeys;
  /** As it was put last; null once it is deleted. */
  json: SpecJson | null;
  /** As it was put last, also after it was deleted. */
  last: SpecJson;
  spec: ScheduleSpec;
  enabled: boolean;
  readonly eras: Era[];
  /** Task ids that triggers answered; true where the run must come. */
  readonly triggered: Map<string, boolean>;
  /** Runs of triggers and backfills that nobody knows to have been asked for. */
  unknownExtras: number;
  /** How often each due time was to be made up for. */
  readonly backfilled: Map<number, number>;
  /** Made-up runs that a deletion may have come before. */
  cancelledBackfills: number;
  /** Runs that the misfire policy dropped, up to the deletions of the schedule. */
  dropped: number;
  deletions: number;
  /** Due times that a change may have taken away while they were held back by a run in flight. */
  readonly maybe: Set<number>;
}

/** What is known of a schedule at one instant. */
interface Standing {
  readonly nowMs: number;
  /** What was due before this has been sent, or dropped for a reason. */
  readonly decidedUntilMs: number;
  readonly dueMs: number | null;
  readonly heldBack: readonly number[];
  readonly backlog: readonly string[];
  readonly dropped: number;
}

const schema = createSpecSchema('rb');

function checked(id: string, json: SpecJson): ScheduleSpec {
  const result = parseSpec(schema, Buffer.from(JSON.stringify({ ...json, id })));
  assert.ok(result.ok, JSON.stringify(result));
  return result.spec;
}

/** Asks for changes to schedules through whichever node is there, and notes what was asked and when. */
export class Book {
  readonly pages = new Map<string, Page>();
  readonly #fleet: Fleet;
  readonly #chance: Chance;
  readonly #most: number;
  #requests = 0;
  #ids = 0;

  /** `most` schedules live at one time. */
  constructor(fleet: Fleet, chance: Chance, most: number) {
    this.#fleet = fleet;
    this.#chance = chance;
    this.#most = most;
  }

  get live(): Page[] {
    return [...this.pages.values()].filter(({ json }) => json !== null);
  }

  /** Asks for one change, of whatever kind. */
  async change(): Promise<void> {
    const { live } = this;
    if (live.length < this.#most && this.#chance.next() < 0.5) return this.#register();
    if (live.length === 0) return this.#register();
    const page = this.#chance.pick(live);
    switch (this.#chance.weighted({ edit: 4, pause: 3, resume: 5, delete: 1, trigger: 4, backfill: 2 })) {
      case 'edit':
        return this.#put(page.id, randomEdit(this.#chance, page.json!, await redisNow(this.#fleet.redis)));
      case 'pause':
        return this.#setEnabled(page, false);
      case 'resume':
        return this.#setEnabled(page, true);
      case 'delete':
        return this.#delete(page);
      case 'trigger':
        return this.#trigger(page);
      case 'backfill':
        return this.#backfill(page);
    }
  }

  /** Registers until there are as many as there may be. */
  async fill(): Promise<void> {
    while (this.live.length < this.#most) await this.#register();
  }

  async resumeAll(): Promise<void> {
    for (const page of this.live) if (!page.enabled) await this.#setEnabled(page, true);
  }

  async deleteAll(): Promise<void> {
    for (const page of this.live) await this.#delete(page);
  }

  async #register(): Promise<void> {
    const nowMs = await redisNow(this.#fleet.redis);
    const gone = [...this.pages.values()].filter(
      ({ spec, json }) => json === null && !isOnce(spec) && spec.max_runs === null,
    );
    // A spec may come back under its id: as another schedule, which knows nothing of the first.
    if (gone.length > 0 && this.#chance.next() < 0.2) {
      const { id, last } = this.#chance.pick(gone);
      return this.#put(id, last);
    }
    await this.#put(`h${this.#ids++}`, randomSpec(this.#chance, nowMs));
  }

  async #put(id: string, json: SpecJson): Promise<void> {
    const page = this.pages.get(id) ?? this.#newPage(id, json);
    await this.#altering(page, `PUT ${id} ${JSON.stringify(json)}`, async () => {
      await this.#ask('PUT', `/v1/schedules/${id}`, json, [200, 201]);
      page.json = json;
      page.last = json;
      page.spec = checked(id, json);
      page.enabled = json.enabled !== false;
    });
  }

  #newPage(id: string, json: SpecJson): Page {
    const page: Page = {
      id,
      keys: shardKeys('rb', shardOf(id, SHARDS)),
      json: null,
      last: json,
      spec: checked(id, json),
      enabled: false,
      eras: [],
      triggered: new Map(),
      unknownExtras: 0,
      backfilled: new Map(),
      cancelledBackfills: 0,
      dropped: 0,
      deletions: 0,
      maybe: new Set(),
    };
    this.pages.set(id, page);
    return page;
  }

  #setEnabled(page: Page, enabled: boolean): Promise<void> {
    const action = enabled ? 'resume' : 'pause';
    return this.#altering(page, `${action} ${page.id}`, async () => {
      await this.#ask('POST', `/v1/schedules/${page.id}/${action}`, undefined, [200]);
      page.enabled = enabled;
      // What is put from here on says so as well.
      page.json = { ...page.json!, enabled };
    });
  }

  async #delete(page: Page): Promise<void> {
    await this.#altering(page, `DELETE ${page.id}`, async (before) => {
      await this.#ask('DELETE', `/v1/schedules/${page.id}`, undefined, [204, 404]);
      page.dropped += before.dropped;
      page.deletions += 1;
      page.json = null;
      page.enabled = false;
      // Cancels what is not yet in a queue.
      for (const item of before.backlog) {
        const [, kind, run] = /^(\w)(\d*):/.exec(item)!;
        if (kind === 'b') page.cancelledBackfills += 1;
        const last = `-f${Number(run).toString(16).padStart(11, '0')}`;
        if (kind === 't') for (const id of page.triggered.keys()) if (id.endsWith(last)) page.triggered.set(id, false);
      }
    });
  }

  /** Runs a change, and ends and begins eras by what is known before and after it. */
  async #altering(page: Page, line: string, alter: (before: Standing) => Promise<void>): Promise<void> {
    const before = await this.#standing(page);
    await alter(before);
    const afterMs = await redisNow(this.#fleet.redis);
    this.#fleet.tell(`${line} [${before.nowMs} to ${afterMs}]`);
    const era = page.eras.at(-1);
    if (era !== undefined && era.mayUntilMs === Infinity) {
      era.mustUntilMs = before.decidedUntilMs;
      era.mayUntilMs = afterMs;
      for (const due of before.heldBack) page.maybe.add(due);
    }
    // What a trigger starts of a waiting loop is its next run, and no longer so when the loop changes before that.
    if (isLoop(page.spec) && before.dueMs !== null) {
      const last = `-${Math.floor(before.dueMs).toString(16).padStart(12, '0')}`;
      for (const id of page.triggered.keys()) if (id.endsWith(last)) page.triggered.set(id, false);
    }
    if (page.json === null || !page.enabled) return;
    page.eras.push({
      spec: page.spec,
      originMs: await this.#originMs(page),
      mayFromMs: isOnce(page.spec) ? 0 : before.nowMs,
      mustFromMs: isOnce(page.spec) && page.eras.length === 0 ? 0 : afterMs + 1,
      mustUntilMs: Infinity,
      mayUntilMs: Infinity,
    });
  }

  async #trigger(page: Page): Promise<void> {
    const { status, body } = await this.#ask('POST', `/v1/schedules/${page.id}/trigger`, undefined, [202, 409]);
    this.#fleet.tell(`trigger ${page.id}: ${status} ${JSON.stringify(body)}`);
    if (status === 202) page.triggered.set(body.task_id, true);
    else if (!isLoop(page.spec) || /still being answered/.test(body.detail)) page.unknownExtras += 1;
  }

  async #backfill(page: Page): Promise<void> {
    if (isLoop(page.spec) || isOnce(page.spec) || page.spec.overlap !== 'allow') return;
    const nowMs = await redisNow(this.#fleet.redis);
    const fromMs = nowMs - this.#chance.integer(2_000, 6_000);
    const toMs = nowMs - 1_000;
    const range = { from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString() };
    const { status, body } = await this.#ask('POST', `/v1/schedules/${page.id}/backfill`, range, [202, 409]);
    this.#fleet.tell(`backfill ${page.id} ${fromMs} to ${toMs}: ${status} ${JSON.stringify(body)}`);
    const dues = duesOf(page.spec, await this.#originMs(page), fromMs, toMs - 1);
    if (status === 409) {
      page.unknownExtras += dues.length;
      return;
    }
    assert.equal(body.runs, dues.length, `${page.id} is made up for from ${fromMs} to ${toMs}`);
    for (const due of dues) page.backfilled.set(due, (page.backfilled.get(due) ?? 0) + 1);
  }

  /** One instant's view of a schedule. */
  async #standing({ id, keys }: Page): Promise<Standing> {
    const replies = await this.#fleet.redis
      .multi()
      .time()
      .zscore(keys.due, id)
      .zscore(keys.missed, id)
      .zscore(keys.claims, id)
      .hget(keys.journal, id)
      .lrange(backlogKey(keys, id), 0, -1)
      .hget(keys.dropped, id)
      .exec();
    assert.ok(replies);
    const [time, due, missed, claim, flight, backlog, dropped] = replies.map(([error, value]) => {
      if (error) throw error;
      return value;
    }) as [[string, string], string | null, string | null, string | null, string | null, string[], string | null];
    const buffered = flight?.split('\x1f')[6] ?? '';
    return {
      nowMs: milliseconds(time),
      decidedUntilMs: Math.min(
        due === null ? Infinity : Math.floor(Number(due)),
        missed === null ? Infinity : Number(missed),
        claim === null ? Infinity : Number(claim) + 1,
      ),
      dueMs: due === null ? null : Number(due),
      heldBack: [
        ...(buffered === '' ? [] : [Number(buffered)]),
        ...backlog.filter((item) => item.startsWith('o')).map((item) => Number(item.split(':')[1])),
      ],
      backlog,
      dropped: Number(dropped ?? 0),
    };
  }

  /** What the spec does not tell of its grid, from what is stored. */
  async #originMs({ id, keys }: Page): Promise<number | null> {
    const text = await this.#fleet.redis.hget(keys.definitions, id);
    assert.ok(text, `${id} is stored`);
    const { timing, nowOffsetMs } = decodeDefinition(id, text);
    if (timing.kind === 'once') return timing.atMs;
    if (timing.kind !== 'every') return null;
    return nowOffsetMs ?? (typeof timing.phase === 'number' ? timing.phase : spreadOffsetMs(id, timing.everyMs));
  }

  /** Asks until a node answers; a request that is sent again does nothing again. */
  async #ask(method: string, path: string, body: object | undefined, statuses: readonly number[]) {
    const key = `history-${this.#requests++}`;
    for (let failures = 0; ; failures++) {
      const { api, pid } = this.#fleet.beat;
      try {
        const answer = await fetch(api + path, {
          method,
          headers: {
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
            // Whoever died while it answered keeps the key for a while, so only what is not to be done twice has one.
            ...(/(trigger|backfill)$/.test(path) ? { 'idempotency-key': key } : {}),
          },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
          signal: AbortSignal.timeout(60_000),
        });
        const text = await answer.text();
        if (statuses.includes(answer.status))
          return { status: answer.status, body: text === '' ? null : JSON.parse(text) };
        assert.ok(answer.status >= 500, `${method} ${path} ${JSON.stringify(body)}: ${answer.status} ${text}`);
        this.#fleet.tell(`${method} ${path} at ${pid}: ${answer.status}`);
      } catch (error) {
        if (error instanceof assert.AssertionError || failures > 200) throw error;
        this.#fleet.tell(`${method} ${path} at ${pid}: ${error}`);
      }
      await sleep(200);
    }
  }
}

export function isOnce({ schedule }: ScheduleSpec): boolean {
  return 'at' in schedule || 'in' in schedule;
}

export function isLoop({ schedule }: ScheduleSpec): boolean {
  return 'after' in schedule;
}

export async function redisNow(redis: Redis): Promise<number> {
  return milliseconds((await redis.time()) as unknown as [string, string]);
}

function milliseconds([seconds, micros]: readonly [string | number, string | number]): number {
  return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
}
