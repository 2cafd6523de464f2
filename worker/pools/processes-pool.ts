import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Json } from '../../protocol/json.ts';
import { type ChildExit, spawnGuarded } from '../../runtime/guarded-child.ts';
import { NODE_FLAGS } from '../../runtime/node-flags.ts';
import type { FromChild, ToChild } from './channel.ts';
import { type Child, type ChildListener, ChildrenPool, type ChildrenPoolOptions } from './children-pool.ts';

/** How long a child may take to end after a signal that it may catch, ms. */
const GRACE_MS = 2_000;

/** How long what a child said last may take to arrive after its end, ms. */
const LAST_WORDS_MS = 1_000;

export interface ProcessesPoolOptions extends ChildrenPoolOptions {
  /** Soft and hard limit of tasks that have none of their own, s; null: none. */
  readonly timeouts: readonly [number | null, number | null];
}

/** Runs tasks in child processes: whatever a task does to its process, it does to no other task. */
export class ProcessesPool extends ChildrenPool {
  readonly kind = 'processes';
  readonly #options: ProcessesPoolOptions;

  constructor(options: ProcessesPoolOptions) {
    super(options);
    this.#options = options;
  }

  protected override spawn(listener: ChildListener): Promise<Child> {
    return spawnProcess(listener);
  }

  /** celery/concurrency/prefork.py, `_get_info` */
  override info(): { readonly [key: string]: Json } {
    const { maxTasks, timeouts } = this.#options;
    return {
      implementation: 'ringbeat:processes',
      'max-concurrency': this.size,
      processes: this.children.map(({ pid }) => pid),
      'max-tasks-per-child': maxTasks ?? 'N/A',
      'put-guarded-by-semaphore': false,
      timeouts: timeouts.map((seconds) => seconds ?? 0),
      writes: 'N/A',
    };
  }
}

const MAIN = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './process-main.ts' : './process-main.js', import.meta.url),
);

/** No grace after the parent's end: its tasks belong to somebody else from then on. */
async function spawnProcess(listener: ChildListener): Promise<Child> {
  const child = await spawnGuarded(process.execPath, [...NODE_FLAGS, ...execArgv(), MAIN], {
    graceSec: 0,
    stdout: 'inherit',
    stderr: 'inherit',
    channel: true,
  });
  const { process: channel, pid } = child;
  channel.on('message', (message) => listener.heard(message as FromChild));
  // A message to a child that has just died: its end is told anyway.
  channel.on('error', () => {});
  const silent = new Promise<void>((resolve) => channel.once('disconnect', resolve));
  void child.exited.then(async (exit) => {
    await Promise.race([silent, new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS))]);
    listener.ended(exitText(exit));
  });
  return {
    pid,
    name: { pid },
    send(message: ToChild) {
      if (channel.connected) channel.send(message);
    },
    takeBack: null,
    kill(signal) {
      const name = fatalSignal(signal);
      child.kill(name);
      if (name === 'SIGKILL') killGroup(pid);
      else setTimeout(() => !child.hasExited() && killGroup(pid), GRACE_MS).unref();
    },
  };
}

/** What ends a Node process that does nothing about it; others only open its debugger, or are ignored. */
const FATAL: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGABRT', 'SIGKILL'];

/** The signal, or SIGKILL for one that would not end the child. */
function fatalSignal(signal: NodeJS.Signals): NodeJS.Signals {
  return FATAL.includes(signal) ? signal : 'SIGKILL';
}

/** Ends a child and what its task has started, for the child leads a process group of its own. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // The group is gone.
  }
}

/** The flags that this process was started with, a debugger's port aside, which is taken. */
function execArgv(): string[] {
  return process.execArgv.filter((flag) => !flag.startsWith('--inspect') && !NODE_FLAGS.includes(flag));
}

/** As billiard writes it (billiard/common.py, human_status). */
function exitText({ code, signal }: ChildExit): string {
  return signal === null ? `exitcode ${code}` : `signal ${constants.signals[signal]} (${signal})`;
}
