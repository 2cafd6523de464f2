/** How long each run of `bench.await` waits, ms. */
export const AWAIT_MS = 100;

/** How long each run of `bench.spin` keeps its thread busy, ms. */
export const SPIN_MS = 1;
