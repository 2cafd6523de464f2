import { RingbeatError } from '../protocol/errors.ts';
import type { Client, TaskHandle, TaskRequest, TaskResult } from './client.ts';
import type { SignatureLike } from './task.ts';

/** What a task needs in order to be sent. */
export interface TaskSender {
  send<Result>(task: string, request?: TaskRequest): Promise<TaskHandle<Result>>;
  /** Sends a signature with these args before its own. */
  apply<Result>(signature: SignatureLike, args?: readonly unknown[]): Promise<TaskHandle<Result>>;
  /** What is known of a task. */
  result<Result>(id: string): Promise<TaskResult<Result>>;
}

/** Several copies of the package in one process share these. */
const CURRENT = Symbol.for('ringbeat.client');
const OFFER = Symbol.for('ringbeat.client-offer');

const shared = globalThis as typeof globalThis & {
  [CURRENT]?: TaskSender | null;
  [OFFER]?: (() => TaskSender) | null;
};

/** The client that `delay` and `applyAsync` use from now on; null: none. */
export function setDefaultClient(client: TaskSender | null): void {
  shared[CURRENT] = client;
}

/** Takes a client back that is to be closed. */
export function forgetClient(client: TaskSender): void {
  if (shared[CURRENT] === client) shared[CURRENT] = null;
}

/**
 * Offers a client to processes that make none of their own; it is made when a task is first sent. Answers what closes it
 * and takes the offer back.
 */
export function offerClient(make: () => Client): () => Promise<void> {
  let made: Client | null = null;
  const offer = (): Client => {
    made ??= make();
    return made;
  };
  shared[OFFER] = offer;
  return async () => {
    if (shared[OFFER] === offer) shared[OFFER] = null;
    await made?.close();
  };
}

/** The client to send this task with. Throws NO_CLIENT. */
export function senderFor(task: string): TaskSender {
  const client = shared[CURRENT] ?? shared[OFFER]?.();
  if (client === undefined) throw new RingbeatError('NO_CLIENT', { task });
  return client;
}
