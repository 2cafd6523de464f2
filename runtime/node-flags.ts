/**
 * Flags that Ringbeat's processes run with; the first line of cli/main.ts and the Dockerfile say the same. V8 reads them once, at
 * its start.
 *
 * - With V8's own 16 MiB for young objects a beat node keeps more resident after a large import, for no gain in speed.
 * - Young objects are collected by the thread they belong to. V8 would share that out among threads of its own, which are not
 *   faster with so few objects, and have to wait for a core where tasks compute on all of them.
 * - The heap grows to one and a half times what is in use before it is collected whole, instead of four times: a busy worker keeps
 *   less, and stays that size, for a short pause now and then.
 * - V8 allocates among the old objects whatever has mostly lived on so far. What a batch of messages leaves behind makes that a
 *   rule at times, and all the next messages, with what they name, stay until a full collection, which then comes often.
 */
export const NODE_FLAGS: readonly string[] = [
  '--max-semi-space-size=4',
  '--no-parallel-scavenge',
  '--heap-growing-percent=50',
  '--no-allocation-site-pretenuring',
];
