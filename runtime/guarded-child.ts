import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import type { Writable } from 'node:stream';

/**
 * A child process that never outlives its parent, however that ends, kill -9 included.
 *
 * A small shell forks a watcher and then becomes the program, so that the pid, exit code and signals are the
 * program's own. The watcher reads from a pipe that this process holds open, the lifeline:
 *
 *   a line comes   the program has ended, nothing to do
 *   the pipe ends  every holder of it is gone: SIGTERM, after the grace SIGKILL, then the folder is removed
 *
 * Whoever else is given the lifeline keeps the program alive as well. The program has a process group of its own, so
 * that Ctrl-C in a terminal reaches the parent only; its standard input is /dev/null.
 */
export interface GuardedChild {
  readonly pid: number;
  readonly process: ChildProcess;
  readonly lifeline: Writable;
  /** Settles when the program has ended; never rejects. */
  readonly exited: Promise<ChildExit>;
  /** Whether it has ended. */
  hasExited(): boolean;
  /** Sends a signal; false where the program has ended already. */
  kill(signal: NodeJS.Signals): boolean;
  /** SIGTERM, and SIGKILL if it has not ended after `graceMs`. */
  stop(graceMs: number): Promise<ChildExit>;
}

export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface GuardOptions {
  /** How long the program may take to end after its parent is gone, whole seconds. */
  readonly graceSec: number;
  /** Removed by the watcher when the parent is gone and the program has ended. Default: nothing. */
  readonly removeFolder?: string;
  /** The lifeline of another child, which then lives at least as long as this one. */
  readonly holds?: Writable;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** What becomes of its output. Default: both are streams of `process`. */
  readonly stdout?: 'pipe' | 'ignore' | 'inherit';
  readonly stderr?: 'pipe' | 'ignore' | 'inherit';
  /** For a program that is Node: gives `process` the channel of a forked one. Default false. */
  readonly channel?: boolean;
}

// A zombie counts as ended: where process 1 reaps nobody (many containers), it would otherwise be waited for in vain.
const GUARD = `
grace=$1 folder=$2; shift 2
(
  trap '' TERM INT QUIT HUP
  alive() {
    kill -0 $$ || return 1
    read -r stat </proc/$$/stat || return 0
    case $stat in *') Z '*) return 1;; esac
  }
  ends_within() {
    tenths=$(($1 * 10))
    while alive; do
      [ $tenths -gt 0 ] || return 1
      tenths=$((tenths - 1)); sleep 0.1
    done
  }
  read -r ended <&3 && exit
  kill -TERM $$
  ends_within "$grace" || { kill -KILL $$; ends_within 5; }
  [ -z "$folder" ] || rm -rf -- "$folder"
) </dev/null >/dev/null 2>&1 5<&- &
exec "$@" 3<&-
`;

/** Starts `program`. One that is not found, or may not be run, ends with exit code 127 or 126, as in any shell. */
export async function spawnGuarded(
  program: string,
  args: readonly string[],
  options: GuardOptions,
): Promise<GuardedChild> {
  const channel = options.channel === true ? 'ipc' : 'ignore';
  const child = spawn(
    '/bin/sh',
    ['-c', GUARD, program, String(options.graceSec), options.removeFolder ?? '', program, ...args],
    {
      detached: true,
      stdio: ['ignore', options.stdout ?? 'pipe', options.stderr ?? 'pipe', 'pipe', options.holds ?? 'ignore', channel],
      env: options.env ?? process.env,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    },
  );
  const exited = new Promise<ChildExit>((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
  // A stream of its own, for Node closes standard input before anybody hears of the exit, and the word could not be said.
  const lifeline = child.stdio[3];
  if (!(lifeline instanceof Socket)) throw new Error('a pipe is a Socket in Node');
  // The watcher may be gone already (its whole group was killed): then nobody needs the word.
  lifeline.on('error', () => {});
  void exited.then(() => lifeline.end('ended\n', () => lifeline.destroy()));

  const hasExited = () => child.exitCode !== null || child.signalCode !== null;
  return {
    pid: child.pid!,
    process: child,
    lifeline,
    exited,
    hasExited,
    kill: (signal) => !hasExited() && child.kill(signal),
    async stop(graceMs) {
      if (!hasExited()) child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
      const exit = await exited;
      clearTimeout(timer);
      return exit;
    },
  };
}
