import type { Action } from '../lua/actions.ts';
import type { FlowSource } from '../lua/flow-source.ts';
import { type ChordFollow, errbackActions, failedChain, failedTask, type TaskFailure } from '../lua/task-failure.ts';
import { freeze } from '../protocol/canvas-freeze.ts';
import { type Json, parseJson } from '../protocol/json.ts';
import { exceptionRepr } from '../protocol/repr.ts';
import type { ExceptionRecord } from '../protocol/result.ts';
import {
  isJsonObject as isObject,
  listOption,
  type Options,
  readSignature,
  type Signature,
  textOption,
} from '../protocol/signature.ts';

/** How one member of a chord's header ended. */
export interface Member {
  readonly id: string;
  readonly state: string;
  /** What it returned, or the exception that it ended with. */
  readonly result: Json;
}

/** Why the body of a chord cannot run. */
export interface ChordFailure {
  /** What is stored for the body. */
  readonly exception: ExceptionRecord;
  /** What the member ended with that failed; as `exception`, where none did. */
  readonly cause: ExceptionRecord;
}

type Results = { readonly results: Json } | { readonly failure: ChordFailure };

const FAILED: ReadonlySet<string> = new Set(['FAILURE', 'REVOKED']);
const ENDED: ReadonlySet<string> = new Set(['SUCCESS', ...FAILED]);

export function chordError(message: string, cause?: ExceptionRecord): ChordFailure {
  const exception = { type: 'ChordError', module: 'celery.exceptions', args: [message] };
  return { exception, cause: cause ?? exception };
}

export function readChordFollow(text: string): ChordFollow {
  const follow = parseJson(text);
  if (!isObject(follow)) throw new Error(`A chord is followed by ${text.slice(0, 100)}.`);
  const { chord = null, taskId, rootId } = follow;
  return { chord, taskId: String(taskId), rootId: String(rootId) };
}

/** A part of a chord, as Celery and we store it: `[1, task id, state, result]`. */
export function readMember(text: string): Member {
  const part = parseJson(text);
  const [, id, state, result = null]: readonly Json[] = Array.isArray(part) ? part : [];
  return { id: String(id), state: String(state), result };
}

/** The result record of a member; null where it has not ended. */
export function readMemberRecord(id: string, record: string | null): Member | null {
  const value = record === null ? null : parseJson(record);
  if (!isObject(value) || typeof value.status !== 'string' || !ENDED.has(value.status)) return null;
  return { id, state: value.status, result: value.result ?? null };
}

/** What the members returned, in order; or the failure of the first that failed. */
export function resultsOf(members: readonly Member[]): Results {
  const failed = members.find(({ state }) => FAILED.has(state));
  if (failed === undefined) return { results: members.map(({ result }) => result) };
  const cause = readException(failed.result);
  return { failure: chordError(`Dependency ${failed.id} raised ${exceptionRepr(cause)}`, cause) };
}

/** The header of a chord in which groups are members: its results are lists in a list. */
export class GroupTree {
  readonly #group: Json;
  readonly #known: Map<string, Member>;

  /** `saved` is what GroupResult.save() stored. */
  constructor(saved: Json, members: readonly Member[]) {
    this.#group = isObject(saved) ? (saved.result ?? null) : null;
    this.#known = new Map(members.map((member) => [member.id, member]));
  }

  add(member: Member): void {
    this.#known.set(member.id, member);
  }

  /** Ids of members of which nothing is known. */
  missing(): string[] {
    return leavesOf(this.#group).filter((id) => !this.#known.has(id));
  }

  /** Only when nothing is missing. */
  results(): Results {
    const failed = leavesOf(this.#group)
      .map((id) => this.#known.get(id))
      .find((member) => member !== undefined && FAILED.has(member.state));
    if (failed === undefined) return { results: this.#value(this.#group) };
    const cause = readException(failed.result);
    return { failure: chordError(`Join error: ${exceptionRepr(cause)}`, cause) };
  }

  #value(node: Json): Json {
    const { id, members } = readTuple(node);
    return members === null ? (this.#known.get(id)?.result ?? null) : members.map((member) => this.#value(member));
  }
}

function leavesOf(node: Json): string[] {
  const { id, members } = readTuple(node);
  return members === null ? [id] : members.flatMap(leavesOf);
}

/** Celery's tuple form of a result: `[[id, parent], null or its members]`. */
function readTuple(node: Json): { readonly id: string; readonly members: readonly Json[] | null } {
  const [own, members = null]: readonly Json[] = Array.isArray(node) ? node : [];
  const id = Array.isArray(own) ? own[0] : own;
  return { id: String(id), members: Array.isArray(members) ? members : null };
}

function readException(value: Json): ExceptionRecord {
  const { exc_type: type, exc_module: module, exc_message: message = [] } = isObject(value) ? value : {};
  return {
    type: typeof type === 'string' ? type : 'Exception',
    module: typeof module === 'string' ? module : 'builtins',
    args: Array.isArray(message) ? message : [message],
  };
}

/**
 * What happens when the body of a chord cannot run (celery/backends/base.py, chord_error_from_stack): it fails without
 * having run, and with it what would have followed it; its errbacks are told.
 */
export function chordFailure(
  { chord, rootId }: ChordFollow,
  { exception, cause }: ChordFailure,
  nowMs: number,
  source: FlowSource,
): Action[] {
  const body = readSignature(chord);
  const failure = { exception, traceback: null, nowMs, isStored: true, root: rootId };
  const rest = failedChain(listOption(body.options, 'chain'), failure);
  if (body.kind === 'group') return [...groupFailure(body, { ...failure, exception: cause }, source), ...rest];
  const tasks = tasksOf(body);
  const id = textOption(body.options, 'task_id') ?? tasks.at(-1)?.id ?? source.newId();
  const failed = tasks.some((task) => task.id === id) ? tasks : [...tasks, { id, options: body.options }];
  return [
    ...failed.flatMap((task) => failedTask(task.id, task.options, failure)),
    ...errbackActions(errbacksOf(body), id, id, nowMs, source),
    ...rest,
  ];
}

/** Every member of a group that was to be the body fails with what the header's member failed with. */
function groupFailure(group: Signature, failure: TaskFailure, source: FlowSource): Action[] {
  const common = listOption(group.options, 'link_error');
  const result = freeze(group, {}, source);
  const members = group.tasks.flatMap((member): Action[] => {
    const tasks = tasksOf(member);
    const id = tasks.at(-1)?.id ?? source.newId();
    return [
      ...tasks.flatMap((task) => failedTask(task.id, task.options, failure)),
      ...errbackActions([...errbacksOf(member), ...common], id, id, failure.nowMs, source),
    ];
  });
  return [...members, ...failedTask(result.id, {}, failure)];
}

/** The tasks of a body that have ids, in running order. */
function tasksOf(body: Signature): { readonly id: string; readonly options: Options }[] {
  if (body.kind === 'chord') return body.body === null ? [] : tasksOf(body.body);
  if (body.kind !== 'task') return body.tasks.flatMap(tasksOf);
  const id = textOption(body.options, 'task_id');
  return id === null ? [] : [{ id, options: body.options }];
}

/** Errbacks of what a signature ends with. */
function errbacksOf(signature: Signature): ReturnType<typeof listOption> {
  const own = listOption(signature.options, 'link_error');
  return signature.kind === 'chord' && signature.body !== null ? [...own, ...errbacksOf(signature.body)] : own;
}
