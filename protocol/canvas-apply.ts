import {
  dropHeaderCallbacks,
  freeze,
  freezeGroup,
  type Ids,
  prepareSteps,
  type ResultNode,
  resultTuple,
  unrollChords,
} from './canvas-freeze.ts';
import type { Json } from './json.ts';
import {
  appendOption,
  BadSignature,
  chordSizeOf,
  clone,
  cloneWithMembers,
  compound,
  givenOptions,
  hasOption,
  isEmptyChain,
  type JsonObject,
  link,
  linkError,
  listOption,
  mergeOptions,
  type Options,
  readSignature,
  type Signature,
  signaturesOption,
  textOption,
} from './signature.ts';
import { type SignatureMessage, signatureMessage } from './signature-message.ts';

/** Who applies a signature, and when. */
export interface Sender extends Ids {
  /** What Celery calls the sending node. */
  readonly origin: string;
  /** Where tasks go that name no queue. */
  readonly defaultQueue: string;
  /** By Redis's clock, ms since epoch. */
  readonly nowMs: number;
  /** The task within which it is applied; null: none. */
  readonly parent: { readonly id: string; readonly rootId: string } | null;
}

/** All that is to be done so that a signature is applied. */
export interface Applied {
  readonly messages: SignatureMessage[];
  /** How many parts the chords of these groups have; to be known before the last of their messages is taken. */
  readonly chordSizes: { readonly groupId: string; readonly size: number }[];
  /** Groups whose structure the body of their chord needs: tuple forms. */
  readonly savedGroups: { readonly groupId: string; readonly result: Json }[];
  /** Tuple forms of what a task that sends this gets as children. */
  readonly children: Json[];
  /** What its sender can wait for; null where nothing was sent. */
  result: ResultNode | null;
}

/** How a signature is applied: what is given here goes before or over its own. */
export interface Application {
  readonly args?: readonly Json[];
  readonly kwargs?: JsonObject;
  readonly options?: Options;
}

/** The messages of a signature (celery/canvas.py, apply_async of each kind). Throws BadSignature. */
export function applySignature(signature: Signature, application: Application, sender: Sender): Applied {
  const applied: Applied = { messages: [], chordSizes: [], savedGroups: [], children: [], result: null };
  applied.result = apply(signature, application, { sender, applied, isOwn: true, isHeader: false });
  return applied;
}

/** Puts what one signature needs to what others need. */
export function joinApplied(parts: readonly Applied[]): Applied {
  return {
    messages: parts.flatMap(({ messages }) => messages),
    chordSizes: parts.flatMap(({ chordSizes }) => chordSizes),
    savedGroups: parts.flatMap(({ savedGroups }) => savedGroups),
    children: parts.flatMap(({ children }) => children),
    result: parts.at(-1)?.result ?? null,
  };
}

interface Scene {
  readonly sender: Sender;
  readonly applied: Applied;
  /** Whether what is sent counts as a child; members of a group do not, the group does. */
  readonly isOwn: boolean;
  /** Whether it is the header of a chord. */
  readonly isHeader: boolean;
}

function apply(signature: Signature, application: Application, scene: Scene): ResultNode | null {
  switch (signature.kind) {
    case 'task':
      return applyTask(signature, application, scene);
    case 'chain':
      return applyChain(signature, application, scene);
    case 'group':
      return applyGroup(signature, application, scene);
    case 'chord':
      return applyChord(signature, application, scene);
  }
}

function applyTask(signature: Signature, { args = [], kwargs = {}, options = {} }: Application, scene: Scene) {
  const { isImmutable } = signature;
  const message = signatureMessage(
    {
      task: signature.task,
      args: isImmutable ? signature.args : [...args, ...signature.args],
      kwargs: isImmutable ? signature.kwargs : { ...signature.kwargs, ...kwargs },
      options: mergeOptions(signature.options, givenOptions(options)),
    },
    scene.sender,
  );
  scene.applied.messages.push(message);
  const result = { id: message.taskId, parent: null, members: null };
  if (scene.isOwn) scene.applied.children.push(resultTuple(result));
  return result;
}

function applyChain(chain: Signature, { args = [], kwargs = {}, options = {} }: Application, scene: Scene) {
  const merged = { ...chain.options, ...options };
  const { tasks, results } = prepareSteps(
    chain,
    {
      args: chain.isImmutable ? chain.args : [...args, ...chain.args],
      kwargs,
      id: textOption(merged, 'task_id'),
      groupId: textOption(merged, 'group_id'),
      groupIndex: typeof merged.group_index === 'number' ? merged.group_index : null,
      chord: hasOption(merged, 'chord') ? readSignature(merged.chord) : null,
      rootId: textOption(merged, 'root_id'),
      errbacks: signaturesOption(merged, 'link_error'),
      isSending: true,
    },
    scene.sender,
  );
  const [last] = tasks;
  if (last === undefined) return null;
  const callbacks = listOption(merged, 'link');
  if (callbacks.length > 0) last.options.link = [...listOption(last.options, 'link'), ...callbacks];
  const first = tasks.pop();
  if (first === undefined) return null;
  const rest: Options = { ...merged, chain: [...listOption(merged, 'chain'), ...tasks] };
  for (const name of CONSUMED_BY_CHAIN) delete rest[name];
  const sent = apply(first, { options: rest }, scene);
  return tasks.length === 0 ? sent : (results[0] ?? null);
}

const CONSUMED_BY_CHAIN = ['group_id', 'chord', 'task_id', 'link', 'link_error', 'root_id', 'parent_id', 'group_index'];

