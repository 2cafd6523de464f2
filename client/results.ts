import type { Redis } from 'ioredis';
import { resultKey } from '../lua/keys.ts';

/** A result whose announcement was lost is found this late at most, ms. */
const LOOK_EVERY_MS = 1_000;

/**
 * Waits for result records, which workers publish under their own key: one connection for all that is waited for, made
 * when it is first needed.
 */
export class ResultWatch {
  readonly #connect: () => Redis;
  #subscriber: Redis | null = null;
  #isClosed = false;
  readonly #waiting = new Map<string, Set<() => void>>();

  constructor(connect: () => Redis) {
    this.#connect = connect;
  }

  /** Calls `look` until it answers something, whenever the task's record may have changed; null after `timeoutMs`. */
  async wait<T>(taskId: string, timeoutMs: number, look: () => Promise<T | null>): Promise<T | null> {
    const giveUpAtMs = performance.now() + timeoutMs;
    let wake = (): void => {};
    const bell = () => wake();
    await this.#listen(taskId, bell);
    try {
      for (;;) {
        // Armed before looking: what is announced meanwhile is not missed.
        let timer: NodeJS.Timeout | undefined;
        const leftMs = giveUpAtMs - performance.now();
        const rung = new Promise<void>((resolve) => {
          wake = resolve;
          timer = setTimeout(resolve, Math.max(0, Math.min(LOOK_EVERY_MS, leftMs)));
        });
        try {
          const found = await look();
          if (found !== null || leftMs <= 0) return found;
          await rung;
        } finally {
          clearTimeout(timer);
        }
      }
    } finally {
      this.#leave(taskId, bell);
    }
  }

  /** From now on nothing is announced, and no connection is made. */
  close(): void {
    this.#isClosed = true;
    this.#subscriber?.disconnect();
    this.#subscriber = null;
  }

  async #listen(taskId: string, bell: () => void): Promise<void> {
    const key = resultKey(taskId);
    const bells = this.#waiting.get(key);
    if (bells !== undefined) {
      bells.add(bell);
      return;
    }
    this.#waiting.set(key, new Set([bell]));
    if (this.#isClosed) return;
    // Without the announcement the result is found a little later.
    await this.#subscribed()
      .subscribe(key)
      .catch(() => {});
  }

  /** After a reconnection. Where it fails, results are found a little later. */
  #listenAgain(): void {
    const keys = [...this.#waiting.keys()];
    if (keys.length > 0) this.#subscriber?.subscribe(...keys).catch(() => {});
  }

  #leave(taskId: string, bell: () => void): void {
    const key = resultKey(taskId);
    const bells = this.#waiting.get(key);
    bells?.delete(bell);
    if (bells?.size !== 0) return;
    this.#waiting.delete(key);
    this.#subscriber?.unsubscribe(key).catch(() => {
      // The connection is gone, and the subscription with it.
    });
  }

  #subscribed(): Redis {
    if (this.#subscriber === null) {
      this.#subscriber = this.#connect();
      this.#subscriber.on('ready', () => this.#listenAgain());
      this.#subscriber.on('message', (key: string) => {
        for (const bell of this.#waiting.get(key) ?? []) bell();
      });
    }
    return this.#subscriber;
  }
}
