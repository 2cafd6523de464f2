import { type Action, actionsOf } from '../lua/actions.ts';
import type { FlowSource } from '../lua/flow-source.ts';
import { chordPart, rootOf } from '../lua/task-failure.ts';
import { applySignature, joinApplied, type Sender } from '../protocol/canvas-apply.ts';
import { freeze } from '../protocol/canvas-freeze.ts';
import type { Json } from '../protocol/json.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { type ExceptionRecord, exceptionValue } from '../protocol/result.ts';
import {
  BadSignature,
  chordOf,
  compound,
  hasOption,
  isEmptyChain,
  link,
  linkError,
  readSignature,
  type Signature,
} from '../protocol/signature.ts';
import type { SignatureToSend } from './outcome.ts';

/** What follows a task that has ended; it happens in the step that stores its result. */
export interface Follow {
  readonly actions: readonly Action[];
  /** Tuple forms of what was sent. */
  readonly children: readonly Json[];
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

/** What follows a task that was revoked: its part of a chord. */
export function followRevoked(message: TaskMessage, exception: ExceptionRecord): Follow {
  return { actions: chordPart(message, 'REVOKED', exceptionValue(exception)), children: [] };
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

function senderOf(message: TaskMessage, nowMs: number, source: FlowSource): Sender {
  return { ...source, nowMs, parent: { id: message.id, rootId: rootOf(message) } };
}
