import { EventEmitter } from 'node:events';
import type { Redis } from 'ioredis';
import { heartbeat } from '../lua/heartbeat.ts';
import type { NamespaceKeys } from '../lua/keys.ts';
import { leave } from '../lua/leave.ts';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { type Namespace, parseNamespace, readNamespace, requireShards } from '../registry/namespace.ts';
import { monotonicMs, type RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';
import type { Journal } from './journal/journal.ts';
import { assignShards } from './ring.ts';
import type { NodeInfo } from './status.ts';

const HEARTBEAT_MS = 1_000;
/** How often a node with a journal looks after a namespace that is not in Redis, ms. */
const ABSENT_MS = 200;
/** A node silent for this long is taken out of the ring. Helping covers its shards long before. */
export const LEASE_MS = 5_000;

export interface MembershipOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  readonly nodeId: string;
  readonly namespace: Namespace;
  readonly clock: RedisClock;
  readonly log: Log;
  /** Null when this node keeps none on disk. */
  readonly journal: Journal | null;
  /** What `GET /v1/nodes` shows of this node. */
  describe(): NodeInfo;
}

/**
 * Keeps this node in the set of live nodes, and knows which shards are whose. The ring is an optimisation, not a lock:
 * two nodes that both think they own a shard are harmless, since dispatch is atomic.
 *
 * Emits `owned` with the shards of this node whenever they change.
 */
export class Membership extends EventEmitter<{ owned: [readonly number[]] }> implements Service {
  readonly #options: MembershipOptions;
  readonly #loop: Loop;
  #namespace: Namespace | null;
  #owners: ReadonlyMap<string, readonly number[]> = new Map();
  #lastAnswerAtMs = monotonicMs();

  constructor(options: MembershipOptions) {
    super();
    this.#options = options;
    this.#namespace = options.namespace;
    this.#loop = new Loop('membership', options.log, () => this.#beat());
  }

  start(): void {
    this.#loop.start();
  }

  /** Leaves the ring, so that the others take over at once. */
  async stop(): Promise<void> {
    await this.#loop.stop();
    const { redis, names, nodeId, log } = this.#options;
    await leave(redis, names, nodeId).catch((error: unknown) => {
      log.warn({ event: 'leave_failed', reason: messageOf(error), remedy: 'the others take over when the lease ends' });
    });
  }

  /** The set of nodes may have changed: look now. */
  refresh(): void {
    this.#loop.wake();
  }

  /** The namespace as it was last read; null while it is not in Redis. */
  get namespace(): Namespace | null {
    return this.#namespace;
  }

  get owned(): readonly number[] {
    return this.#owners.get(this.#options.nodeId) ?? [];
  }

  /** Shards by node id, of every live node. */
  get owners(): ReadonlyMap<string, readonly number[]> {
    return this.#owners;
  }

  /** ms since Redis last answered a heartbeat. */
  get silentMs(): number {
    return monotonicMs() - this.#lastAnswerAtMs;
  }

  async #beat(): Promise<number> {
    const { redis, names, nodeId, clock, log, journal } = this.#options;
    if (this.#namespace === null && !(await this.#rejoin())) return journal === null ? HEARTBEAT_MS : ABSENT_MS;
    const sentAtMs = monotonicMs();
    try {
      const reply = await heartbeat(redis, names, {
        epoch: this.#namespace!.epoch,
        node: nodeId,
        info: JSON.stringify(this.#options.describe()),
        leaseMs: LEASE_MS,
        expectedNowMs: clock.steadyFor(LEASE_MS) ? clock.nowMs() : null,
      });
      this.#lastAnswerAtMs = monotonicMs();
      clock.observe(reply.nowMs, sentAtMs);
      this.#namespace = parseNamespace(this.#namespace!.name, reply.meta);
      this.#takeMembers(reply.nodes);
    } catch (error) {
      if (!(error instanceof RingbeatError) || error.code !== 'NAMESPACE_GONE') throw error;
      this.#lastAnswerAtMs = monotonicMs();
      log.error({
        event: 'namespace_gone',
        namespace: this.#namespace!.name,
        remedy:
          journal === null
            ? 'nothing is dispatched until a node with a journal restores it, or a beat node that starts creates it anew'
            : 'nothing is dispatched until it is restored from a journal, unless it was deleted',
      });
      this.#namespace = null;
      this.#setOwners(new Map());
      return 0;
    }
    return HEARTBEAT_MS;
  }

  /**
   * Somebody may have created the namespace anew; a running node never does (it may be Redis that was lost). A node with a
   * journal may restore it.
   */
  async #rejoin(): Promise<boolean> {
    const { namespace, log } = this.#options;
    const found = await this.#lookForNamespace();
    this.#lastAnswerAtMs = monotonicMs();
    if (found === null) return false;
    requireShards(found, namespace.shards);
    log.warn({ event: 'namespace_rejoined', namespace: found.name, epoch: found.epoch });
    this.#namespace = found;
    return true;
  }

  async #lookForNamespace(): Promise<Namespace | null> {
    const { redis, names, namespace, journal } = this.#options;
    if (journal === null) return readNamespace(redis, names, namespace.name);
    const absence = await journal.absent();
    return absence.is === 'over' ? absence.namespace : null;
  }

  #takeMembers(nodes: readonly string[]): void {
    const same = nodes.length === this.#owners.size && nodes.every((node) => this.#owners.has(node));
    if (!same) this.#setOwners(assignShards(nodes, this.#namespace!.shards));
  }

  #setOwners(owners: ReadonlyMap<string, readonly number[]>): void {
    this.#owners = owners;
    this.#options.log.info({ event: 'ring_changed', nodes: owners.size, owned: this.owned });
    this.emit('owned', this.owned);
  }
}
