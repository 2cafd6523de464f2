// What Piscina runs in a thread of the threads pool; see threads-pool.ts.
import type { MessagePort } from 'node:worker_threads';
import type { EndMessage, RunMessage, ToChild } from './channel.ts';
import { JobRunner } from './child.ts';

interface OpenMessage {
  readonly kind: 'open';
  /** For all that is said but jobs and their ends. */
  readonly port: MessagePort;
}

let runner: JobRunner | null = null;

export default function main(message: OpenMessage | RunMessage): Promise<EndMessage> | null {
  if (message.kind === 'open') {
    open(message.port);
    return null;
  }
  const jobs = runner;
  if (jobs === null) throw new Error('a thread is opened before its first job');
  return new Promise((resolve) => jobs.run(message, resolve));
}

function open(port: MessagePort): void {
  const jobs = new JobRunner((message) => port.postMessage(message));
  runner = jobs;
  port.on('message', (message: Exclude<ToChild, RunMessage>) => jobs.hear(message));
}
