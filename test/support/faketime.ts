import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

/** Debian's libfaketime, which lies to one process about the time; null where it is not installed. */
export const FAKETIME = findFaketime();
function findFaketime(): string | null {
  const root = '/usr/lib';
  if (!existsSync(root)) return null;
  const folders = readdirSync(root).map((name) => join(root, name, 'faketime', 'libfaketime.so.1'));
  return folders.find((file) => existsSync(file)) ?? null;
}

/** What makes a process see its wall clock moved; its monotonic clock stays right. */
export function faketime(more: Readonly<Record<string, string>>): Record<string, string> {
  return {
    // Redis's jemalloc asks for the time while libfaketime allocates, and neither gets anywhere: malloc is to be libc's.
    LD_PRELOAD: `${FAKETIME}:libc.so.6`,
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
    DONT_FAKE_MONOTONIC: '1',
    ...more,
  };
}
