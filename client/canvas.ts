import { chained } from '../protocol/canvas-chain.ts';
import type { Json } from '../protocol/json.ts';
import {
  chordOf,
  compound,
  type JsonObject,
  link,
  linkError,
  type Options,
  readSignature,
  Signature as Tree,
  writeSignature,
} from '../protocol/signature.ts';
import type { TaskHandle } from './client.ts';
import { senderFor, type TaskSender } from './default-client.ts';
import type { GroupHandle } from './handles.ts';
import { celeryOptions, json, jsonArgs, type SignatureOptions } from './signature-options.ts';

/** How a signature is sent. */
export interface CanvasOptions extends SignatureOptions {
  /** Sends it with this client instead of the default one. */
  readonly client?: TaskSender;
}

/**
 * A task that is to be sent later, or a chain, group or chord of such: what Celery calls a signature. It never changes:
 * what adds to it answers a new one. `Missing` are the args that whoever sends it puts before its own, as a chain does with
 * the result of the task before.
 */
export class Signature<
  in Missing extends readonly unknown[] = readonly unknown[],
  out Result = unknown,
  out Handle extends TaskHandle<Result> = TaskHandle<Result>,
> {
  readonly #json: Json;
  /** Only its type is there. */
  declare protected readonly result: Result;

  /** Use `task.s()`, `signature()`, `chain()`, `group()` and `chord()`. */
  constructor(tree: Tree) {
    this.#json = writeSignature(tree);
  }

  /** With these options over its own. Those of a chain are its first task's, of a group each member's. */
  set(options: SignatureOptions): Signature<Missing, Result, Handle> {
    return this.#changed((tree) => Object.assign(tree.options, celeryOptions(tree.task, options)));
  }

  /** Then sends these, too, when it has succeeded, with its result before their own args. */
  link(...callbacks: readonly Signature<[Result], unknown>[]): Signature<Missing, Result, Handle> {
    return this.#changed((tree) => {
      for (const callback of callbacks) link(tree, treeOf(callback));
    });
  }

  /** Then sends these when it has failed, with the failed task's id before their own args. Of a chain or group: whichever fails. */
  onError(...errbacks: readonly Signature<[string], unknown>[]): Signature<Missing, Result, Handle> {
    return this.#changed((tree) => {
      for (const errback of errbacks) linkError(tree, treeOf(errback));
    });
  }

  /** Sends it by the default client, with these args before its own. Throws NO_CLIENT where there is none. */
  delay(...args: Missing): Promise<Handle> {
    return this.applyAsync(args);
  }

  /** The same, with options over its own. */
  async applyAsync(args: Missing, { client, ...options }: CanvasOptions = {}): Promise<Handle> {
    const { task } = treeOf(this);
    const sender = client ?? senderFor(task);
    const handle = await sender.apply(this.set(options), jsonArgs(task, args));
    // The signature's type tells which kind of handle its results make.
    return handle as Handle;
  }

  /** As it stands in messages. */
  toJSON(): Json {
    return this.#json;
  }

  #changed(change: (tree: Tree) => void): Signature<Missing, Result, Handle> {
    const tree = treeOf(this);
    change(tree);
    return new Signature<Missing, Result, Handle>(tree);
  }
}

/** Any signature whose task, or last task, returns this. */
export type AnySignature<Result = unknown> = Signature<never, Result>;

/** A group: its handle has the results of all of them. */
export type Group<Results extends readonly unknown[]> = Signature<readonly unknown[], Results, GroupHandle<Results>>;

/** A signature of a task that need not exist in this process. Throws SpecError for args that are not JSON. */
export function signature<Result = Json>(
  task: string,
  args: readonly unknown[] = [],
  { kwargs = {}, immutable = false, ...options }: ForeignOptions = {},
): Signature<readonly unknown[], Result> {
  return taskSignature(task, { args, kwargs, isImmutable: immutable, options: celeryOptions(task, options) });
}

export interface ForeignOptions extends SignatureOptions {
  readonly kwargs?: Readonly<Record<string, unknown>>;
  /** Whether it takes no more args than these. Default false. */
  readonly immutable?: boolean;
}

