// What Piscina runs in a thread of the threads pool; see threads-pool.ts.
import type { MessagePort } from 'node:worker_threads';
import type { EndMessage, RunMessage, ToChild } from './channel.ts';
import { JobRunner } from './child.ts';
import { enterPlace } from './job-line.ts';

interface OpenMessage {
  readonly kind: 'open';
  /** For all that is said but jobs and their ends. */
  readonly port: MessagePort;
  /** Of a `JobLine`. */
  readonly line: SharedArrayBuffer;
}

interface PlacedRunMessage extends RunMessage {
  readonly place: number;
}

let runner: JobRunner | null = null;
let next: Int32Array = new Int32Array();
/** Resolves when the job before has ended. */
let before: Promise<unknown> = Promise.resolve();

/** Answers how a job ended; null if it had been taken back. */
export default function main(message: OpenMessage | PlacedRunMessage): Promise<EndMessage | null> | null {
  if (message.kind === 'open') {
    open(message);
    return null;
  }
  const run = before.then(() => enter(message));
  before = run;
  return run;
}

function enter(message: PlacedRunMessage): Promise<EndMessage> | null {
  const jobs = runner;
  if (jobs === null) throw new Error('a thread is opened before its first job');
  return enterPlace(next, message.place) ? new Promise((resolve) => jobs.run(message, resolve)) : null;
}

function open({ port, line }: OpenMessage): void {
  const jobs = new JobRunner((message) => port.postMessage(message));
  runner = jobs;
  next = new Int32Array(line);
  port.on('message', (message: Exclude<ToChild, RunMessage>) => jobs.hear(message));
}
