import { applySignature, type Sender } from '../protocol/canvas-apply.ts';
import { type Json, toPythonJson } from '../protocol/json.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { type ExceptionRecord, exceptionValue, failureRecord } from '../protocol/result.ts';
import {
  BadSignature,
  compound,
  hasOption,
  type Options,
  type OptionValue,
  readSignature,
  textOption,
  writeOption,
} from '../protocol/signature.ts';
import { type Action, actionsOf, type PartAction } from './actions.ts';
import type { FlowSource } from './flow-source.ts';

/**
 * What follows a task that failed (celery/backends/base.py, mark_as_failure): its part of a chord, the failure of all that
 * would have followed it in its chain, its errbacks. With `isStored` false no results are stored. A chain or errbacks that are
 * none are passed over: there is nobody whom their failure could be told.
 */
export function followFailure(
  message: TaskMessage,
  { exception, traceback }: { readonly exception: ExceptionRecord; readonly traceback: string | null },
  { nowMs, isStored }: { readonly nowMs: number; readonly isStored: boolean },
  source: FlowSource,
): Action[] {
  const { chain, errbacks } = message.workflow;
  const failure = { exception, traceback, nowMs, isStored, root: rootOf(message) };
  return [
    ...chordPart(message, 'FAILURE', exceptionValue(exception)),
    ...unlessBad(() => failedChain(chain, failure)),
    ...unlessBad(() => errbackActions(errbacks, message.id, rootOf(message), nowMs, source)),
  ];
}

function unlessBad(actions: () => Action[]): Action[] {
  try {
    return actions();
  } catch (error) {
    if (error instanceof BadSignature) return [];
    throw error;
  }
}

/** What happens when the message of a task is given up, because too many processes died of it. */
export function givenUp(
  message: TaskMessage,
  exception: ExceptionRecord,
  moment: { readonly nowMs: number; readonly isStored: boolean },
  source: FlowSource,
): Action[] {
  const follow = followFailure(message, { exception, traceback: null }, moment, source);
  if (!moment.isStored) return follow;
  const record = failureRecord(message, exception, null, moment.nowMs);
  return [{ kind: 'record', taskId: message.id, record }, ...follow];
}

/** What a chord's body needs, beside the parts: kept from its last part on until it is sent. */
export interface ChordFollow {
  /** The body. */
  readonly chord: Json;
  /** The member of the header that ended last, and the first task of its workflow. */
  readonly taskId: string;
  readonly rootId: string;
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

/** A task's part of the chord whose header it is in. */
export function chordPart(message: TaskMessage, state: string, result: Json): Action[] {
  const { id, groupId, groupIndex, workflow } = message;
  if (workflow.chord === null || groupId === null) return [];
  return [partAction({ id, groupId, index: groupIndex, root: rootOf(message) }, state, result, workflow.chord)];
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

/** The first task of its workflow. */
export function rootOf({ id, rootId }: TaskMessage): string {
  return rootId ?? id;
}