/** Each step is sent when the one before has succeeded, with its result before its own args. */
export function chain<M extends readonly unknown[], A, H extends TaskHandle<A>>(
  a: Signature<M, A, H>,
): Signature<M, A, H>;
export function chain<M extends readonly unknown[], A, B, H extends TaskHandle<B>>(
  a: Signature<M, A>,
  b: Signature<[A], B, H>,
): Signature<M, B, H>;
export function chain<M extends readonly unknown[], A, B, C, H extends TaskHandle<C>>(
  a: Signature<M, A>,
  b: Signature<[A], B>,
  c: Signature<[B], C, H>,
): Signature<M, C, H>;
export function chain<M extends readonly unknown[], A, B, C, D, H extends TaskHandle<D>>(
  a: Signature<M, A>,
  b: Signature<[A], B>,
  c: Signature<[B], C>,
  d: Signature<[C], D, H>,
): Signature<M, D, H>;
export function chain<M extends readonly unknown[], A, B, C, D, E, H extends TaskHandle<E>>(
  a: Signature<M, A>,
  b: Signature<[A], B>,
  c: Signature<[B], C>,
  d: Signature<[C], D>,
  e: Signature<[D], E, H>,
): Signature<M, E, H>;
/** As many steps as there are; what they take of each other is not checked. */
export function chain<Result = unknown>(steps: Iterable<AnySignature>): Signature<readonly unknown[], Result>;
export function chain(
  ...steps: readonly [Iterable<AnySignature>] | readonly AnySignature[]
): Signature<readonly unknown[], unknown> {
  const trees = treesOf(steps);
  if (trees.length === 0) throw new TypeError('A chain needs a step: chain(task.s()).');
  return new Signature(chained(trees));
}

/** All of them at once. */
export function group<Results extends readonly unknown[]>(
  ...members: { readonly [I in keyof Results]: AnySignature<Results[I]> }
): Group<Results>;
export function group<Result>(members: Iterable<AnySignature<Result>>): Group<Result[]>;
export function group(
  ...members: readonly [Iterable<AnySignature>] | readonly AnySignature[]
): Group<readonly unknown[]> {
  return new Signature(compound('group', treesOf(members)));
}

/** A group, and what is sent when all of it has succeeded, with the list of its results before its own args. */
export function chord<Results extends readonly unknown[], Result, H extends TaskHandle<Result>>(
  header: Group<Results>,
  body: Signature<[Results], Result, H>,
): Signature<readonly unknown[], Result, H>;
export function chord<Member, Result, H extends TaskHandle<Result>>(
  header: Iterable<AnySignature<Member>>,
  body: Signature<[Member[]], Result, H>,
): Signature<readonly unknown[], Result, H>;
export function chord(
  header: AnySignature | Iterable<AnySignature>,
  body: AnySignature,
): Signature<readonly unknown[], unknown> {
  const members = header instanceof Signature ? treeOf(header) : treesOf([header]);
  if (!Array.isArray(members) && members.kind !== 'group')
    throw new TypeError('The header of a chord is a group or a list.');
  return new Signature(chordOf(members, treeOf(body)));
}

interface TaskParts {
  readonly args: readonly unknown[];
  readonly kwargs?: Readonly<Record<string, unknown>>;
  readonly options: Options;
  readonly isImmutable: boolean;
}

/** A signature of a single task. */
export function taskSignature<Missing extends readonly unknown[], Result>(
  task: string,
  { args, kwargs = {}, options, isImmutable }: TaskParts,
): Signature<Missing, Result> {
  const fields = { args: jsonArgs(task, args), kwargs: json(task, kwargs) as JsonObject, options, isImmutable };
  return new Signature(new Tree('task', { task, ...fields }));
}

/** Celery's map and starmap: one task that runs another for one item after the other. */
export function mapSignature<Result>(
  kind: 'celery.map' | 'celery.starmap',
  task: AnySignature,
  items: readonly unknown[],
): Signature<readonly unknown[], Result[]> {
  const { task: name, options } = treeOf(task);
  const fields = { kwargs: { task: task.toJSON(), it: jsonArgs(name, items) }, options, isImmutable: true };
  return new Signature(new Tree('task', { task: kind, ...fields }));
}

function treeOf(signature: AnySignature): Tree {
  return readSignature(signature.toJSON());
}

function treesOf(given: readonly [Iterable<AnySignature>] | readonly AnySignature[]): Tree[] {
  const [first] = given;
  const list = given.length === 1 && first !== undefined && Symbol.iterator in first ? [...first] : given;
  return (list as readonly AnySignature[]).map(treeOf);
}