function applyGroup(
  group: Signature,
  { args = [], kwargs = {}, options: { link: callback, link_error: errback, ...given } = {} }: Application,
  scene: Scene,
) {
  if (callback !== undefined && callback !== null) throw new BadSignature('A group has no callbacks: use a chord.');
  if (errback !== undefined && errback !== null)
    throw new BadSignature('A group has no errbacks: give them to its tasks.');
  const { sender, applied } = scene;
  if (group.tasks.length === 0) return freezeGroup(group, {}, sender);
  const { task_id, group_index: _, ...options } = mergeOptions(group.options, given);
  const groupId = typeof task_id === 'string' && task_id !== '' ? task_id : sender.newId();
  // Celery 5.2 gives a group that ends a chain in a chord's header the chord's own id: its members are parts of that chord.
  const isPartOfChord =
    !scene.isHeader && group.options.task_id === group.options.group_id && hasOption(group.options, 'chord');
  const members = membersOf(group, groupId, textOption(options, 'root_id'), sender);
  const given_chord = hasOption(options, 'chord') ? options.chord : null;
  let size = 0;
  members.forEach(({ task }, at) => {
    const chord = given_chord ?? task.options.chord ?? null;
    size += chordSizeOf(task);
    if (chord !== null && at === members.length - 1 && !isPartOfChord) applied.chordSizes.push({ groupId, size });
    apply(
      task,
      { args, kwargs, options: { ...options, group_id: groupId, chord } },
      { ...scene, isOwn: false, isHeader: false },
    );
  });
  const results = members.map(({ result }) => result);
  const [only] = results;
  const isOnlyGroup = results.length === 1 && only !== undefined && only.members !== null;
  const result = isOnlyGroup ? only : { id: groupId, parent: null, members: results };
  if (scene.isOwn) applied.children.push(resultTuple(result));
  return result;
}

interface Member {
  readonly task: Signature;
  readonly result: ResultNode;
}

/** A group's tasks, those of groups within it among them, each with its id. */
function membersOf(group: Signature, groupId: string, rootId: string | null, ids: Ids): Member[] {
  return group.tasks.flatMap((original, groupIndex): Member[] => {
    const task = clone(original);
    if (task.kind === 'group') return membersOf(task, groupId, rootId, ids);
    if (isEmptyChain(task)) return [];
    return [{ task, result: freeze(task, { groupId, rootId, groupIndex }, ids) }];
  });
}

function applyChord(chord: Signature, { args = [], kwargs = {}, options = {} }: Application, scene: Scene) {
  const { sender, applied } = scene;
  if (chord.body === null) throw new BadSignature('A chord has no body.');
  const { task_id: givenId, countdown, eta, link: callback, link_error: errback, ...passed } = givenOptions(options);
  const callbacks: Options = { ...(callback && { link: callback }), ...(errback && { link_error: errback }) };
  const delay = givenOptions({
    countdown: countdown ?? chord.options.countdown,
    eta: eta ?? chord.options.eta,
  });
  const merged: Options = { ...chord.options, ...passed, ...callbacks };
  const bodyId = typeof givenId === 'string' ? givenId : textOption(merged, 'task_id');
  for (const name of ['task_id', 'countdown', 'eta'] as const) delete merged[name];

  const header = headerOf(chord, sender);
  const groupId = textOption(header.options, 'task_id') ?? sender.newId();
  let body = clone(chord.body, { options: withoutParent(passed) });
  const rootId = textOption(body.options, 'root_id');
  body = withCallbacks(body, merged);
  delete merged.link;
  delete merged.link_error;
  Object.assign(body.options, withoutParent(merged));

  if (body.kind === 'chain') unrollChords(body);
  const bodyResult = freeze(body, { id: bodyId ?? sender.newId(), groupId, rootId }, sender);
  dropHeaderCallbacks(body);
  header.options.task_id = groupId;
  const headerResult = freezeGroup(header, { groupId, chord: body, rootId }, sender);
  if (header.tasks.length === 0) {
    apply(body, { args: [[]] }, { ...scene, isOwn: true, isHeader: false });
    bodyResult.parent = headerResult;
    return bodyResult;
  }
  if (headerResult.members?.some(({ members }) => members !== null))
    applied.savedGroups.push({ groupId, result: resultTuple(headerResult) });
  const { chain: _, chord: __, ...headerOptions } = merged;
  bodyResult.parent = apply(
    header,
    {
      args: chord.isImmutable ? chord.args : [...args, ...chord.args],
      kwargs: { ...chord.kwargs, ...kwargs },
      options: { ...headerOptions, ...delay, task_id: groupId },
    },
    { ...scene, isHeader: true },
  );
  return bodyResult;
}

function headerOf({ header, tasks, options }: Signature, { newId }: Ids): Signature {
  if (header !== null) return clone(header);
  return compound('group', [...tasks], { task_id: textOption(options, 'task_id') ?? newId() });
}

/** The parent of a chord's body is the member of its header that ended last. */
function withoutParent({ parent_id: _, ...options }: Options): Options {
  return options;
}

/** A chord's callbacks belong to its body. */
function withCallbacks(body: Signature, options: Options): Signature {
  const callbacks = signaturesOption(options, 'link');
  const errbacks = signaturesOption(options, 'link_error');
  if (callbacks.length === 0 && errbacks.length === 0) return body;
  const copy = cloneWithMembers(body);
  for (const callback of callbacks) {
    if (copy.kind === 'group' && copy.tasks.length === 0) appendOption(copy, 'link', callback);
    else link(copy, cloneWithMembers(callback));
  }
  for (const errback of errbacks) {
    if (copy.kind === 'group') linkError(copy, errback);
    else appendOption(copy, 'link_error', errback);
  }
  return copy;
}
