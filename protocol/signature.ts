import type { Json } from './json.ts';

/**
 * Signatures: tasks that are to be sent later, and the chains, groups and chords made of them (celery/canvas.py). In messages
 * they are JSON; to be applied they are read into trees of `Signature`s, which freezing and linking change in place.
 */
export class Signature {
  readonly kind: SignatureKind;
  readonly task: string;
  args: readonly Json[];
  kwargs: JsonObject;
  options: Options;
  readonly isImmutable: boolean;
  /** Of a chain, in running order; of a group; of a chord's header while that is a list. */
  tasks: Signature[];
  /** A chord's header, once it has become a group. */
  header: Signature | null = null;
  /** What a chord ends with. */
  body: Signature | null = null;

  constructor(kind: SignatureKind, fields: SignatureFields) {
    this.kind = kind;
    this.task = fields.task;
    this.args = fields.args ?? [];
    this.kwargs = fields.kwargs ?? {};
    this.options = fields.options ?? {};
    this.isImmutable = fields.isImmutable ?? false;
    this.tasks = fields.tasks ?? [];
  }
}

export type SignatureKind = 'task' | 'chain' | 'group' | 'chord';

export type JsonObject = { readonly [name: string]: Json };

/** Options hold signatures as well: `chord`, `link`, `link_error` and `chain`; as JSON until somebody needs to look into them. */
export type OptionValue = Json | Signature | readonly (Json | Signature)[] | undefined;

export type Options = { [name: string]: OptionValue };

interface SignatureFields {
  readonly task: string;
  readonly args?: readonly Json[];
  readonly kwargs?: JsonObject;
  readonly options?: Options;
  readonly isImmutable?: boolean;
  readonly tasks?: Signature[];
}

/** A value that ought to be a signature is none. */
export class BadSignature extends Error {
  override readonly name = 'BadSignature';
}

const NAMES = { chain: 'celery.chain', group: 'celery.group', chord: 'celery.chord' } as const;

/** A chain, group or list of tasks. */
export function compound(kind: 'chain' | 'group', tasks: Signature[], options: Options = {}): Signature {
  return new Signature(kind, { task: NAMES[kind], tasks, options });
}

/** A chord; its header may be a group, whose members it takes. */
export function chordOf(header: Signature | Signature[], body: Signature | null, options: Options = {}): Signature {
  const tasks = Array.isArray(header) ? header : header.tasks;
  const chord = new Signature('chord', { task: NAMES.chord, tasks: [...tasks], options });
  chord.body = body;
  return chord;
}

/** Reads a signature from JSON. Throws BadSignature. */
export function readSignature(value: OptionValue): Signature {
  if (value instanceof Signature) return value;
  if (!isJsonObject(value)) throw new BadSignature(`A signature is an object, got ${shown(value)}.`);
  const { task, args = [], kwargs = {}, options = {}, subtask_type: kind = null, immutable = false } = value;
  if (typeof task !== 'string' || task === '') throw new BadSignature(`A signature names a task, got ${shown(task)}.`);
  if (!Array.isArray(args)) throw new BadSignature(`The args of signature ${task} are no list.`);
  if (!isJsonObject(kwargs)) throw new BadSignature(`The kwargs of signature ${task} are no object.`);
  if (!isJsonObject(options)) throw new BadSignature(`The options of signature ${task} are no object.`);
  const isImmutable = immutable === true;
  switch (kind) {
    case null:
      return new Signature('task', { task, args, kwargs, options: { ...options }, isImmutable });
    // Celery drops whatever else these carry, too (canvas.py, from_dict).
    case 'chain':
    case 'group':
      return compound(kind, signaturesIn(kwargs.tasks, `The tasks of ${task}`), { ...options });
    case 'chord': {
      const header = headerOf(kwargs.header);
      const inner = isJsonObject(kwargs.kwargs) ? kwargs.kwargs : {};
      const chord = new Signature('chord', {
        task,
        args,
        kwargs: inner,
        options: { ...options },
        isImmutable,
        tasks: header,
      });
      chord.body = kwargs.body === undefined || kwargs.body === null ? null : readSignature(kwargs.body);
      return chord;
    }
    default:
      throw new BadSignature(`Signature ${task} is of unknown type ${shown(kind)}.`);
  }
}

