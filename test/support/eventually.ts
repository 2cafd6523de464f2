import { setTimeout as sleep } from 'node:timers/promises';

export interface EventuallyOptions {
  /** When to give up: a guard against what never comes, no claim of how fast something is. Default 60,000 ms. */
  readonly deadlineMs?: number;
  /** Pause between two tries. Default 10 ms. */
  readonly everyMs?: number;
}

/**
 * Tries `assertion` until it no longer throws and returns what it returned; at the deadline its last error is thrown.
 * Inside, use plain `assert`, for a failed `t.equal` stays failed.
 */
export async function eventually<T>(assertion: () => Promise<T> | T, options: EventuallyOptions = {}): Promise<T> {
  const deadlineMs = options.deadlineMs ?? 60_000;
  const giveUpAtMs = performance.now() + deadlineMs;
  for (;;) {
    try {
      return await assertion();
    } catch (error) {
      if (performance.now() >= giveUpAtMs) {
        const text = error instanceof Error ? error.message : String(error);
        throw new Error(`Not within ${deadlineMs} ms: ${text}`, { cause: error });
      }
    }
    await sleep(options.everyMs ?? 10);
  }
}

/** Waits until `predicate` holds; `what` names it in the error at the deadline. */
export async function until(
  predicate: () => Promise<boolean> | boolean,
  what: string,
  options: EventuallyOptions = {},
): Promise<void> {
  await eventually(async () => {
    if (!(await predicate())) throw new Error(what);
  }, options);
}
