/**
 * The data model: every Redis key that Ringbeat reads or writes, with its type, content and lifetime.
 *
 * Two conservation laws hold at every quiet point, and every Lua script moves something across one of their lines:
 *
 *   1. An enabled schedule with runs to come is in exactly one of its shard's: `due`; `claims` (its next run is being
 *      computed); `journal` (a loop whose run is in flight); `missed` (a one-shot or loop whose missed run waits its turn).
 *   2. A message is in exactly one of: a queue, `unacked`, `parked`, a dead-letter stream, or settled.
 *
 * All keys of a namespace begin with `<namespace>:`. All keys of one shard share the hash tag `{<shard>}`, so that
 * they lie in one slot of a Redis Cluster; scripts are handed its `due` and name the others by the same prefix
 * (`lua/include/shard-keys.lua`).
 */

export interface NamespaceKeys {
  /** hash, for ever: `format`, `epoch`, `shards` and the settings that `ringbeat namespace set` changes. */
  readonly meta: string;
  /** string, for ever: the epoch of the namespace that was deleted here last. */
  readonly tombstone: string;
  /** zset: beat node id -> Redis time of its last heartbeat, ms since epoch. */
  readonly nodes: string;
  /** hash: beat node id -> JSON of what `GET /v1/nodes` shows. */
  readonly nodeInfo: string;
  /** pub/sub channel: `<shard>:<due ms>` when something became due sooner; `members` when the set of nodes changed. */
  readonly wake: string;
  /** zset: bundled worker id -> Redis time of its last heartbeat, ms since epoch. */
  readonly workers: string;
  /** stream, capped: messages that a worker could not decode, or that killed too many of them. */
  readonly workerDeadLetters: string;
  /** hash: delivery tag -> how many workers died while they ran that message's task; gone a week after the last one. */
  readonly crashes: string;
  /** hash: group id -> what follows the chord whose parts are all there (worker/chords.ts), until its body is sent. */
  readonly chords: string;
  /** hash: task -> `<tokens>:<at ms>` of the bucket from which all workers start it, where it has a global rate limit. */
  readonly rates: string;
  /** hash: `tokens` and `at` (ms) of the bucket from which all nodes send missed runs; a field for every shard that has some. */
  readonly recovery: string;
  /** hash, seconds: beat node id -> what its journal on disk holds, while the namespace is not in Redis. */
  readonly announcements: string;
  /** string: `<until ms>:<node id>` of who fills the namespace that is not in Redis; without one nothing is half done. */
  readonly restoring: string;
}

/** Every key of a shard, by the last part of its name, in camel case. */
const SHARD_KEYS = [
  /** zset: schedule id -> next due time, ms since epoch, plus a fraction that tells the last run's lateness (`lua/score.ts`). */
  'due',
  /** hash: schedule id -> definition, what is this schedule's own (`lua/definition.ts`). */
  'definitions',
  /** hash: number -> text that many definitions share: message template, calendar or exclusion (`lua/definition.ts`). */
  'templates',
  /** hash: SHA1 of a shared text -> its number. */
  'template-ids',
  /** hash: number -> how many definitions use the text; it goes with its last use. */
  'template-uses',
  /** hash: number of a calendar or exclusion -> what was computed ahead of it (`lua/times.ts`). */
  'times',
  /** zset: number of a calendar or exclusion -> when to compute it further, ms since epoch. */
  'refills',
  /** zset: schedule id -> strictly after which ms its next run is to be found, once its calendar is computed further. */
  'claims',
  /** hash: schedule id -> `<due>:<lateness>` of its last run, only where the score cannot tell it. */
  'last',
  /** hash: schedule id -> regular runs sent, where max_runs bounds them. */
  'runs',
  /** zset: completed one-shot -> Redis time of completion, with the fraction of `due`; swept after --keep-completed. */
  'completed',
  /**
   * hash: schedule id -> its run in flight, of loops and of schedules whose runs must not overlap; joined by U+001F: task id,
   * due ms, run, attempt, delivery tag, list key, due of the run that overlap holds back or '', dispatched at ms.
   */
  'journal',
  /** hash: task id -> schedule id, of the runs in `journal` that a Celery worker may take. */
  'flights',
  /** zset: schedule id -> when to look whether its run in flight can still be running, ms since epoch. */
  'deadlines',
  /** hash: schedule id -> due time of a loop that is held by a queue cap, or paused, ms since epoch. */
  'held',
  /** hash: schedule id -> consecutive failures of a loop with a retry policy. */
  'failures',
  /** zset: schedule id -> oldest missed due time that waits for its turn under --recovery-rate, ms since epoch. */
  'missed',
  /** hash: schedule id -> its missed due times as `<from>-<to>,...`, where it is more than the one. */
  'missed-ranges',
  /** hash: schedule id -> how many of its runs the misfire policy or their expiry dropped. */
  'dropped',
  /** zset: parked message, or U+001F and the id of a schedule with a backlog -> when to try it, ms since epoch. */
  'extra',
  /** hash: parked message (`lua/parked.ts`) -> its list, delivery tag and envelope (`lua/include/parked.lua`). */
  'parked',
  /** hash: totals since the namespace was created; `templates`, `runs` and `changes` number what they count. */
  'counts',
  /** string of 512 u32: lateness of what was dispatched since the owner last moved it to `history` (`lua/lateness.ts`). */
  'lateness',
  /** stream, capped: one entry a second in which something was dispatched, its lateness histogram. */
  'history',
  /** stream, capped, one hour: runs worth telling one by one (`lua/occurrences.ts`). */
  'occurrences',
  /** stream, capped: changes to schedules, while a node keeps a journal on disk. */
  'changes',
  /** stream, capped: what could not be dispatched or was given up, with the reason. */
  'dead-letters',
] as const;