function headerOf(header: Json | undefined): Signature[] {
  if (!isJsonObject(header)) return signaturesIn(header, 'The header of a chord');
  const signature = readSignature(header);
  return signature.kind === 'group' || signature.kind === 'chain' ? signature.tasks : [signature];
}

function signaturesIn(value: Json | undefined, what: string): Signature[] {
  if (!Array.isArray(value)) throw new BadSignature(`${what} are no list.`);
  return value.map(readSignature);
}

/** A signature as Celery writes it into messages. */
export function writeSignature(signature: Signature): Json {
  const { kind, task, args, kwargs, isImmutable } = signature;
  const options: { [name: string]: Json } = {};
  for (const [name, value] of Object.entries(signature.options)) {
    if (value !== undefined) options[name] = writeOption(value);
  }
  return {
    task,
    args,
    kwargs: kind === 'task' ? kwargs : membersJson(signature),
    options,
    subtask_type: kind === 'task' ? null : kind,
    immutable: isImmutable,
  };
}

function membersJson(signature: Signature): JsonObject {
  const { kind, kwargs, header, body, tasks } = signature;
  if (kind !== 'chord') return { tasks: tasks.map(writeSignature) };
  return {
    kwargs,
    header: header === null ? tasks.map(writeSignature) : writeSignature(header),
    body: body === null ? null : writeSignature(body),
  };
}

/** An option as JSON. */
export function writeOption(value: OptionValue): Json {
  if (value === undefined) return null;
  if (value instanceof Signature) return writeSignature(value);
  if (Array.isArray(value)) return value.map(writeOption);
  return value as Json;
}

/** A text option; null where there is none. */
export function textOption(options: Options, name: string): string | null {
  const value = options[name];
  return typeof value === 'string' && value !== '' ? value : null;
}

/** The signatures of an option that holds one or several. */
export function signaturesOption(options: Options, name: string): Signature[] {
  return listOption(options, name).map(readSignature);
}

/** The members of an option that holds one or several signatures. */
export function listOption(options: Options, name: string): readonly (Json | Signature)[] {
  const value = options[name];
  if (value === undefined || value === null) return [];
  return Array.isArray(value) ? value : [value as Json | Signature];
}

/** Whether an option is given: null counts as not. */
export function hasOption(options: Options, name: string): boolean {
  return options[name] !== undefined && options[name] !== null;
}

/** Options without those that are null. */
export function givenOptions(options: Options): Options {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null));
}

/** The stored options with those given at sending over them; a group, once given, stays, and so do stamps. */
export function mergeOptions(stored: Options, given: Options): Options {
  const merged = { ...stored };
  const stamps = stored.stamped_headers;
  for (const [name, value] of Object.entries(given)) {
    const isKept =
      name === 'group_id' || name === 'stamped_headers' || (Array.isArray(stamps) && stamps.includes(name));
    if (!isKept || !(name in stored)) merged[name] = value;
  }
  return merged;
}

/** What is sent when a signature is applied: args before its own, options over its own. */
export interface Partial {
  readonly args?: readonly Json[];
  readonly kwargs?: JsonObject;
  readonly options?: Options;
}

/** A copy that can be frozen without changing the original; of groups and chords the members are shared, as in Celery. */
export function clone(signature: Signature, partial: Partial = {}): Signature {
  const { kind, task, isImmutable } = signature;
  const args = [...(partial.args ?? []), ...signature.args];
  const takesPartial = !isImmutable;
  const copy = new Signature(kind, {
    task,
    args: takesPartial && kind !== 'chain' && kind !== 'group' ? args : signature.args,
    kwargs: takesPartial ? { ...signature.kwargs, ...partial.kwargs } : signature.kwargs,
    options: copyOptions(mergeOptions(signature.options, partial.options ?? {})),
    isImmutable,
    tasks: kind === 'chain' ? signature.tasks.map((member) => clone(member)) : membersOf(signature),
  });
  copy.body = signature.body === null ? null : clone(signature.body);
  return copy;
}

