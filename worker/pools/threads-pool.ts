import { fileURLToPath } from 'node:url';
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import type { Json } from '../../protocol/json.ts';
import type { FromChild, ToChild } from './channel.ts';
import { type Child, type ChildListener, ChildrenPool } from './children-pool.ts';
import { EndReader } from './end-ring.ts';
import { JobLine } from './job-line.ts';
import type { FromThread, ThreadTask, ToThread } from './thread-main.ts';

/** Runs tasks in worker threads of this process, for work that computes. */
export class ThreadsPool extends ChildrenPool {
  readonly kind = 'threads';

  protected override spawn(listener: ChildListener): Child {
    return spawnThread(listener);
  }

  /** celery/concurrency/thread.py, `_get_info`, and what its tools ask of any pool */
  override info(): { readonly [key: string]: Json } {
    return {
      implementation: 'ringbeat:threads',
      'max-concurrency': this.size,
      threads: this.children.length,
      processes: [process.pid],
      'max-tasks-per-child': 'N/A',
      'put-guarded-by-semaphore': false,
      timeouts: [],
    };
  }
}

const MAIN = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './thread-main.ts' : './thread-main.js', import.meta.url),
);

/** While a thread has jobs ahead, its ends are looked for so often, ms; with the last of them it says so itself. */
const LOOK_MS = 20;

/**
 * One Piscina for each thread: it cannot say which of several threads runs a task, nor be resized, and we must end threads one
 * by one. It never starts a thread again by itself (`minThreads: 0`), and the thread's event loop stays awake between tasks
 * (`atomics`), for what tasks modules keep open. Its one task is to run our jobs: with a task of Piscina for each of them this
 * thread is woken for each end, on a core that a job computes on.
 */
function spawnThread(listener: ChildListener): Child {
  const piscina = new Piscina({
    filename: MAIN,
    minThreads: 0,
    maxThreads: 1,
    idleTimeout: Number.POSITIVE_INFINITY,
    atomics: 'disabled',
    recordTiming: false,
  });
  // How a thread ends is told by its exit.
  piscina.on('error', () => {});
  const { port1: port, port2 } = new MessageChannel();
  const line = new JobLine();
  const ends = new EndReader();
  const task: ThreadTask = { port: port2, line: line.shared, ends: ends.shared };
  piscina.run(task, { transferList: [port2] }).catch(() => {});
  const [thread] = piscina.threads;
  if (thread === undefined) throw new Error('Piscina starts a thread for its first task');

  /** Jobs that it was sent and has not ended, those that were taken back aside. */
  let jobs = 0;
  let timer: NodeJS.Timeout | null = null;
  const tell = (message: FromChild) => {
    if (message.kind === 'end') jobs -= 1;
    listener.heard(message);
  };
  const tellEnds = (before: number) => {
    for (let end = ends.read(before); end !== null; end = ends.read(before)) tell(end);
  };
  const hear = ({ message, ends }: FromThread) => {
    tellEnds(ends);
    if (message !== null) tell(message);
  };
  /** Everything that it has said so far. */
  const look = () => {
    const { written } = ends;
    // What a job said before an end that was written is on the port already.
    for (let said = receiveMessageOnPort(port); said !== undefined; said = receiveMessageOnPort(port))
      hear(said.message);
    tellEnds(written);
  };
  const lookLater = () => {
    if (timer !== null || jobs < 2) return;
    timer = setTimeout(() => {
      timer = null;
      look();
      lookLater();
    }, LOOK_MS);
  };
  port.on('message', hear);
  let problem = '';
  thread.once('error', (error) => {
    problem = ` (${error.message})`;
  });
  thread.once('exit', (code) => {
    look();
    if (timer !== null) clearTimeout(timer);
    port.close();
    listener.ended(`exitcode ${code}${problem}`);
  });
  return {
    pid: process.pid,
    name: { thread: thread.threadId },
    send(message: ToChild) {
      if (message.kind !== 'run') {
        port.postMessage(message satisfies ToThread);
        return;
      }
      jobs += 1;
      port.postMessage({ ...message, place: line.add() } satisfies ToThread);
      lookLater();
    },
    takeBack() {
      const taken = line.takeBack();
      jobs -= taken;
      return taken;
    },
    kill() {
      void thread.terminate();
    },
  };
}
