import { fileURLToPath } from 'node:url';
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import type { Json } from '../../protocol/json.ts';
import type { FromChild, ToChild } from './channel.ts';
import { type Child, type ChildListener, ChildrenPool } from './children-pool.ts';
import { JobLine } from './job-line.ts';

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

/**
 * One Piscina for each thread: it cannot say which of several threads runs a task, nor be resized, and we must end threads one
 * by one. It never starts a thread again by itself (`minThreads: 0`), and the thread's event loop stays awake between tasks
 * (`atomics`), for what tasks modules keep open.
 */
function spawnThread(listener: ChildListener): Child {
  const piscina = new Piscina({
    filename: MAIN,
    minThreads: 0,
    maxThreads: 1,
    idleTimeout: Number.POSITIVE_INFINITY,
    atomics: 'disabled',
    recordTiming: false,
    concurrentTasksPerWorker: Number.POSITIVE_INFINITY,
  });
  const { port1: port, port2 } = new MessageChannel();
  const hear = (message: FromChild) => listener.heard(message);
  port.on('message', hear);
  // How a thread ends is told by its exit; what runs in it fails with that.
  piscina.on('error', () => {});
  const run = (message: object, transfer: (typeof port2)[] = []): Promise<FromChild | null> =>
    piscina.run(message, { transferList: transfer }).catch(() => null);
  const line = new JobLine();
  void run({ kind: 'open', port: port2, line: line.shared }, [port2]);
  const [thread] = piscina.threads;
  if (thread === undefined) throw new Error('Piscina starts a thread for its first task');
  let problem = '';
  thread.once('error', (error) => {
    problem = ` (${error.message})`;
  });
  thread.once('exit', (code) => {
    drain();
    port.close();
    listener.ended(`exitcode ${code}${problem}`);
  });
  // What a task said before its end is on this port already, though the end comes on another.
  const drain = () => {
    for (let said = receiveMessageOnPort(port); said !== undefined; said = receiveMessageOnPort(port))
      hear(said.message);
  };
  return {
    pid: process.pid,
    name: { thread: thread.threadId },
    send(message: ToChild) {
      if (message.kind !== 'run') {
        port.postMessage(message);
        return;
      }
      void run({ ...message, place: line.add() }).then((end) => {
        drain();
        if (end !== null) hear(end);
      });
    },
    takeBack: () => line.takeBack(),
    kill() {
      void thread.terminate();
    },
  };
}
