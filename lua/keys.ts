/**
 * The data model: every Redis key that Ringbeat reads or writes, with its type, content and lifetime.
 *
 * Two conservation laws hold at every quiet point, and every Lua script moves something across one of their lines:
 *
 *   1. An enabled schedule with runs to come is in its shard's `due` set, exactly once.
 *   2. A message is in exactly one of: a queue, `unacked`, `parked`, a dead-letter stream, or settled.
 *
 * All keys of a namespace begin with `<namespace>:`. All keys of one shard share the hash tag `{<shard>}`, so that
 * they lie in one slot of a Redis Cluster.
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
  /** stream, capped: messages that a worker could not decode. */
  readonly workerDeadLetters: string;
}

export interface ShardKeys {
  /** zset: schedule id -> next due time, ms since epoch, plus a fraction that tells the last run's lateness (`lua/score.ts`). */
  readonly due: string;
  /** hash: schedule id -> definition, what is this schedule's own (`lua/definition.ts`). */
  readonly definitions: string;
  /** hash: number -> message template, shared by all schedules with the same task, queue and options. */
  readonly templates: string;
  /** hash: SHA1 of a template -> its number. */
  readonly templateIds: string;
  /** hash: number -> how many definitions use the template; it goes with its last use. */
  readonly templateUses: string;
  /** hash: schedule id -> `<due>:<lateness>` of its last run, only where the score cannot tell it. */
  readonly last: string;
  /** zset: completed one-shot -> Redis time of completion, with the fraction of `due`; swept after --keep-completed. */
  readonly completed: string;
  /** zset: parked message's delivery tag -> when to try it, ms since epoch. */
  readonly extra: string;
  /** hash: parked message's delivery tag -> `<list key>\x1f<envelope>`. */
  readonly parked: string;
  /** hash: totals since the namespace was created: dispatched, unparked, misfired, refused, refused:<queue>, dead; `templates` numbers them. */
  readonly counts: string;
  /** string of 512 u32: lateness of what was dispatched since the owner last moved it to `history` (`lua/lateness.ts`). */
  readonly lateness: string;
  /** stream, capped: one entry a second in which something was dispatched, its lateness histogram. */
  readonly history: string;
  /** stream, capped: entries of `due` or `extra` that could not be dispatched, with the reason. */
  readonly deadLetters: string;
  /** Prefix of strings, 10 minutes each: request id -> schedule id that the request created. */
  readonly requests: string;
}

export interface WorkerKeys {
  /** hash: `batch` and `tags` of the last reserve, `acked` and `refused` of the last acknowledge, `settled`: counters that make each repeatable. */
  readonly state: string;
  /** set: delivery tags that this worker holds in `unacked`. */
  readonly reserved: string;
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
  };
}

export function shardKeys(namespace: string, shard: number): ShardKeys {
  const prefix = `${namespace}:{${shard}}:`;
  return {
    due: `${prefix}due`,
    definitions: `${prefix}definitions`,
    templates: `${prefix}templates`,
    templateIds: `${prefix}template-ids`,
    templateUses: `${prefix}template-uses`,
    last: `${prefix}last`,
    completed: `${prefix}completed`,
    extra: `${prefix}extra`,
    parked: `${prefix}parked`,
    counts: `${prefix}counts`,
    lateness: `${prefix}lateness`,
    history: `${prefix}history`,
    deadLetters: `${prefix}dead-letters`,
    requests: `${prefix}request:`,
  };
}

export function workerKeys(namespace: string, workerId: string): WorkerKeys {
  const prefix = `${namespace}:worker:${workerId}:`;
  return { state: `${prefix}state`, reserved: `${prefix}reserved` };
}

/** string, 10 minutes: what a request with this id did; in a shard the id that it created, else the API's answer. */
export function requestKey(owner: ShardKeys | string, requestId: string): string {
  return typeof owner === 'string' ? `${owner}:request:${requestId}` : `${owner.requests}${requestId}`;
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
