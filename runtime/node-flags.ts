/**
 * Flags that Ringbeat's processes run with; the first line of cli/main.ts and the Dockerfile say the same. V8 reads them once, at
 * its start.
 *
 * - With V8's own 16 MiB for young objects a beat node keeps more resident after a large import, for no gain in speed.
 * - The heap grows to one and a half times what is in use before it is collected whole, instead of four times: a busy worker keeps
 *   less, and stays that size, for a short pause now and then.
 * - V8 allocates among the old objects whatever has mostly lived on so far. What a batch of messages leaves behind makes that a
 *   rule at times, and all the next messages, with what they name, stay until a full collection, which then comes often.
 */
export const NODE_FLAGS: readonly string[] = [
  '--max-semi-space-size=4',
  '--heap-growing-percent=50',
  '--no-allocation-site-pretenuring',
];
