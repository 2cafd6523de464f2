import type { Redis } from 'ioredis';
import { type NamespaceKeys, namespaceKeys } from '../lua/keys.ts';
import { RingbeatError } from '../protocol/errors.ts';
import { type Namespace, readNamespace } from '../registry/namespace.ts';
import { namespaceGone } from '../registry/registry.ts';

/** A namespace that was read longer ago may have been deleted and created again, with other settings, ms. */
const FRESH_MS = 1_000;

interface Known {
  readonly namespace: Namespace;
  readonly readAtMs: number;
  /** What has to be added to this process's monotonic clock for Redis's time; never too much. */
  readonly offsetMs: number;
}

/** A namespace as a client knows it, which never creates one. */
export class NamespaceView {
  readonly names: NamespaceKeys;
  readonly name: string;
  readonly #redis: Redis;
  #known: Known | null = null;
  #reading: Promise<Namespace> | null = null;

  constructor(redis: Redis, name: string) {
    this.#redis = redis;
    this.name = name;
    this.names = namespaceKeys(name);
  }

  /** As it was read last. Throws NAMESPACE_GONE when it was not there. */
  current(): Namespace {
    if (this.#known === null) throw namespaceGone(this.name);
    return this.#known.namespace;
  }

  /** Redis's time as it was read last, and what has passed since, ms since epoch. Throws NAMESPACE_GONE like `current`. */
  nowMs(): number {
    if (this.#known === null) throw namespaceGone(this.name);
    return Math.floor(performance.now() + this.#known.offsetMs);
  }

  /**
   * Does something with a namespace that was read just now. Throws NAMESPACE_GONE when there is none; where it was
   * replaced by another of the same name meanwhile, `act` did nothing and is done once more.
   */
  async use<T>(act: (namespace: Namespace) => Promise<T>): Promise<T> {
    const namespace = await this.#fresh();
    try {
      return await act(namespace);
    } catch (error) {
      if (!(error instanceof RingbeatError) || error.code !== 'NAMESPACE_GONE') throw error;
      const now = await this.#read();
      if (now.epoch === namespace.epoch) throw error;
      return act(now);
    }
  }

  #fresh(): Promise<Namespace> {
    const isFresh = this.#known !== null && performance.now() - this.#known.readAtMs < FRESH_MS;
    return isFresh ? Promise.resolve(this.current()) : this.#read();
  }

  #read(): Promise<Namespace> {
    this.#reading ??= this.#readNow().finally(() => {
      this.#reading = null;
    });
    return this.#reading;
  }

  async #readNow(): Promise<Namespace> {
    const readAtMs = performance.now();
    const [namespace, [seconds, micros]] = await Promise.all([
      readNamespace(this.#redis, this.names, this.name),
      this.#redis.time(),
    ]);
    const offsetMs = Number(seconds) * 1_000 + Number(micros) / 1_000 - performance.now();
    this.#known = namespace === null ? null : { namespace, readAtMs, offsetMs };
    return this.current();
  }
}
