import type { Redis } from 'ioredis';
import { keepSubscribed } from '../lua/connection.ts';
import { type LogicalClock, readBroadcast } from '../protocol/control-message.ts';
import { eventChannel } from '../protocol/event-message.ts';
import type { Json } from '../protocol/json.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { Loop, type Service } from '../runtime/service.ts';

/** How often peers are looked at, ms, as Celery does (celery/worker/consumer/gossip.py). */
const LOOK_EVERY_MS = 5_000;

/** A peer counts as away when nothing was heard of it for this many of its heartbeats (celery/events/state.py). */
const HEARTBEATS = 2;

/** How often a peer sends heartbeats that does not say so, s. */
const FREQUENCY_SEC = 60;

export interface GossipOptions {
  /** A connection that listens; others may listen on it too. */
  readonly subscriber: Redis;
  /** The worker's own name. */
  readonly hostname: string;
  readonly clock: LogicalClock;
  readonly log: Log;
}

interface Peer {
  heardAtMs: number;
  /** How long it may be silent, ms. */
  patienceMs: number;
}

/** Hears what other workers tell of themselves: keeps the logical clock with theirs, and logs who comes and goes. */
export class Gossip implements Service {
  readonly #options: GossipOptions;
  readonly #peers = new Map<string, Peer>();
  readonly #looking: Loop;

  constructor(options: GossipOptions) {
    this.#options = options;
    this.#looking = new Loop('gossip', options.log, async () => this.#look());
  }

  /** Resolves when others are heard. Listens again by itself after the connection was lost. */
  async start(): Promise<void> {
    const { subscriber } = this.#options;
    const pattern = eventChannel(subscriber.options.db ?? 0, 'worker.*');
    subscriber.on('pmessage', (heardBy: string, _channel: string, payload: string) => {
      if (heardBy === pattern) this.#hear(payload);
    });
    this.#looking.start();
    await keepSubscribed(subscriber, 'psubscribe', pattern);
  }

  async stop(): Promise<void> {
    await this.#looking.stop();
  }

  #hear(payload: string): void {
    const { hostname: own, clock, log } = this.#options;
    const event = eventOf(payload);
    if (event === null) {
      log.debug({ event: 'gossip_unreadable' });
      return;
    }
    const { type, hostname, clock: time, freq } = event;
    if (typeof hostname !== 'string' || hostname === own) return;
    if (typeof time === 'number') clock.adjust(time);
    if (type === 'worker-offline') {
      if (this.#peers.delete(hostname)) log.info({ event: 'peer_left', node: hostname });
      return;
    }
    const patienceMs = HEARTBEATS * 1_000 * (typeof freq === 'number' && freq > 0 ? freq : FREQUENCY_SEC);
    if (!this.#peers.has(hostname)) log.info({ event: 'peer_joined', node: hostname });
    this.#peers.set(hostname, { heardAtMs: monotonicMs(), patienceMs });
  }

  #look(): number {
    const nowMs = monotonicMs();
    for (const [node, { heardAtMs, patienceMs }] of this.#peers) {
      if (nowMs - heardAtMs <= patienceMs) continue;
      this.#peers.delete(node);
      this.#options.log.warn({ event: 'peer_missed', node, silentSec: Math.round((nowMs - heardAtMs) / 1_000) });
    }
    return LOOK_EVERY_MS;
  }
}

function eventOf(payload: string): { readonly [field: string]: Json } | null {
  try {
    return readBroadcast(payload).body;
  } catch {
    // Not in Celery's way: somebody else's.
    return null;
  }
}
