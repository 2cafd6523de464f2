import type { Json } from './json.ts';
import {
  chordOf,
  clone,
  compound,
  hasOption,
  isChainLedByTask,
  isEmptyChain,
  isEmptyGroup,
  type JsonObject,
  linkError,
  type Options,
  readSignature,
  type Signature,
  textOption,
  unchained,
  unrolled,
} from './signature.ts';

/**
 * Freezing: tasks get their ids before they are sent, so that whoever sends a workflow can wait for its end, and whoever
 * stores a result can name those that follow (celery/canvas.py, freeze and prepare_steps).
 */
export interface Ids {
  /** An id that was never used. */
  newId(): string;
  /** Celery's "thread oid" of the sender. */
  readonly replyTo: string;
}

/** The result that a signature will have, and those of what comes before it: celery/result.py. */
export interface ResultNode {
  readonly id: string;
  parent: ResultNode | null;
  /** Of a group: its members' results. */
  readonly members: readonly ResultNode[] | null;
}

/** Celery's tuple form of a result. */
export function resultTuple({ id, parent, members }: ResultNode): Json {
  return [[id, parent === null ? null : resultTuple(parent)], members === null ? null : members.map(resultTuple)];
}

export interface FreezeOptions {
  /** Its id, unless it has one. */
  readonly id?: string | null;
  readonly groupId?: string | null;
  readonly groupIndex?: number | null;
  /** Body of the chord that it is a member of. */
  readonly chord?: Signature | null;
  readonly rootId?: string | null;
  readonly parentId?: string | null;
}

/** Gives a signature, and all that belong to it, their ids; in place. */
export function freeze(signature: Signature, options: FreezeOptions, ids: Ids): ResultNode {
  switch (signature.kind) {
    case 'task':
      return freezeTask(signature, options, ids);
    case 'group':
      return freezeGroup(signature, options, ids);
    case 'chain': {
      const steps = prepareSteps(signature, { ...options, isSending: false }, ids);
      return steps.results[0] ?? { id: '', parent: null, members: [] };
    }
    case 'chord':
      return freezeChord(signature, options, ids);
  }
}

function freezeTask({ options }: Signature, given: FreezeOptions, ids: Ids): ResultNode {
  const id = textOption(options, 'task_id') ?? given.id ?? ids.newId();
  options.task_id = id;
  if (given.rootId) options.root_id = given.rootId;
  if (given.parentId) options.parent_id = given.parentId;
  options.reply_to ??= ids.replyTo;
  if (given.groupId && !('group_id' in options)) options.group_id = given.groupId;
  if (given.chord) options.chord = given.chord;
  if (typeof given.groupIndex === 'number') options.group_index = given.groupIndex;
  return { id, parent: null, members: null };
}

/** Freezes a group; groups within it become part of it. */
export function freezeGroup(group: Signature, given: FreezeOptions, ids: Ids): ResultNode {
  const { options } = group;
  const id = textOption(options, 'task_id') ?? ids.newId();
  options.task_id = id;
  if (given.groupId) options.group_id = given.groupId;
  if (given.chord) options.chord = given.chord;
  if (typeof given.groupIndex === 'number') options.group_index = given.groupIndex;
  if (!('root_id' in options)) options.root_id = given.rootId ?? null;
  if (!('parent_id' in options)) options.parent_id = given.parentId ?? null;
  const common = {
    groupId: given.groupId ?? null,
    chord: given.chord ?? null,
    rootId: textOption(options, 'root_id'),
    parentId: textOption(options, 'parent_id'),
  };
  const stack = [...group.tasks];
  const tasks: Signature[] = [];
  const members: ResultNode[] = [];
  for (let next = stack.shift(); next !== undefined; next = stack.shift()) {
    const task = clone(next);
    if (task.kind === 'group') {
      // Celery turns their order round, and so the order of the results that a body gets.
      stack.unshift(...task.tasks.toReversed());
      continue;
    }
    if (isEmptyChain(task)) continue;
    tasks.push(task);
    members.push(freeze(task, { ...common, groupIndex: members.length }, ids));
  }
  group.tasks = tasks;
  return { id, parent: null, members };
}

function freezeChord(chord: Signature, given: FreezeOptions, ids: Ids): ResultNode {
  chord.header ??= compound('group', chord.tasks);
  const { body, header } = chord;
  const headerResult = freezeGroup(
    header,
    { parentId: given.parentId ?? null, rootId: given.rootId ?? null, chord: body },
    ids,
  );
  chord.options.task_id = headerResult.id;
  if (body === null) return headerResult;
  const { id = null, rootId = null, chord: outer = null, groupId = null, groupIndex = null } = given;
  const result = freeze(body, { id, rootId, chord: outer, groupId, groupIndex }, ids);
  firstOf(result).parent = headerResult;
  return result;
}

/** The result at the beginning of a chain of results. */
export function firstOf(result: ResultNode): ResultNode {
  let node = result;
  while (node.parent !== null) node = node.parent;
  return node;
}

export interface StepsOptions extends FreezeOptions {
  /** Put before the first task's own. */
  readonly args?: readonly Json[];
  readonly kwargs?: JsonObject;
  /** Called when any of the tasks fails. */
  readonly errbacks?: readonly Signature[];
  /** Whether what is prepared is to be sent: then the chain itself stays as it is. */
  readonly isSending: boolean;
}

export interface Steps {
  /** The last one first, as messages hold the rest of a chain. */
  readonly tasks: Signature[];
  readonly results: ResultNode[];
}

