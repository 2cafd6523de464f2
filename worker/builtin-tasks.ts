import { senderFor } from '../client/default-client.ts';
import { type RegisteredTask, type TaskContext, tasks } from '../client/task.ts';
import { newIds } from '../lua/flow-source.ts';
import { freeze, resultTuple } from '../protocol/canvas-freeze.ts';
import type { Json } from '../protocol/json.ts';
import type { Value } from '../protocol/message-reader.ts';
import { jsonValue } from '../protocol/result.ts';
import {
  chordOf,
  clone,
  compound,
  isJsonObject,
  readSignature,
  Signature,
  textOption,
  writeOption,
  writeSignature,
} from '../protocol/signature.ts';

/** Names and behaviour of Celery's own tasks (celery/app/builtins.py), by which its canvas relies on every worker. */
const BUILTIN: Readonly<Record<string, RegisteredTask['run']>> = {
  /** Redis forgets results by itself. */
  'celery.backend_cleanup': () => null,
  'celery.accumulate': ({ kwargs: { index } }, args) => (typeof index === 'number' ? args.at(index) : args),
  'celery.map': (ctx, args) => mapped(ctx, args, (item) => [item]),
  'celery.starmap': (ctx, args) => mapped(ctx, args, (item) => (Array.isArray(item) ? item : [item])),
  'celery.chunks': chunks,
  'celery.group': group,
  'celery.chord': chord,
  'celery.chord_unlock': chordUnlock,
  'celery.chain': () => {
    throw Object.assign(new Error('chain is not a real task'), { name: 'NotImplementedError' });
  },
};

/** Defines them in this process, save those that it has defined itself. */
export function defineBuiltinTasks(): void {
  for (const [name, run] of Object.entries(BUILTIN)) if (!tasks.has(name)) tasks.set(name, { name, options: {}, run });
}

/** The value of a parameter, given by position or by name. */
function parameter(ctx: TaskContext, args: readonly Value[], at: number, name: string): Value {
  return args[at] ?? ctx.kwargs[name] ?? null;
}

/** Runs a task here, for one item after the other. */
async function mapped(
  ctx: TaskContext,
  args: readonly Value[],
  argsOf: (item: Value) => readonly Value[],
): Promise<unknown[]> {
  const { task: name } = readSignature(jsonValue(parameter(ctx, args, 0, 'task')));
  const items = listOf(parameter(ctx, args, 1, 'it'), 'it');
  const task = tasks.get(name);
  if (task === undefined) throw Object.assign(new Error(name), { name: 'NotRegistered' });
  const results: unknown[] = [];
  for (const item of items) results.push(await task.run(ctx, argsOf(item)));
  return results;
}

/** A group of starmaps, `n` items each. */
function chunks(ctx: TaskContext, args: readonly Value[]): Json {
  const task = jsonValue(parameter(ctx, args, 0, 'task'));
  const items = listOf(parameter(ctx, args, 1, 'it'), 'it').map((item) => jsonValue(item));
  const size = Number(parameter(ctx, args, 2, 'n'));
  if (!Number.isInteger(size) || size < 1) throw new RangeError(`Chunks have 1 item or more, got ${size}.`);
  const parts: Signature[] = [];
  for (let from = 0; from < items.length; from += size) {
    const kwargs = { task, it: items.slice(from, from + size) };
    parts.push(new Signature('task', { task: 'celery.starmap', kwargs, isImmutable: true }));
  }
  return send(ctx, compound('group', parts));
}

function group(ctx: TaskContext, args: readonly Value[]): Json {
  const members = listOf(parameter(ctx, args, 0, 'tasks'), 'tasks').map((member) => readSignature(jsonValue(member)));
  const groupId = parameter(ctx, args, 2, 'group_id');
  const partial = listOf(parameter(ctx, args, 3, 'partial_args') ?? [], 'partial_args').map((arg) => jsonValue(arg));
  const options = typeof groupId === 'string' ? { task_id: groupId } : {};
  return send(
    ctx,
    compound(
      'group',
      members.map((member) => clone(member, { args: partial })),
      options,
    ),
  );
}

function chord(ctx: TaskContext, args: readonly Value[]): Json {
  const header = jsonValue(parameter(ctx, args, 0, 'header'));
  const body = readSignature(jsonValue(parameter(ctx, args, 1, 'body')));
  const partial = listOf(parameter(ctx, args, 2, 'partial_args') ?? [], 'partial_args').map((arg) => jsonValue(arg));
  const members = isJsonObject(header)
    ? readSignature(header).tasks
    : listOf(header as Value, 'header').map((member) => readSignature(jsonValue(member)));
  return send(
    ctx,
    chordOf(
      members.map((member) => clone(member, { args: partial })),
      body,
    ),
  );
}

/** As Celery's result_chord_retry_interval, s. */
const UNLOCK_INTERVAL_SEC = 1;

/**
 * Sends the body of a chord whose parts nobody counts, once all members of its header have ended: for fleets that keep results
 * elsewhere than in Redis, or did so when they sent it.
 */
async function chordUnlock(ctx: TaskContext, args: readonly Value[]): Promise<null> {
  const body = parameter(ctx, args, 1, 'callback');
  const interval = parameter(ctx, args, 2, 'interval');
  const most = parameter(ctx, args, 3, 'max_retries');
  const ids = leavesOf(jsonValue(parameter(ctx, args, 4, 'result')));
  const sender = senderFor(ctx.task);
  const results = await Promise.all(ids.map((id) => sender.result<Value>(id)));
  const failed = results.find(({ state }) => state === 'FAILURE' || state === 'REVOKED');
  if (failed !== undefined) return failBody(ctx, jsonValue(body), failed.taskId);
  if (results.some(({ state }) => state !== 'SUCCESS'))
    return ctx.retry({
      countdown: typeof interval === 'number' ? interval : UNLOCK_INTERVAL_SEC,
      maxRetries: typeof most === 'number' ? most : null,
    });
  await sender.apply(jsonValue(body) as { readonly [field: string]: Json }, [results.map(({ result }) => result)]);
  return null;
}

/** Fails in a message in which the body follows: what follows a task fails with it. */
function failBody(ctx: TaskContext, body: Json, failedId: string): never {
  const { task, args, kwargs } = ctx;
  if (Number(ctx.headers.replaced_task_nesting ?? 0) > 0)
    throw Object.assign(new Error(`Dependency ${failedId} failed`), { name: 'ChordError' });
  const errbacks = readSignature(body).options.link_error;
  const options = { chain: [body], link_error: writeOption(errbacks) };
  return ctx.replace({ task, args: jsonValue(args), kwargs: jsonValue(kwargs), options });
}

/** Ids of the tasks in tuple forms of results, those of groups within it among them. */
function leavesOf(tuples: Json): string[] {
  if (!Array.isArray(tuples)) return [];
  return tuples.flatMap((tuple): string[] => {
    const [own, members = null]: readonly Json[] = Array.isArray(tuple) ? tuple : [tuple];
    if (members !== null) return leavesOf(members);
    return [String(Array.isArray(own) ? own[0] : own)];
  });
}

/** Sends it with the task's result, which is the tuple form of what it will come to. */
function send(ctx: TaskContext, signature: Signature): Json {
  const result = freeze(signature, { id: textOption(signature.options, 'task_id') }, newIds);
  ctx.sendOnSuccess(writeSignature(signature) as { readonly [field: string]: Json });
  return resultTuple(result);
}

function listOf(value: Value, name: string): readonly Value[] {
  if (Array.isArray(value)) return value;
  throw Object.assign(new Error(`${name} is no list`), { name: 'TypeError' });
}
