import type { StandardSchema, TaskOptions } from '../client/task.ts';
import type { TaskMessage } from '../protocol/message-reader.ts';
import { InvalidArguments } from '../protocol/task-errors.ts';

type Arguments = Pick<TaskMessage, 'args' | 'kwargs'>;

/** What a task's schemas make of a message's args and kwargs. Throws InvalidArguments. */
export async function checkedArguments(
  task: string,
  { schema, kwargsSchema }: TaskOptions,
  { args, kwargs }: Arguments,
): Promise<Arguments> {
  const checkedArgs = schema === undefined ? args : await checked(schema, task, 'args', args);
  const checkedKwargs = kwargsSchema === undefined ? kwargs : await checked(kwargsSchema, task, 'kwargs', kwargs);
  if (!Array.isArray(checkedArgs))
    throw new InvalidArguments(`Task ${task} has a schema that makes no list of its args.`);
  return { args: checkedArgs, kwargs: checkedKwargs };
}

async function checked<Checked>(
  schema: StandardSchema,
  task: string,
  what: 'args' | 'kwargs',
  value: Checked,
): Promise<Checked> {
  const result = await schema['~standard'].validate(value);
  if (result.issues === undefined) return result.value as Checked;
  const reasons = result.issues.map(
    ({ message, path }) => `${[what, ...(path ?? []).map(stepOf)].join('.')}: ${message}`,
  );
  throw new InvalidArguments(`Task ${task} refuses its ${what}: ${reasons.join('; ')}`);
}

/** A step of a path is a key, or an object that holds one. */
function stepOf(step: unknown): string {
  return typeof step === 'object' && step !== null && 'key' in step ? String(step.key) : String(step);
}
