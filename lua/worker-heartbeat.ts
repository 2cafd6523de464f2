import type { Redis } from 'ioredis';
import { namespaceKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('worker-heartbeat');

/** A beat node counts as alive for this long after its last heartbeat, ms. */
const BEAT_LEASE_MS = 5_000;

export interface WorkerHeartbeatReply {
  readonly nowMs: number;
  /** Live beat nodes of the namespace. */
  readonly beats: number;
  /** Shards of the namespace; 0 while there is none. */
  readonly shards: number;
}

/** Says that a worker lives, and learns whether its namespace has beat nodes. */
export async function workerHeartbeat(
  redis: Redis,
  namespace: string,
  workerId: string,
): Promise<WorkerHeartbeatReply> {
  const names = namespaceKeys(namespace);
  const reply = await script.run(redis, [names.workers, names.nodes, names.meta], [workerId, BEAT_LEASE_MS]);
  const [nowMs, beats, shards] = listReply(script, reply);
  return {
    nowMs: integerReply(script, nowMs),
    beats: integerReply(script, beats),
    shards: integerReply(script, shards),
  };
}
