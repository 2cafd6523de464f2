import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { RingbeatError } from '../../protocol/errors.ts';

/** A file that names the process which uses the folder that it lies in. */
export interface FolderLock {
  release(): void;
}

/**
 * Takes the lock, also from a process that no longer runs. Throws JOURNAL_IN_USE with the process that holds it.
 * Holds on one machine: process ids of another mean nothing here.
 */
export function lockFolder(folder: string, file: string): FolderLock {
  const mine = identityOf(process.pid);
  for (;;) {
    try {
      writeFileSync(file, mine, { flag: 'wx' });
      break;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    }
    const holder = existsSync(file) ? readFileSync(file, 'utf8') : '';
    const pid = Number(holder.split(' ')[0]);
    if (holder !== mine && pid > 0 && isRunning(pid) && holder === identityOf(pid))
      throw new RingbeatError('JOURNAL_IN_USE', { folder, pid, file });
    rmSync(file, { force: true });
  }
  return {
    release() {
      if (existsSync(file) && readFileSync(file, 'utf8') === mine) rmSync(file, { force: true });
    },
  };
}

/** The process id, with the moment at which the process started where that can be known: ids are given out again. */
function identityOf(pid: number): string {
  const startedAt = statOf(pid)?.[19];
  return startedAt === undefined ? String(pid) : `${pid} ${startedAt}`;
}

/** A zombie does not count: it waits for a parent that may never ask. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
  return statOf(pid)?.[0] !== 'Z';
}

/** The fields of /proc/<pid>/stat from the state on; null where there is no such file. */
function statOf(pid: number): readonly string[] | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    // Not Linux, or the process has just ended.
    return null;
  }
}
