import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { messageOf, RingbeatError } from '../protocol/errors.ts';

/**
 * Writes this process's id into the file, and removes it when the process ends. A file that was left behind by a process
 * which no longer runs is replaced. Throws PIDFILE_TAKEN where the process that it names lives, PIDFILE_UNUSABLE where it
 * holds something else than a process id or cannot be written; then nothing was changed.
 */
export function writePidFile(file: string): void {
  const own = `${file}.${process.pid}`;
  try {
    writeFileSync(own, `${process.pid}\n`);
    try {
      // A link is there at once and whole, or not at all.
      while (!isLinked(own, file)) removeStale(file, own);
    } finally {
      rmSync(own);
    }
  } catch (error) {
    if (error instanceof RingbeatError) throw error;
    throw new RingbeatError('PIDFILE_UNUSABLE', { file, reason: messageOf(error) }, { cause: error });
  }
  process.once('exit', () => {
    if (holderOf(file) === process.pid) rmSync(file, { force: true });
  });
}

function isLinked(own: string, file: string): boolean {
  try {
    linkSync(own, file);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
    throw error;
  }
}

/** Takes away what a process left that is gone. */
function removeStale(file: string, own: string): void {
  refuseHolder(file, file);
  const aside = `${own}.stale`;
  try {
    renameSync(file, aside);
  } catch (error) {
    // Somebody else was quicker.
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return;
    throw error;
  }
  try {
    refuseHolder(aside, file);
  } catch (error) {
    // It was replaced just before it was taken aside.
    isLinked(aside, file);
    throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}

function refuseHolder(path: string, file: string): void {
  const pid = holderOf(path);
  // Process ids begin anew in each container, so that one may find its own in a file that its predecessor left.
  if (pid !== null && pid !== process.pid && isRunning(pid)) throw new RingbeatError('PIDFILE_TAKEN', { file, pid });
}

/** The process id in the file; null where there is none. Throws PIDFILE_UNUSABLE for what is no process id. */
function holderOf(file: string): number | null {
  let text: string;
  try {
    text = readFileSync(file, 'utf8').trim();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
  // Whoever wrote it had no time to finish.
  if (text === '') return null;
  if (!/^[1-9]\d{0,9}$/.test(text))
    throw new RingbeatError('PIDFILE_UNUSABLE', { file, reason: 'it holds something else than a process id' });
  return Number(text);
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // A process of somebody else's may not be signalled, but lives.
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