/** Flattens a chain and freezes its tasks; a group that something follows becomes a chord. */
export function prepareSteps(chain: Signature, options: StepsOptions, ids: Ids): Steps {
  const { args = [], kwargs = {}, isSending, rootId = null } = options;
  const steps = withoutEmptyHead(chain.tasks, isSending);
  const tasks: Signature[] = [];
  const results: ResultNode[] = [];
  let previous: Step | null = null;
  let isLast = true;
  for (let next = steps.pop(); next !== undefined; next = steps.pop()) {
    let task = unrolled(next);
    const isFirst = steps.length === 0;
    if (isEmptyGroup(task) && (!isFirst || previous !== null)) continue;
    if (isSending && task.kind === 'chord' && isChainLedByTask(task.body)) {
      steps.push(...unrolledBody(task));
      continue;
    }
    if (isSending) task = clone(task, isFirst ? { args, kwargs } : {});
    else if (isFirst) task.args = [...args, ...task.args];
    if (task.kind === 'chain') {
      steps.push(...task.tasks);
      continue;
    }
    if (task.kind === 'group' && previous !== null) {
      const { task: body, result } = previous;
      tasks.pop();
      const bodyResult = results.pop() ?? result;
      const id = result.members === null ? { task_id: result.id } : {};
      task = chordOf(task, body, { ...id, root_id: rootId });
      previous = behindBody(tasks.at(-1), results.at(-1), bodyResult, result);
    }
    const result = freeze(
      task,
      isLast
        ? {
            id: options.id ?? null,
            rootId,
            groupId: options.groupId ?? null,
            chord: options.chord ?? null,
            groupIndex: options.groupIndex ?? null,
          }
        : { rootId },
      ids,
    );
    if (previous !== null && previous.result.parent === null) previous.result.parent = result;
    for (const errback of options.errbacks ?? []) {
      linkError(task, errback);
      if (task.body !== null) linkError(task.body, errback);
    }
    tasks.push(task);
    results.push(result);
    isLast = false;
    previous = { task, result: task.kind === 'chord' ? firstOf(result) : result };
  }
  const last = results[0];
  if (last !== undefined) chain.options.task_id = last.id;
  else if (options.id) chain.options.task_id = options.id;
  if (isSending) for (const task of tasks) dropHeaderCallbacks(task);
  return { tasks, results };
}

interface Step {
  readonly task: Signature;
  readonly result: ResultNode;
}

/** The step behind a chord that has just been made of a group and the step that was its body; null: there is none. */
function behindBody(
  task: Signature | undefined,
  last: ResultNode | undefined,
  bodyResult: ResultNode,
  otherwise: ResultNode,
): Step | null {
  if (task === undefined) return null;
  let node: ResultNode | null = last ?? null;
  while (node !== null && node.parent !== bodyResult) node = node.parent;
  // It is linked to the chord's result instead of to the body's alone, which is a part of that.
  if (node !== null) node.parent = null;
  return { task, result: node ?? otherwise };
}

/** The steps of a chain, of which the first is one that something is sent for. */
function withoutEmptyHead(tasks: readonly Signature[], isSending: boolean): Signature[] {
  const steps = [...tasks];
  let stripped: Signature | null = null;
  for (let head = steps[0]; head !== undefined; head = steps[0]) {
    if (head.kind === 'chain') {
      const inner: Signature = isSending ? clone(head) : head;
      steps.splice(0, 1, ...inner.tasks);
      continue;
    }
    const task = unrolled(head);
    steps[0] = task;
    if (steps.length === 1 || !isEmptyGroup(task)) break;
    stripped = task;
    steps.shift();
  }
  return steps.length === 0 && stripped !== null ? [stripped] : steps;
}

const CHAIN_OPTIONS = [
  'chord',
  'group_id',
  'group_index',
  'link',
  'link_error',
  'parent_id',
  'root_id',
  'task_id',
] as const;

/**
 * chord(header, chain(a, b, c)) as chord(header, a), b, c: every member of the header carries a copy of the body, and so of
 * the whole rest, if that were part of it.
 */
function unrolledBody(chord: Signature): Signature[] {
  const task = clone(chord);
  const { body } = task;
  if (body === null) return [task];
  const [first, ...rest] = unchained(body);
  const options: Options = { ...body.options };
  for (const name of CHAIN_OPTIONS) delete options[name];
  task.body = first === undefined ? null : clone(first, { options });
  return [task, ...rest];
}

/** Lets the tasks of chord bodies that are chains run behind their chords; in place. */
export function unrollChords(chain: Signature): void {
  const pending = [...chain.tasks];
  const tasks: Signature[] = [];
  for (let task = pending.shift(); task !== undefined; task = pending.shift()) {
    if (task.kind === 'chain') {
      task = clone(task);
      unrollChords(task);
    }
    if (task.kind === 'chord' && isChainLedByTask(task.body)) pending.unshift(...unrolledBody(task));
    else tasks.push(task);
  }
  chain.tasks = tasks;
}

/** A chord that is yet to be sent names its body already; the members of its header get it when they are sent. */
export function dropHeaderCallbacks(signature: Signature): void {
  if (signature.kind === 'chord') {
    for (const member of signature.header?.tasks ?? signature.tasks) {
      dropChord(member);
      dropHeaderCallbacks(member);
    }
    if (signature.header !== null) delete signature.header.options.chord;
    if (signature.body !== null) dropHeaderCallbacks(signature.body);
  } else for (const member of signature.tasks) dropHeaderCallbacks(member);
}

function dropChord(signature: Signature): void {
  delete signature.options.chord;
  if (signature.kind === 'group') for (const member of signature.tasks) dropChord(member);
  const last = signature.kind === 'chain' ? signature.tasks.at(-1) : signature.body;
  if (last) dropChord(last);
}

/** The chord that a signature is a member of: its body. */
export function chordOption(options: Options): Signature | null {
  return hasOption(options, 'chord') ? readSignature(options.chord) : null;
}
