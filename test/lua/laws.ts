import type { Redis } from 'ioredis';
import { decodeDefinition, decodeShared, type StoredDefinition } from '../../lua/definition.ts';
import { KOMBU, namespaceKeys, queueLists, type ShardKeys, shardKeys } from '../../lua/keys.ts';
import { decodeTimes } from '../../lua/times.ts';

/**
 * What is wrong in a namespace by the conservation laws of `lua/keys.ts`, a line for each; empty where they hold. Only for a quiet point: shards are read key by key.
 */
export async function brokenLaws(redis: Redis, namespace: string, shards: number): Promise<string[]> {
  const broken: string[] = [];
  const missing = await redis.hgetall(namespaceKeys(namespace).recovery);
  for (let shard = 0; shard < shards; shard++) {
    const found = await readShard(redis, shardKeys(namespace, shard));
    const laws = new Laws(shard);
    checkPlaces(laws, found);
    checkJournal(laws, found);
    checkTexts(laws, found);
    checkExtras(laws, found);
    if (found.missed.size > 0) laws.that(found.keys.prefix in missing, 'missed runs wait and no node is told of it');
    broken.push(...laws.broken);
  }
  for (const waiting of await redis.keys(`${namespace}:worker:*:waiting`)) {
    const stray = await redis.sdiff(waiting, waiting.replace(/waiting$/, 'reserved'));
    if (stray.length > 0) broken.push(`${waiting} has what its worker does not hold: ${stray.join(', ')}`);
  }
  return broken;
}

/**
 * Runs in flight whose message is not in exactly one place of queue, `unacked` and `parked`, a line for each. Only where
 * bundled workers alone take messages, and nobody purges queues.
 */
export async function strayFlights(redis: Redis, namespace: string, shards: number): Promise<string[]> {
  const stray: string[] = [];
  const queued = new Map<string, readonly string[]>();
  const unacked = new Set(await redis.hkeys(KOMBU.unacked));
  for (let shard = 0; shard < shards; shard++) {
    const keys = shardKeys(namespace, shard);
    const parked = await redis.hgetall(keys.parked);
    for (const [id, text] of Object.entries(await redis.hgetall(keys.journal))) {
      const { tag, list } = flightOf(text);
      const [queue = ''] = list.split(KOMBU.separator);
      for (const one of queueLists(queue)) if (!queued.has(one)) queued.set(one, await redis.lrange(one, 0, -1));
      const copies = queueLists(queue).flatMap((one) => queued.get(one)!.filter((text) => text.includes(tag)));
      const parkedCopies = Object.values(parked).filter((value) => value.split('\x1f')[1] === tag);
      const places = copies.length + parkedCopies.length + (unacked.has(tag) ? 1 : 0);
      if (places !== 1) stray.push(`shard ${shard}: the run of ${id} with tag ${tag} is in ${places} places`);
    }
  }
  return stray;
}

class Laws {
  readonly broken: string[] = [];
  readonly #shard: number;

  constructor(shard: number) {
    this.#shard = shard;
  }

  that(holds: boolean, otherwise: string): void {
    if (!holds) this.broken.push(`shard ${this.#shard}: ${otherwise}`);
  }

  same(found: Iterable<string>, wanted: Iterable<string>, what: string): void {
    const [one, other] = [found, wanted].map((names) => JSON.stringify([...names].sort()));
    this.that(one === other, `${what}: ${one} is not ${other}`);
  }
}

interface Shard {
  readonly keys: ShardKeys;
  readonly definitions: ReadonlyMap<string, StoredDefinition>;
  readonly zsets: Readonly<Record<(typeof ZSETS)[number], ReadonlyMap<string, number>>>;
  readonly hashes: Readonly<Record<(typeof HASHES)[number], ReadonlyMap<string, string>>>;
  readonly missed: ReadonlyMap<string, number>;
  /** Schedules with a list of extra runs. */
  readonly backlogs: readonly string[];
}

