import type { Redis } from 'ioredis';
import { KOMBU, namespaceKeys } from './keys.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('find-lost');

export interface FindLostRequest {
  /** A worker without heartbeat for longer is dead, ms; 0: do not look for them. */
  readonly leaseMs: number;
  /** A message unacked for longer is lost, ms; 0: do not look for them. */
  readonly visibilityMs: number;
  /** 1 to 1,000 of each. */
  readonly limit: number;
  /** Redis time as the caller expects it, ms: when it is something else, the clock has just stepped and nobody is judged. */
  readonly expectedNowMs: number;
}

export interface Lost {
  readonly nowMs: number;
  /** Ids of dead workers, longest dead first. */
  readonly workers: readonly string[];
  /** Messages of whatever consumer, with the score they had in `unacked_index`, longest delivered first. */
  readonly messages: readonly { readonly tag: string; readonly score: string }[];
}

/** Who died, and which messages were delivered too long ago. Changes nothing. */
export async function findLost(redis: Redis, namespace: string, request: FindLostRequest): Promise<Lost> {
  const reply = await script.run(
    redis,
    [namespaceKeys(namespace).workers, KOMBU.unackedIndex],
    [request.leaseMs, request.visibilityMs, request.limit, Math.round(request.expectedNowMs)],
  );
  const [nowMs, workers, pairs] = listReply(script, reply);
  const messages: { tag: string; score: string }[] = [];
  const flat = listReply(script, pairs ?? null).map(String);
  for (let at = 0; at + 1 < flat.length; at += 2) messages.push({ tag: flat[at]!, score: flat[at + 1]! });
  return { nowMs: integerReply(script, nowMs), workers: listReply(script, workers ?? null).map(String), messages };
}
