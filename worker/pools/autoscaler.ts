import type { Json } from '../../protocol/json.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { Log } from '../../runtime/log.ts';
import { Loop } from '../../runtime/service.ts';
import type { Autoscale } from '../options.ts';
import type { Pool } from './pool.ts';

/** How often idle slots are looked for, ms. */
const LOOK_MS = 1_000;

export interface AutoscalerOptions {
  readonly pool: Pool;
  readonly scale: Autoscale;
  /** For how long slots must have been idle before they go, ms. */
  readonly keepaliveMs: number;
  readonly log: Log;
  /** Messages that run or wait for a slot here. */
  load(): number;
  /** Told when the pool has another size. */
  onResize(): void;
}

/**
 * Grows and shrinks a pool between two sizes (celery/worker/autoscale.py): it grows at once with the messages that this worker
 * holds, and gives up slots that were idle for a while.
 */
export class Autoscaler {
  readonly #options: AutoscalerOptions;
  readonly #loop: Loop;
  #max: number;
  #min: number;
  /** The most slots that were wanted at once since the window began, and before it. */
  #peak = 0;
  #windowAtMs = monotonicMs();

  constructor(options: AutoscalerOptions) {
    this.#options = options;
    this.#max = options.scale.max;
    this.#min = options.scale.min;
    const lookMs = Math.min(LOOK_MS, options.keepaliveMs);
    this.#loop = new Loop('autoscale', options.log, async () => {
      this.#look();
      return lookMs;
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** Told whenever messages came. */
  loaded(): void {
    const wanted = this.#wanted();
    if (wanted > this.#options.pool.size) this.#resize(wanted);
    this.#peak = Math.max(this.#peak, wanted);
  }

  /** New sizes, each left as it is by null; answers both. A pool outside them is resized at once. */
  update(max: number | null, min: number | null): Autoscale {
    this.#max = max ?? this.#max;
    this.#min = min ?? this.#min;
    const { size } = this.#options.pool;
    const fitting = this.#fit(size);
    if (fitting !== size) this.#resize(fitting);
    this.loaded();
    return { max: this.#max, min: this.#min };
  }

  /** `autoscaler` of Celery's stats. */
  info(): { readonly [key: string]: Json } {
    const { pool, load } = this.#options;
    return { max: this.#max, min: this.#min, current: pool.size, qty: load() };
  }

  /** Gives up what was not used for a whole window, then begins another. */
  #look(): void {
    this.loaded();
    const nowMs = monotonicMs();
    const { pool, keepaliveMs } = this.#options;
    if (this.#peak >= pool.size) {
      this.#peak = this.#wanted();
      this.#windowAtMs = nowMs;
      return;
    }
    if (nowMs - this.#windowAtMs < keepaliveMs) return;
    this.#resize(this.#peak);
    this.#peak = this.#wanted();
    this.#windowAtMs = nowMs;
  }

  #wanted(): number {
    return this.#fit(this.#options.load());
  }

  /** One slot stays: without any, no message would be taken that could ask for more. */
  #fit(size: number): number {
    return Math.max(1, Math.min(Math.max(size, this.#min), this.#max));
  }

  #resize(size: number): void {
    const { pool, log, onResize } = this.#options;
    log.info({ event: size > pool.size ? 'scaling_up' : 'scaling_down', from: pool.size, to: size });
    pool.resize(size);
    onResize();
  }
}