function membersOf({ kind, header, tasks }: Signature): Signature[] {
  if (header !== null) return [...header.tasks];
  return kind === 'chord' ? tasks.map((member) => clone(member)) : [...tasks];
}

function copyOptions(options: Options): Options {
  return Object.fromEntries(
    Object.entries(options).map(([name, value]) => [name, Array.isArray(value) ? [...value] : value]),
  );
}

/** A copy down to whatever `link` changes. */
export function cloneWithMembers(signature: Signature): Signature {
  const copy = clone(signature);
  if (copy.kind === 'group') copy.tasks = copy.tasks.map(cloneWithMembers);
  else if (copy.body !== null) copy.body = cloneWithMembers(copy.body);
  return copy;
}

/** A group of one task is that task. */
export function unrolled(signature: Signature): Signature {
  const [only] = signature.tasks;
  return signature.kind === 'group' && signature.tasks.length === 1 && only !== undefined ? only : signature;
}

export function isEmptyGroup(signature: Signature): boolean {
  return signature.kind === 'group' && signature.tasks.length === 0;
}

export function isEmptyChain(signature: Signature): boolean {
  return signature.kind === 'chain' && signature.tasks.length === 0;
}

/** Whether a chord's body is a chain that begins with a single task, so that the chain can go on behind the chord. */
export function isChainLedByTask(body: Signature | null): body is Signature {
  return body !== null && body.kind === 'chain' && body.tasks.length > 0 && body.tasks[0]!.kind !== 'group';
}

/** How many parts a signature contributes to the chord that it is a member of. */
export function chordSizeOf(signature: Signature): number {
  switch (signature.kind) {
    case 'task':
      return 1;
    case 'group':
      return signature.tasks.reduce((sum, member) => sum + chordSizeOf(member), 0);
    case 'chain': {
      for (let at = signature.tasks.length - 1; at >= 0; at--) {
        const size = chordSizeOf(signature.tasks[at]!);
        if (size > 0) return size;
      }
      return 0;
    }
    case 'chord':
      return signature.body === null ? 0 : chordSizeOf(signature.body);
  }
}

/** Adds what follows its success; of a chord it follows the body, of a group it is told of the first member's success. */
export function link(signature: Signature, callback: Signature): void {
  if (signature.kind === 'chord' && signature.body !== null) link(signature.body, callback);
  else if (signature.kind === 'group' && signature.tasks.length > 0) {
    const { task, args, kwargs, options } = callback;
    const immutable = new Signature('task', { task, args, kwargs, options: { ...options }, isImmutable: true });
    link(signature.tasks[0]!, callback.kind === 'task' ? immutable : callback);
  } else appendOption(signature, 'link', callback);
}

/** Adds what follows its failure: of a chord that of its body, of a group that of any member. */
export function linkError(signature: Signature, errback: Signature): void {
  if (signature.kind === 'chord') {
    for (const member of signature.header?.tasks ?? signature.tasks)
      if (member.kind === 'chord') linkError(member, errback);
    if (signature.body !== null) linkError(signature.body, errback);
  } else if (signature.kind === 'group') for (const member of signature.tasks) linkError(member, errback);
  else appendOption(signature, 'link_error', errback);
}

/** Adds a signature to an option that is a list, unless it is in it. */
export function appendOption({ options }: Signature, name: string, added: Json | Signature): void {
  const list = listOption(options, name);
  const text = JSON.stringify(writeOption(added));
  if (list.some((member) => JSON.stringify(writeOption(member)) === text)) return;
  options[name] = [...list, added];
}

/** A chain's tasks by themselves: its callbacks go to the last, its errbacks to each. */
export function unchained(chain: Signature): Signature[] {
  const tasks = chain.tasks.map((member) => clone(member));
  const last = tasks.at(-1);
  for (const callback of signaturesOption(chain.options, 'link')) if (last !== undefined) link(last, callback);
  for (const errback of signaturesOption(chain.options, 'link_error'))
    for (const task of tasks) linkError(task, errback);
  return tasks;
}

export function isJsonObject(value: OptionValue): value is JsonObject {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Signature) &&
    !('isLosslessNumber' in value)
  );
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? String(value)).slice(0, 100);
}
