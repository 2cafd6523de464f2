import type { Json } from '../protocol/json.ts';

/** The task that sends others. */
export interface SendingTask {
  readonly id: string;
  /** The first task of its workflow; null: it is that itself. */
  readonly rootId: string | null;
  /** Tuple forms of what it sent: `children` of its result. */
  addChildren(children: readonly Json[]): void;
}

/** Several copies of the package in one process share it. */
const CURRENT = Symbol.for('ringbeat.current-task');

const shared = globalThis as typeof globalThis & { [CURRENT]?: { task: SendingTask | null } };
shared[CURRENT] ??= { task: null };

/**
 * The task whose function runs at this moment, up to its first `await`. (What follows promises through the rest of it,
 * AsyncLocalStorage, would cost every task of the process, whether it sends anything or not.)
 */
export const current: { task: SendingTask | null } = shared[CURRENT];

/** Calls a function as a part of a task: what it sends, until it first awaits something, is sent by that. */
export function within<T>(task: SendingTask, act: () => T): T {
  const outer = current.task;
  current.task = task;
  try {
    return act();
  } finally {
    current.task = outer;
  }
}
