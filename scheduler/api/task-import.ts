import { setImmediate as nextTurn } from 'node:timers/promises';
import { z } from 'zod';
import type { Sent, TaskOfRequest, Tasks } from '../../registry/tasks.ts';
import type { FieldError } from '../../schedule/field-errors.ts';
import { MAX_SPEC_BYTES } from '../../schedule/spec.ts';
import { parseTask, type TaskSchema } from '../../schedule/task-spec.ts';
import { type Answer, ok } from './answer.ts';
import { type Line, LineSplitter } from './line-splitter.ts';
import type { Named } from './route.ts';

/** Lines handed over at once: about 2 ms of this process, so that dispatching goes on in between. */
const BATCH = 250;
const BATCH_BYTES = 1_048_576;

const MAX_ERRORS = 100;

const CARRIAGE_RETURN = 0x0d;

export const sendSummary: Named = {
  name: 'SendSummary',
  schema: z.strictObject({
    accepted: z.int(),
    failed: z.int(),
    errors: z
      .array(z.strictObject({ line: z.int(), id: z.string().nullable(), message: z.string() }))
      .max(MAX_ERRORS)
      .describe('Of the first lines that failed; lines count from 1.'),
  }),
};

export interface SendContext {
  readonly tasks: Tasks;
  readonly schema: TaskSchema;
  /** What this request did is not done again. */
  readonly requestId: string;
}

/**
 * Sends tasks from lines of JSON as they arrive, in bounded memory and in their order. A bad line never stops the good
 * ones. When the body breaks off, its complete lines are sent and the error is thrown on.
 */
export async function sendLines(context: SendContext, chunks: AsyncIterable<Buffer>): Promise<Answer> {
  const intake = new Intake(context);
  const splitter = new LineSplitter(MAX_SPEC_BYTES + 1);
  try {
    for await (const chunk of chunks) {
      for (const line of splitter.split(chunk)) {
        intake.take(line);
        if (intake.isFull()) await intake.send();
      }
    }
    const last = splitter.rest();
    if (last !== null) intake.take(last);
  } finally {
    await intake.send();
  }
  return ok(intake.summary());
}

/** Tasks on their way from lines to their queues. */
class Intake {
  readonly #context: SendContext;
  readonly #counts = { accepted: 0, failed: 0 };
  readonly #errors: { readonly line: number; readonly id: string | null; readonly message: string }[] = [];
  #batch: TaskOfRequest[] = [];
  #batchBytes = 0;

  constructor(context: SendContext) {
    this.#context = context;
  }

  take({ number, bytes }: Line): void {
    if (bytes === null) {
      this.#fail(number, null, `The line is longer than ${MAX_SPEC_BYTES} bytes`);
      return;
    }
    const line = bytes.at(-1) === CARRIAGE_RETURN ? bytes.subarray(0, -1) : bytes;
    if (line.every((byte) => byte === 0x20 || byte === 0x09 || byte === CARRIAGE_RETURN)) return;
    const result = parseTask(this.#context.schema, line);
    if (!result.ok) {
      this.#fail(number, result.id, describeErrors(result.errors));
      return;
    }
    this.#batch.push({ task: result.task, position: number - 1 });
    this.#batchBytes += line.length;
  }

  isFull(): boolean {
    return this.#batch.length >= BATCH || this.#batchBytes >= BATCH_BYTES;
  }

  async send(): Promise<void> {
    const { tasks, requestId } = this.#context;
    const batch = this.#batch;
    this.#batch = [];
    this.#batchBytes = 0;
    const sent = await tasks.send(batch, requestId);
    sent.forEach(({ taskId, outcome }, i) => {
      if (outcome === 'taken') this.#counts.accepted += 1;
      else this.#fail(batch[i]!.position + 1, taskId, whyNotSent(outcome, batch[i]!.task.queue));
    });
    await nextTurn();
  }

  summary() {
    return { ...this.#counts, errors: this.#errors };
  }

  #fail(line: number, id: string | null, message: string): void {
    this.#counts.failed += 1;
    if (this.#errors.length < MAX_ERRORS) this.#errors.push({ line, id, message });
  }
}

function describeErrors(errors: readonly FieldError[]): string {
  return errors.map(({ path, message }) => (path === '' ? `The task ${message}` : `${path} ${message}`)).join('; ');
}

/** Why a task was not taken. */
export function whyNotSent(outcome: Exclude<Sent['outcome'], 'taken'>, queue: string): string {
  return outcome === 'full'
    ? `The queue "${queue}" is at the namespace's queue cap. Send the task again when workers have caught up.`
    : `The queue "${queue}" is a key of another type in Redis. Name another queue, or remove that key.`;
}
