// What Piscina runs in a thread of the threads pool; see threads-pool.ts.
import type { MessagePort } from 'node:worker_threads';
import type { EndMessage, FromChild, RunMessage, ToChild } from './channel.ts';
import { JobRunner } from './child.ts';
import { EndWriter } from './end-ring.ts';
import { JobEntrance } from './job-line.ts';

/** The one task that a thread gets from Piscina: it ends with the thread. */
export interface ThreadTask {
  /** For all that is said. */
  readonly port: MessagePort;
  /** Of a `JobLine`. */
  readonly line: SharedArrayBuffer;
  /** Of an `EndReader`. */
  readonly ends: SharedArrayBuffer;
}

interface PlacedRunMessage extends RunMessage {
  readonly place: number;
}

export type ToThread = PlacedRunMessage | Exclude<ToChild, RunMessage>;

export interface FromThread {
  /** null: look for ends. */
  readonly message: FromChild | null;
  /** How far ends had been written before this was said. */
  readonly ends: number;
}

export default function main({ port, line, ends }: ThreadTask): Promise<never> {
  const entrance = new JobEntrance(line);
  const writer = new EndWriter(ends);
  const say = (message: FromChild | null) => port.postMessage({ message, ends: writer.written } satisfies FromThread);
  const runner = new JobRunner(say);
  const waiting: PlacedRunMessage[] = [];
  let isRunning = false;

  function runNext(): void {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      if (!entrance.enter(next.place)) continue;
      isRunning = true;
      runner.run(next, ended);
      return;
    }
  }

  function ended(end: EndMessage): void {
    isRunning = false;
    if (!writer.write(end)) say(end);
    else if (entrance.isLast) say(null);
    runNext();
  }

  port.on('message', (message: ToThread) => {
    if (message.kind !== 'run') {
      runner.hear(message);
      return;
    }
    waiting.push(message);
    if (!isRunning) runNext();
  });
  return new Promise(() => {});
}
