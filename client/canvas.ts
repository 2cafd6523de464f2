import { chained } from '../protocol/canvas-chain.ts';
import type { Json } from '../protocol/json.ts';
import {
  chordOf,
  clone,
  cloneWithMembers,
  compound,
  type JsonObject,
  link,
  linkError,
  readSignature,
  Signature as Tree,
  writeSignature,
} from '../protocol/signature.ts';
import type { GroupHandle, TaskHandle } from './client.ts';
import { senderFor, type TaskSender } from './default-client.ts';
import { celeryOptions, json, type SignatureOptions } from './signature-options.ts';

/** How a signature is sent. */
export interface CanvasOptions extends SignatureOptions {
  /** Sends it with this client instead of the default one. */
  readonly client?: TaskSender;
}

/** A task that is to be sent later, or a chain, group or chord of such: Celery's signatures (celery/canvas.py). */
export type AnySignature<Result = unknown> = Signature<never, Result, TaskHandle<Result>>;

/**
 * A task that is to be sent later with these args, or several. It never changes: what adds to it answers a new one.
 * `Missing` are the args that whoever sends it puts before its own, such as the result of the task before it in a chain.
 */
export class Signature<
  in Missing extends readonly unknown[] = readonly unknown[],
  out Result = unknown,
  out Handle extends TaskHandle<Result> = TaskHandle<Result>,
> {
  readonly #tree: Tree;
  /** Only there for its type. */
  declare protected readonly result: Result;

  /** Use `task.s()`, `signature()`, `chain()`, `group()` and `chord()`. */
  constructor(tree: Tree) {
    this.#tree = tree;
  }

  /** With these options over its own. Those of a chain are its first task's, of a group each member's. */
  set(options: SignatureOptions): Signature<Missing, Result, Handle> {
    return this.#changed((tree) => Object.assign(tree.options, celeryOptions(tree.task, options)));
  }

  /** Sends these when it has succeeded, with its result before their own args. */
  link(...callbacks: readonly Signature<readonly [Result], unknown>[]): Signature<Missing, Result, Handle> {
    return this.#changed((tree) => {
      for (const callback of callbacks) link(tree, treeOf(callback));
    });
  }

  /** Sends these when it has failed, with the id of the failed task before their own args. Of a chain: when any task has. */
  onError(...errbacks: readonly Signature<readonly [string], unknown>[]): Signature<Missing, Result, Handle> {
    return this.#changed((tree) => {
      for (const errback of errbacks) linkError(tree, treeOf(errback));
    });
  }

  /** Sends it, with these args before its own. Throws NO_CLIENT where there is no default client. */
  delay(...args: Missing): Promise<Handle> {
    return this.applyAsync(args);
  }

  /** The same, with options over its own. */
  async applyAsync(args: Missing, { client, ...options }: CanvasOptions = {} as CanvasOptions): Promise<Handle> {
    const { task } = this.#tree;
    const sender = client ?? senderFor(task);
    const handle: TaskHandle<unknown> = await sender.apply(this.set(options), json(task, args) as readonly Json[]);
    // A tree makes the kind of handle that its type says.
    return handle as Handle;
  }

  /** As it stands in messages: Celery's own form. */
  toJSON(): Json {
    return writeSignature(this.#tree);
  }

  #changed(change: (tree: Tree) => void): Signature<Missing, Result, Handle> {
    const tree = this.tree();
    change(tree);
    return new Signature<Missing, Result, Handle>(tree);
  }
}
