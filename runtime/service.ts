import type { Log } from './log.ts';

/** Something that runs until it is stopped. `stop` may be called twice, and without `start`. */
export interface Service {
  start(): Promise<void> | void;
  stop(): Promise<void>;
}

/**
 * Calls `step` over and over, never twice at once. `step` answers after how many ms it wants to be called again;
 * `wake` calls it at once (or again, when it is just running). A step that throws is logged and tried again after a
 * back-off of 50 ms that doubles up to 1 s. One timer, whatever the step does.
 */
export class Loop implements Service {
  readonly #name: string;
  readonly #log: Log;
  readonly #step: () => Promise<number>;
  #timer: NodeJS.Timeout | null = null;
  #immediate: NodeJS.Immediate | null = null;
  #wakeAtMs = Infinity;
  #running: Promise<void> | null = null;
  #wantedInMs = Infinity;
  #stopped = true;
  #failures = 0;

  constructor(name: string, log: Log, step: () => Promise<number>) {
    this.#name = name;
    this.#log = log;
    this.#step = step;
  }

  start(): void {
    this.#stopped = false;
    this.wake();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#disarm();
    await this.#running;
  }

  /** Calls the step in at most `inMs`, sooner if that was arranged already. */
  wake(inMs = 0): void {
    if (this.#stopped) return;
    if (this.#running !== null) {
      // The running step may have looked before whatever woke us happened: look again when it is done.
      this.#wantedInMs = Math.min(this.#wantedInMs, inMs);
      return;
    }
    const atMs = performance.now() + inMs;
    if (atMs >= this.#wakeAtMs) return;
    this.#disarm();
    this.#wakeAtMs = atMs;
    // A timer waits at least 1 ms, which is long when there is more to do.
    if (inMs <= 0) this.#immediate = setImmediate(() => this.#run());
    else this.#timer = setTimeout(() => this.#run(), inMs);
  }

  #disarm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#timer = null;
    this.#immediate = null;
    this.#wakeAtMs = Infinity;
  }

  #run(): void {
    this.#disarm();
    // Not called right here: it counts as running before it may wake its own loop, and may throw at once like any other.
    this.#running = Promise.resolve()
      .then(this.#step)
      .then(
        (againInMs) => {
          this.#failures = 0;
          return againInMs;
        },
        (error: unknown) => {
          this.#failures += 1;
          // An outage lasts thousands of turns: the 1st, 2nd, 4th, 8th, … is logged.
          if ((this.#failures & (this.#failures - 1)) === 0)
            this.#log.warn({ event: 'loop_failed', loop: this.#name, failures: this.#failures, err: error });
          return Math.min(50 * 2 ** (this.#failures - 1), 1_000);
        },
      )
      .then((againInMs) => {
        this.#running = null;
        const wantedInMs = this.#failures === 0 ? this.#wantedInMs : Infinity;
        this.#wantedInMs = Infinity;
        this.wake(Math.min(wantedInMs, againInMs));
      });
  }
}
