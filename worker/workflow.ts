import { type Action, actionsOf, type PartAction } from '../lua/actions.ts';
import { applySignature, joinApplied, type Sender } from '../protocol/canvas-apply.ts';
import { freeze } from '../protocol/canvas-freeze.ts';
import { type Json, toPythonJson } from '../protocol/json.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { type ExceptionRecord, exceptionValue, failureRecord } from '../protocol/result.ts';
import {
  BadSignature,
  chordOf,
  compound,
  hasOption,
  isEmptyChain,
  link,
  linkError,
  type Options,
  type OptionValue,
  readSignature,
  type Signature,
  textOption,
  writeOption,
} from '../protocol/signature.ts';
import type { FlowSource } from './flow-source.ts';
import type { SignatureToSend } from './outcome.ts';

/** What follows a task that has ended; it happens in the step that stores its result. */
export interface Follow {
  readonly actions: readonly Action[];
  /** Tuple forms of what was sent. */
  readonly children: readonly Json[];
}

/** What a chord's body needs, beside the parts: kept from its last part on until it is sent. */
export interface ChordFollow {
  /** The body. */
  readonly chord: Json;
  /** The member of the header that ended last, and the first task of its workflow. */
  readonly taskId: string;
  readonly rootId: string;
}

/**
 * What follows a task that returned `value` (celery/app/trace.py): its callbacks, the next task of its chain, its part of a
 * chord. Throws BadSignature.
 */
export function followSuccess(message: TaskMessage, value: Json, nowMs: number, source: FlowSource): Follow {
  const { workflow } = message;
  const sender = senderOf(message, nowMs, source);
  const options = { parent_id: message.id, root_id: rootOf(message) };
  const callbacks = workflow.callbacks.map(readSignature);
  const groups = callbacks.length > 1 ? callbacks.filter(({ kind }) => kind === 'group') : [];
  const others = callbacks.filter((callback) => !groups.includes(callback));
  const together = others.length > 1 ? [compound('group', others)] : others;
  const applied = [...groups, ...together].map((callback) =>
    applySignature(callback, { args: [value], options }, sender),
  );
  const next = workflow.chain.at(-1);
  if (next !== undefined) {
    const chain = workflow.chain.slice(0, -1);
    applied.push(applySignature(readSignature(next), { args: [value], options: { ...options, chain } }, sender));
  }
  const all = joinApplied(applied);
  return { actions: [...actionsOf(all), ...chordPart(message, 'SUCCESS', value)], children: all.children };
}

/**
 * What follows a task that failed (celery/backends/base.py, mark_as_failure): its part of a chord, the failure of all that
 * would have followed it in its chain, its errbacks. With `isStored` false no results are stored. Throws BadSignature.
 */
export function followFailure(
  message: TaskMessage,
  { exception, traceback }: { readonly exception: ExceptionRecord; readonly traceback: string | null },
  { nowMs, isStored }: { readonly nowMs: number; readonly isStored: boolean },
  source: FlowSource,
): Follow {
  const { chain, errbacks } = message.workflow;
  const failure = { exception, traceback, nowMs, isStored, root: rootOf(message) };
  const actions: Action[] = [
    ...chordPart(message, 'FAILURE', exceptionValue(exception)),
    ...failedChain(chain, failure),
    ...errbackActions(errbacks, message.id, rootOf(message), nowMs, source),
  ];
  return { actions, children: [] };
}

/** What follows a task that was revoked: its part of a chord. */
export function followRevoked(message: TaskMessage, exception: ExceptionRecord): Follow {
  return { actions: chordPart(message, 'REVOKED', exceptionValue(exception)), children: [] };
}

export interface TaskFailure {
  readonly exception: ExceptionRecord;
  readonly traceback: string | null;
  readonly nowMs: number;
  readonly isStored: boolean;
  readonly root: string;
}

/** Ends every task of the rest of a chain, so that nobody waits for it for ever. */
export function failedChain(chain: readonly OptionValue[], failure: TaskFailure): Action[] {
  const actions: Action[] = [];
  const pending = [...chain];
  for (let element = pending.shift(); element !== undefined; element = pending.shift()) {
    const signature = readSignature(element);
    const { options } = signature;
    const id = textOption(options, 'task_id');
    if (id !== null) actions.push(...failedTask(id, options, failure));
    if (signature.kind === 'chord' && signature.body !== null) pending.push(signature.body);
  }
  return actions;
}

/** The failure of a task that will never be sent, with its part of the chord that its options name. */
export function failedTask(id: string, options: Options, failure: TaskFailure): Action[] {
  const { exception, traceback, nowMs, isStored, root } = failure;
  const groupId = textOption(options, 'group_id');
  const actions: Action[] = [];
  if (isStored) {
    const owner = { id, groupId, parentId: textOption(options, 'parent_id') };
    actions.push({ kind: 'record', taskId: id, record: failureRecord(owner, exception, traceback, nowMs) });
  }
  if (groupId !== null && hasOption(options, 'chord')) {
    const index = typeof options.group_index === 'number' ? options.group_index : null;
    const part = { id, groupId, index, root };
    actions.push(partAction(part, 'FAILURE', exceptionValue(exception), writeOption(options.chord)));
  }
  return actions;
}

