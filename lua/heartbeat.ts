import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { fieldsOf } from './open-namespace.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('heartbeat');

export interface HeartbeatRequest {
  readonly epoch: string;
  readonly node: string;
  /** JSON of what `GET /v1/nodes` shows of this node. */
  readonly info: string;
  readonly leaseMs: number;
  /** Redis time as the caller expects it, ms; null when it may not judge others dead yet. */
  readonly expectedNowMs: number | null;
}

export interface HeartbeatReply {
  readonly nowMs: number;
  /** Ids of the nodes alive, this one among them. */
  readonly nodes: readonly string[];
  readonly meta: ReadonlyMap<string, string>;
}

/** Says that a beat node lives; who else does, and the namespace's settings. Throws NAMESPACE_GONE. */
export async function heartbeat(
  redis: Redis,
  names: NamespaceKeys,
  request: HeartbeatRequest,
): Promise<HeartbeatReply> {
  const reply = await script.run(
    redis,
    [names.meta, names.nodes, names.nodeInfo],
    [request.epoch, request.node, request.info, request.leaseMs, Math.round(request.expectedNowMs ?? 0), names.wake],
  );
  const [nowMs, nodes, meta] = listReply(script, reply);
  return {
    nowMs: integerReply(script, nowMs),
    nodes: listReply(script, nodes ?? null).map(String),
    meta: fieldsOf(listReply(script, meta ?? null)),
  };
}
