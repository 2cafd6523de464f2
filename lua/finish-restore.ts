import type { Redis } from 'ioredis';
import type { NamespaceKeys } from './keys.ts';
import { restoreTaken } from './restore-schedules.ts';
import { defineScript } from './script.ts';

const script = defineScript('finish-restore');

/** Puts the record of a restored namespace back, after everything else. Throws RESTORE_TAKEN. */
export async function finishRestore(
  redis: Redis,
  names: NamespaceKeys,
  node: string,
  meta: ReadonlyMap<string, string>,
): Promise<void> {
  await script
    .run(
      redis,
      [names.meta, names.tombstone, names.announcements, names.restoring, names.recovery],
      [node, names.wake, ...[...meta].flat()],
    )
    .catch((error: unknown) => {
      throw restoreTaken(error, names);
    });
}