const ZSETS = ['due', 'claims', 'completed', 'deadlines', 'missed', 'extra', 'refills'] as const;
const HASHES = [
  'last',
  'runs',
  'journal',
  'flights',
  'held',
  'failures',
  'missedRanges',
  'dropped',
  'parked',
  'templates',
  'templateIds',
  'templateUses',
  'times',
] as const;

async function readShard(redis: Redis, keys: ShardKeys): Promise<Shard> {
  const hash = async (key: string) => new Map(Object.entries(await redis.hgetall(key)));
  const zsets = await readAll(ZSETS, async (name) => {
    const flat = await redis.zrange(keys[name], '0', '-1', 'WITHSCORES');
    return new Map(flat.flatMap((member, i) => (i % 2 === 0 ? [[member, Number(flat[i + 1])] as const] : [])));
  });
  const hashes = await readAll(HASHES, (name) => hash(keys[name]));
  const definitions = [...(await hash(keys.definitions))].map(
    ([id, text]) => [id, decodeDefinition(id, text)] as const,
  );
  const backlogPrefix = `${keys.prefix}backlog:`;
  const backlogs = (await scan(redis, keys.prefix)).filter((key) => key.startsWith(backlogPrefix));
  return {
    keys,
    definitions: new Map(definitions),
    zsets,
    hashes,
    missed: zsets.missed,
    backlogs: backlogs.map((key) => key.slice(backlogPrefix.length)),
  };
}

async function readAll<Name extends string, Value>(
  names: readonly Name[],
  read: (name: Name) => Promise<Value>,
): Promise<Record<Name, Value>> {
  const entries = await Promise.all(names.map(async (name) => [name, await read(name)] as const));
  return Object.fromEntries(entries) as Record<Name, Value>;
}

/** The keys that begin with a prefix; no character of it is one of glob's but the braces, which are plain to Redis. */
async function scan(redis: Redis, prefix: string): Promise<string[]> {
  const found = new Set<string>();
  let cursor = '0';
  do {
    const [next, keys] = await redis.scan(cursor, 'MATCH', `${prefix}*`, 'COUNT', 1_000);
    for (const key of keys) found.add(key);
    cursor = next;
  } while (cursor !== '0');
  return [...found];
}

/** Law 1: a schedule with runs to come waits in exactly one place; and nothing is kept of one that is not there. */
function checkPlaces(laws: Laws, shard: Shard): void {
  const { definitions, zsets, hashes } = shard;
  for (const [id, definition] of definitions) checkPlace(laws, shard, id, definition);
  const perSchedule = {
    ...{ due: zsets.due, claims: zsets.claims, completed: zsets.completed, deadlines: zsets.deadlines },
    ...{ missed: zsets.missed, last: hashes.last, runs: hashes.runs, journal: hashes.journal, held: hashes.held },
    ...{ failures: hashes.failures, missedRanges: hashes.missedRanges, dropped: hashes.dropped },
  };
  for (const [name, members] of Object.entries(perSchedule))
    for (const id of members.keys()) laws.that(definitions.has(id), `${name} tells of ${id}, which does not exist`);
  for (const id of hashes.missedRanges.keys())
    laws.that(zsets.missed.has(id), `${id} has missed ranges and no missed run`);
}

function checkPlace(
  laws: Laws,
  shard: Shard,
  id: string,
  { timing, enabled, endMs, calendar }: StoredDefinition,
): void {
  const { zsets, hashes } = shard;
  const { due, claims, missed, completed } = zsets;
  const { journal } = hashes;
  const isSingle = timing.kind === 'loop' || timing.kind === 'once';
  const places = [
    ...(due.has(id) ? ['due'] : []),
    ...(claims.has(id) ? ['claims'] : []),
    ...(isSingle && missed.has(id) ? ['missed'] : []),
    ...(timing.kind === 'loop' && journal.has(id) ? ['journal'] : []),
    ...(completed.has(id) ? ['completed'] : []),
  ];
  const where = `${id} (${timing.kind}) is in [${places.join(', ')}]`;
  laws.that(!completed.has(id) || timing.kind === 'once', `${where}, and only one-shots complete`);
  const held = hashes.held.get(id);
  const score = due.get(id);
  const isHeld = score !== undefined && score % 1 !== 0;
  if (held !== undefined) {
    const isKept = held === '-' || !enabled || isHeld || journal.has(id);
    laws.that(timing.kind === 'loop' && isKept, `${where}, and held says ${held}`);
  }
  laws.that(!hashes.runs.has(id) || timing.maxRuns !== null, `${id} has no max_runs, and its runs are counted`);
  if (!enabled) {
    const waits = due.has(id) || claims.has(id) || missed.has(id);
    laws.that(!waits, `${where}, missed ${missed.has(id)}, and is paused`);
    return;
  }
  const isExhausted = timing.maxRuns !== null && Number(hashes.runs.get(id) ?? 0) >= timing.maxRuns;
  const seriesEnds = calendar !== null && decodeTimes(hashes.times.get(calendar) ?? '').untilMs === null;
  const mayBeNowhere = timing.kind !== 'once' && (isExhausted || endMs !== null || seriesEnds || held === '-');
  laws.that(places.length === 1 || (places.length === 0 && mayBeNowhere), `${where}, not in one place`);
}