/** The messages that tell a task's errbacks, as Celery sends them to workers that do not know them. */
export function errbackActions(
  errbacks: readonly OptionValue[],
  failedId: string,
  rootId: string,
  nowMs: number,
  source: FlowSource,
): Action[] {
  if (errbacks.length === 0) return [];
  const group = compound('group', errbacks.map(readSignature));
  const sender: Sender = { ...source, nowMs, parent: { id: failedId, rootId } };
  const options = { parent_id: failedId, root_id: rootId };
  return actionsOf(applySignature(group, { args: [failedId], options }, sender));
}

function chordPart(message: TaskMessage, state: string, result: Json): Action[] {
  const { id, groupId, groupIndex, workflow } = message;
  if (workflow.chord === null || groupId === null) return [];
  return [partAction({ id, groupId, index: groupIndex, root: rootOf(message) }, state, result, workflow.chord)];
}

/** What a task sends as it succeeds; a part of its chord is counted before the task's own. */
export function sendSignature(
  message: TaskMessage,
  { signature, isPart }: SignatureToSend,
  nowMs: number,
  source: FlowSource,
): Follow {
  const read = readSignature(signature);
  const { groupId, groupIndex, workflow } = message;
  const isMember = isPart && groupId !== null && workflow.chord !== null;
  if (isMember) {
    Object.assign(read.options, { group_id: groupId, group_index: groupIndex, chord: workflow.chord });
    read.options.root_id = rootOf(message);
  }
  const applied = applySignature(read, {}, senderOf(message, nowMs, source));
  const grow: Action[] = isMember ? [{ kind: 'grow', groupId }] : [];
  return { actions: [...grow, ...actionsOf(applied)], children: applied.children };
}

/**
 * The messages of what takes a task's place (celery/app/task.py, replace): it ends under the task's id, and all that was to
 * follow the task follows it. Throws BadSignature.
 */
export function followReplacement(message: TaskMessage, replacement: Json, nowMs: number, source: FlowSource): Follow {
  const { id, groupId, groupIndex, workflow, replacedTaskNesting } = message;
  const sender = senderOf(message, nowMs, source);
  let signature = gathered(readSignature(replacement));
  if (hasOption(signature.options, 'chord')) throw new BadSignature('A replacement must not be part of a chord.');
  if (isEmptyChain(signature)) throw new BadSignature('An empty chain replaces nothing.');
  const last = signature.kind === 'chain' ? signature.tasks.at(-1) : undefined;
  if (last !== undefined) signature.tasks.splice(-1, 1, gathered(last));
  for (const callback of workflow.callbacks) link(signature.tasks.at(-1) ?? signature, readSignature(callback));
  for (const errback of workflow.errbacks) linkError(signature, readSignature(errback));
  freeze(signature, { id }, sender);
  const nesting = { replaced_task_nesting: replacedTaskNesting + 1 };
  const place = { chord: workflow.chord, group_id: groupId, group_index: groupIndex, root_id: message.rootId };
  Object.assign(signature.options, place, nesting);
  if (signature.kind === 'chain') for (const task of signature.tasks) Object.assign(task.options, nesting);
  const rest = workflow.chain.toReversed().map(readSignature);
  for (const task of rest) Object.assign(task.options, nesting);
  if (rest.length > 0) signature = compound('chain', [signature, ...rest]);
  return { actions: actionsOf(applySignature(signature, {}, sender)), children: [] };
}

/** A group of which the results are to be had as one: what follows it gets them. */
function gathered(signature: Signature): Signature {
  if (signature.kind !== 'group') return signature;
  const accumulate = readSignature({ task: 'celery.accumulate', kwargs: { index: 0 } });
  return chordOf(signature, accumulate);
}

interface Part {
  readonly id: string;
  readonly groupId: string;
  readonly index: number | null;
  readonly root: string;
}

function partAction({ id, groupId, index, root }: Part, state: string, result: Json, chord: Json): PartAction {
  const follow: { readonly [Name in keyof ChordFollow]: Json } = { chord, taskId: id, rootId: root };
  const part = toPythonJson([1, id, state, result]);
  return { kind: 'chord', groupId, index, taskId: id, part, follow: toPythonJson(follow) };
}

function senderOf(message: TaskMessage, nowMs: number, source: FlowSource): Sender {
  return { ...source, nowMs, parent: { id: message.id, rootId: rootOf(message) } };
}

function rootOf({ id, rootId }: TaskMessage): string {
  return rootId ?? id;
}
