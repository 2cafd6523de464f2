import { type Json, parseJson, toPythonJson } from '../protocol/json.ts';
import { hasOption, type Options, type Signature, signaturesOption, writeOption } from '../protocol/signature.ts';
import { celeryTime } from '../protocol/task-message.ts';
import type { FieldError } from '../schedule/field-errors.ts';
import { parseTask, type TaskSchema } from '../schedule/task-spec.ts';
import { jsonBytes } from './json-bytes.ts';
import { SpecError } from './spec-error.ts';

/** How a task of a workflow is sent. */
export interface SignatureOptions {
  /** Default `celery`; of what a worker sends, that worker's `--default-queue`. */
  readonly queue?: string;
  /** 0 (most urgent) to 9. */
  readonly priority?: number;
  /** Not to be run before this many s after it is sent. */
  readonly countdown?: number;
  /** Not to be run before; instead of `countdown`. */
  readonly eta?: Date;
  /** s after it is sent, or a time: not to be started after. */
  readonly expires?: number | Date;
  /** s after which it is ended. */
  readonly timeLimit?: number;
  /** s after which `ctx.signal` is aborted. */
  readonly softTimeLimit?: number;
  readonly ignoreResult?: boolean;
  /** Name that logs and monitors show instead of the task's. */
  readonly shadow?: string;
  readonly headers?: Readonly<Record<string, unknown>>;
  /** Of a chain that of its last task, of a chord that of its body. */
  readonly taskId?: string;
}

/** What Celery calls them. */
const NAMES: { readonly [Name in keyof Required<SignatureOptions>]: string } = {
  queue: 'queue',
  priority: 'priority',
  countdown: 'countdown',
  eta: 'eta',
  expires: 'expires',
  timeLimit: 'time_limit',
  softTimeLimit: 'soft_time_limit',
  ignoreResult: 'ignore_result',
  shadow: 'shadow',
  headers: 'headers',
  taskId: 'task_id',
};

/** These options as signatures hold them. Throws TypeError for one that does not exist, SpecError for what is not JSON. */
export function celeryOptions(task: string, options: SignatureOptions): Options {
  const known: { readonly [name: string]: string } = NAMES;
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(
    given.map(([name, value]): [string, Json] => {
      const celeryName = known[name];
      if (celeryName === undefined)
        throw new TypeError(
          `Signature ${task} has no option ${name}. Its options are ${Object.keys(NAMES).join(', ')}.`,
        );
      return [celeryName, value instanceof Date ? timeOf(task, name, value) : json(task, value)];
    }),
  );
}

function timeOf(task: string, option: string, time: Date): string {
  if (!Number.isNaN(time.getTime())) return celeryTime(time.getTime());
  throw new SpecError(`signature "${task}"`, [{ path: option, message: 'must be a time, got an invalid Date' }]);
}

/** A value as JSON, dates as texts. Throws SpecError. */
export function json(task: string, value: unknown): Json {
  const written = jsonBytes(value);
  if ('error' in written) throw new SpecError(`signature "${task}"`, [written.error]);
  return parseJson(written.bytes.toString());
}

/** Args as JSON. Throws SpecError. */
export function jsonArgs(task: string, args: readonly unknown[]): readonly Json[] {
  return json(task, args) as readonly Json[];
}

/** Throws SpecError where a signature, or one within it, could not be sent as a task. */
export function checkSignature(signature: Signature, schema: TaskSchema): void {
  const { kind, task, options, tasks, header, body } = signature;
  const errors =
    kind === 'chord' && body === null ? [{ path: 'body', message: 'is missing' }] : errorsOf(signature, schema);
  if (errors.length > 0) throw new SpecError(`signature "${task}"`, errors);
  const followers = [...signaturesOption(options, 'link'), ...signaturesOption(options, 'link_error')];
  for (const inner of [...(header?.tasks ?? tasks), ...(body === null ? [] : [body]), ...followers])
    checkSignature(inner, schema);
}

/** The options that tasks have as well; the others are of Celery's own making. */
const CHECKED = [
  'priority',
  'expires',
  'time_limit',
  'soft_time_limit',
  'ignore_result',
  'shadow',
  'headers',
  'task_id',
];

function errorsOf({ task, args, kwargs, options }: Signature, schema: TaskSchema): readonly FieldError[] {
  const pick = (names: readonly string[]) =>
    Object.fromEntries(
      names.filter((name) => hasOption(options, name)).map((name) => [name, writeOption(options[name])]),
    );
  const request = { task, args, kwargs, ...pick(['queue', 'eta', 'countdown']), options: pick(CHECKED) };
  const result = parseTask(schema, Buffer.from(toPythonJson(request)));
  return result.ok ? [] : result.errors;
}
