import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { NODE_FLAGS } from '../runtime/node-flags.ts';
import { askChild } from './ask.ts';
import type { LoopRun } from './loop-ledger.ts';
import { readLoopRuns } from './loop-runs.ts';
import { awaitValue } from './processes.ts';
import { QUEUE, type Stage } from './stage.ts';
import type { TasksQuestion, TasksReport, TasksSettings } from './tasks.ts';

const CLI = fileURLToPath(new URL('../cli/main.js', import.meta.url));
const TASKS = fileURLToPath(new URL('./tasks.js', import.meta.url));

/** How long a warm shutdown may take. */
const STOP_MS = 15_000;

export interface BundledWorker {
  readonly pid: number;
  ask(question: TasksQuestion): Promise<TasksReport>;
  /** Is told from now on of every run of a loop that has ended, some 50 ms later. */
  onLoopRun(listen: (run: LoopRun) => void): void;
  /** kill -9. */
  kill(): void;
  /** Warm shutdown. */
  stop(): Promise<void>;
}

/** Starts one `ringbeat worker` with the tasks of the bench, and waits until it is ready. */
export async function startWorker(
  stage: Stage,
  args: readonly string[] = [],
  settings?: TasksSettings,
): Promise<BundledWorker> {
  const child = fork(CLI, ['worker', '--redis', stage.server.url, '--tasks', TASKS, '-Q', QUEUE, ...args], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    // Typed arrays go through it as they are.
    serialization: 'advanced',
    execArgv: [...NODE_FLAGS],
    env: {
      ...process.env,
      BENCH_PID: String(process.pid),
      BENCH_TASKS: settings === undefined ? undefined : JSON.stringify(settings),
    },
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const stop = async () => {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    await ended;
    clearTimeout(timer);
  };
  stage.onClose(stop);
  let log = '';
  let isReady = false;
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    log = (log + text).slice(-4_000);
    isReady ||= log.includes('"worker_ready"');
  });
  await awaitValue('the worker being ready', () => {
    if (child.exitCode !== null) throw new Error(`worker ended with ${child.exitCode}:\n${log}`);
    return isReady ? true : null;
  });
  return {
    pid: child.pid!,
    ask: askChild<TasksQuestion, TasksReport>(child, 'worker'),
    onLoopRun: (listen) => readLoopRuns(child, listen),
    kill: () => child.kill('SIGKILL'),
    stop,
  };
}