type CamelCase<Text extends string> = Text extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : Text;

export type ShardKeys = { readonly [Name in (typeof SHARD_KEYS)[number] as CamelCase<Name>]: string } & {
  /** What the names of all the shard's keys begin with. */
  readonly prefix: string;
};

export interface WorkerKeys {
  /**
   * hash: `batch`, `tags` and `direct` of the last reserve, `started` and `refused` of the last start: a counter each, with what
   * was answered, for a repeated call; `max_crashes`, the worker's --max-crashes.
   */
  readonly state: string;
  /**
   * string: counter of the last settle, and what was answered, for a repeated call; a day from then on, or until the worker
   * leaves. It outlives what restore forgets: a worker that was only cut off goes on with the call that it was in.
   */
  readonly settled: string;
  /** set: delivery tags that this worker holds in `unacked`. */
  readonly reserved: string;
  /** set: those of them whose tasks it has not started. (Runs whose attempts their schedule counts stay in it.) */
  readonly waiting: string;
  /** list: envelopes that its last reserve acknowledged as it took them. */
  readonly direct: string;
}

export function namespaceKeys(namespace: string): NamespaceKeys {
  return {
    meta: `${namespace}:meta`,
    tombstone: `${namespace}:tombstone`,
    nodes: `${namespace}:nodes`,
    nodeInfo: `${namespace}:node-info`,
    wake: `${namespace}:wake`,
    workers: `${namespace}:workers`,
    workerDeadLetters: `${namespace}:dead-letters`,
    crashes: `${namespace}:crashes`,
    chords: `${namespace}:chords`,
    rates: `${namespace}:rates`,
    recovery: `${namespace}:recovery`,
    announcements: `${namespace}:announcements`,
    restoring: `${namespace}:restoring`,
  };
}

export function shardKeys(namespace: string, shard: number): ShardKeys {
  const prefix = `${namespace}:{${shard}}:`;
  const keys = SHARD_KEYS.map((name) => [name.replace(/-(.)/g, (_, letter) => letter.toUpperCase()), prefix + name]);
  return { prefix, ...Object.fromEntries(keys) };
}

/** list: a schedule's extra runs, the next one first: `t<run>:<due>:<seed>` triggered, `b<run>:<due>` backfilled, `o:<due>` held back. */
export function backlogKey(shard: ShardKeys, id: string): string {
  return `${shard.prefix}backlog:${id}`;
}

export function workerKeys(namespace: string, workerId: string): WorkerKeys {
  const prefix = `${namespace}:worker:${workerId}:`;
  return {
    state: `${prefix}state`,
    settled: `${prefix}settled`,
    reserved: `${prefix}reserved`,
    waiting: `${prefix}waiting`,
    direct: `${prefix}direct`,
  };
}

/** string, 10 minutes: what a request with this id did; in a shard the id that it created, or a bit for each task that it sent, else the API's answer, or that a workflow was sent. */
export function requestKey(owner: ShardKeys | string, requestId: string): string {
  return `${typeof owner === 'string' ? `${owner}:` : owner.prefix}request:${requestId}`;
}

/** Kombu's own keys (kombu/transport/redis.py): shared by every Celery worker and by ours. */
export const KOMBU = {
  /** hash: delivery tag -> JSON `[envelope, exchange, routing key]`. */
  unacked: 'unacked',
  /** zset: delivery tag -> when it was delivered, s since epoch. */
  unackedIndex: 'unacked_index',
  /** Priority steps of the Redis transport; step 0 has no suffix and is served first. */
  prioritySteps: [0, 3, 6, 9],
  separator: '\x06\x16',
} as const;

/** The list that holds `queue`'s messages of this priority (0 to 9): kombu's `_q_for_pri`. */
export function queueList(queue: string, priority: number): string {
  const step = KOMBU.prioritySteps.findLast((step) => step <= priority) ?? 0;
  return step === 0 ? queue : `${queue}${KOMBU.separator}${step}`;
}

/** The queue that a list belongs to. */
export function listQueue(list: string): string {
  return list.split(KOMBU.separator)[0] ?? list;
}

/** All lists of a queue, most urgent first. */
export function queueLists(queue: string): string[] {
  return KOMBU.prioritySteps.map((step) => queueList(queue, step));
}

/** Set in which Celery's tools look a queue up, and the member that a direct queue has in it. */
export function queueBinding(queue: string): { readonly key: string; readonly member: string } {
  return { key: `_kombu.binding.${queue}`, member: [queue, '', queue].join(KOMBU.separator) };
}

/** Where Celery's Redis backend keeps (and publishes) a task's result. */
export function resultKey(taskId: string): string {
  return `celery-task-meta-${taskId}`;
}

/** `CRC16(UTF-8 of the id) mod shards`: the shard that a schedule or parked message lives in. */
export function shardOf(id: string, shards: number): number {
  return crc16(Buffer.from(id)) % shards;
}

/** CRC16/XMODEM, the one of Redis Cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/). */
function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) crc = ((crc << 8) & 0xffff) ^ CRC16_TABLE[((crc >> 8) ^ byte) & 0xff]!;
  return crc;
}

const CRC16_TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  return crc;
});