interface Flight {
  readonly taskId: string;
  readonly tag: string;
  readonly list: string;
}

function flightOf(text: string): Flight {
  const [taskId = '', , , , tag = '', list = ''] = text.split('\x1f');
  return { taskId, tag, list };
}

/** A run in flight has its deadline; that of a Celery worker is found by its task id. */
function checkJournal(laws: Laws, { hashes, zsets }: Shard): void {
  laws.same(zsets.deadlines.keys(), hashes.journal.keys(), 'deadlines and journal');
  for (const [taskId, id] of hashes.flights) {
    const run = hashes.journal.get(id);
    laws.that(run !== undefined && flightOf(run).taskId === taskId, `${taskId} is of ${id}, and not its run in flight`);
  }
}

/** Shared texts are there as long as they are used, and counted right. */
function checkTexts(laws: Laws, { definitions, hashes, zsets }: Shard): void {
  const uses = new Map<string, number>();
  for (const { template, calendar, exclusion } of definitions.values()) {
    for (const number of [template, calendar, exclusion])
      if (number !== null) uses.set(number, (uses.get(number) ?? 0) + 1);
  }
  const wanted = [...uses].map(([number, count]) => `${number}: ${count}`);
  laws.same(
    [...hashes.templateUses].map(([number, count]) => `${number}: ${count}`),
    wanted,
    'uses of texts',
  );
  laws.same(hashes.templates.keys(), uses.keys(), 'texts');
  laws.same(hashes.templateIds.values(), uses.keys(), 'texts by their SHA1');
  const computed = [...hashes.templates].filter(([, text]) => decodeShared(text).kind !== 'template');
  laws.same(
    hashes.times.keys(),
    computed.map(([number]) => number),
    'times computed ahead',
  );
  for (const number of zsets.refills.keys())
    laws.that(hashes.times.has(number), `${number} is to be refilled and has no times`);
  for (const [number, text] of hashes.times) checkTimes(laws, number, text, zsets.refills.has(number));
}

function checkTimes(laws: Laws, number: string, text: string, isRefilled: boolean): void {
  const { untilMs, values } = decodeTimes(text);
  laws.that(untilMs === null || isRefilled, `${number} ends at ${untilMs}, and nobody computes it further`);
  laws.that(
    values.every((value, i) => i === 0 || value >= values[i - 1]!),
    `the times of ${number} do not ascend`,
  );
}

/** Law 2, as far as the shard goes: whoever has extra runs is looked after, and a parked message too. */
function checkExtras(laws: Laws, { definitions, zsets, hashes, backlogs }: Shard): void {
  const members = [...zsets.extra.keys()];
  laws.same(
    members.filter((member) => member.startsWith('\x1f')).map((member) => member.slice(1)),
    backlogs,
    'schedules with extra runs, and lists of them',
  );
  for (const id of backlogs) laws.that(definitions.has(id), `extra runs of ${id}, which does not exist`);
  laws.same(
    members.filter((member) => !member.startsWith('\x1f')),
    hashes.parked.keys(),
    'when parked messages go back, and the messages',
  );
}
