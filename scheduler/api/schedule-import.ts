import { setImmediate as nextTurn } from 'node:timers/promises';
import { z } from 'zod';
import { decodeCarry } from '../../registry/carry.ts';
import type { PutSpec } from '../../registry/registry.ts';
import { isObject } from '../../schedule/fields.ts';
import {
  checkSpec,
  decodeUtf8,
  describeErrors,
  MAX_SPEC_BYTES,
  parseJsonText,
  parseSpec,
  type SpecSchema,
} from '../../schedule/spec.ts';
import { type Answer, ok } from './answer.ts';
import { type Line, LineSplitter } from './line-splitter.ts';
import type { Named } from './route.ts';
import type { ScheduleContext } from './schedules.ts';

export const NDJSON = 'application/x-ndjson';

/** Lines handed over at once: about 2 ms of this process, so that dispatching goes on in between. */
const BATCH = 250;
const BATCH_BYTES = 1_048_576;

/** What an export adds to a spec, which may be of the largest size: `carry`, and defaults that were left out. */
const EXPORT_BYTES = 4_096;

/** Batches under way: one for Redis to work on while the next is being read, and one to spare. */
const MAX_IN_FLIGHT = 3;

const MAX_ERRORS = 100;

const CARRIAGE_RETURN = 0x0d;

export const importSummary: Named = {
  name: 'ImportSummary',
  schema: z.strictObject({
    created: z.int(),
    updated: z.int(),
    unchanged: z.int(),
    failed: z.int(),
    errors: z
      .array(z.strictObject({ line: z.int(), id: z.string().nullable(), message: z.string() }))
      .max(MAX_ERRORS)
      .describe('Of the first lines that failed; lines count from 1.'),
  }),
};

/**
 * Creates and updates schedules from lines of JSON as they arrive, in bounded memory. A bad line never stops the good
 * ones. When the body breaks off, its complete lines are stored and the error is thrown on.
 */
export async function importSchedules(context: ScheduleContext, chunks: AsyncIterable<Buffer>): Promise<Answer> {
  const intake = new Intake(context);
  const splitter = new LineSplitter(MAX_SPEC_BYTES + EXPORT_BYTES);
  try {
    for await (const chunk of chunks) {
      for (const line of splitter.split(chunk)) {
        intake.take(line);
        if (intake.isFull()) await intake.send();
      }
      intake.sendIfIdle();
    }
    const last = splitter.rest();
    if (last !== null) intake.take(last);
  } finally {
    await intake.finish();
  }
  return ok(intake.summary());
}

interface InFlight {
  readonly ids: ReadonlySet<string>;
  readonly done: Promise<void>;
}

/** Specs on their way from lines to the registry. */
class Intake {
  readonly #context: ScheduleContext;
  readonly #counts = { created: 0, updated: 0, unchanged: 0, failed: 0 };
  readonly #errors: { readonly line: number; readonly id: string | null; readonly message: string }[] = [];
  /** Batches under way, and the ones that failed. */
  #inFlight: readonly InFlight[] = [];
  #batch: PutSpec[] = [];
  #batchBytes = 0;
  /** Whether a batch that was taken already waits for its turn: none may overtake it. */
  #isWaiting = false;

  constructor(context: ScheduleContext) {
    this.#context = context;
  }

  take({ number, bytes }: Line): void {
    if (bytes === null) {
      this.#fail(number, null, TOO_LONG);
      return;
    }
    const line = bytes.at(-1) === CARRIAGE_RETURN ? bytes.subarray(0, -1) : bytes;
    if (isBlank(line)) return;
    const result = parseLine(this.#context.spec, line);
    if ('spec' in result) {
      this.#batch.push(result.spec);
      this.#batchBytes += line.length;
    } else {
      this.#fail(number, result.id, result.message);
    }
  }

  isFull(): boolean {
    return this.#batch.length >= BATCH || this.#batchBytes >= BATCH_BYTES;
  }

  /** Hands the batch over, waiting while too many are under way. Throws what an earlier one failed with. */
  async send(): Promise<void> {
    const specs = this.#takeBatch();
    // The later line wins: an id that is still under way must have arrived first.
    const mustWait = this.#inFlight.some((earlier) => specs.some(({ id }) => earlier.ids.has(id)));
    this.#isWaiting = true;
    while (this.#inFlight.length > (mustWait ? 0 : MAX_IN_FLIGHT - 1)) await this.#inFlight[0]!.done;
    this.#isWaiting = false;
    this.#start(specs);
    await nextTurn();
  }

  /** Spares the lines of a slow sender the wait for a batch to fill. */
  sendIfIdle(): void {
    if (this.#batch.length > 0 && this.#inFlight.length === 0 && !this.#isWaiting) this.#start(this.#takeBatch());
  }

  /** Stores what is left. Throws what any batch failed with. */
  async finish(): Promise<void> {
    if (this.#batch.length > 0) await this.send();
    await Promise.all(this.#inFlight.map(({ done }) => done));
  }

  summary() {
    return { ...this.#counts, errors: this.#errors };
  }

  #takeBatch(): readonly PutSpec[] {
    const specs = this.#batch;
    this.#batch = [];
    this.#batchBytes = 0;
    return specs;
  }

  #start(specs: readonly PutSpec[]): void {
    const flight = { ids: new Set(specs.map(({ id }) => id)), done: this.#put(specs) };
    this.#inFlight = [...this.#inFlight, flight];
    flight.done.then(
      () => {
        this.#inFlight = this.#inFlight.filter((other) => other !== flight);
        this.sendIfIdle();
      },
      // Stays in flight, for whoever waits for it next to be told.
      () => {},
    );
  }

  async #put(specs: readonly PutSpec[]): Promise<void> {
    for (const outcome of await this.#context.registry.put(specs)) {
      if (outcome !== 'refused') this.#counts[outcome] += 1;
    }
  }

  #fail(line: number, id: string | null, message: string): void {
    this.#counts.failed += 1;
    if (this.#errors.length < MAX_ERRORS) this.#errors.push({ line, id, message });
  }
}

const TOO_LONG = `The line is longer than ${MAX_SPEC_BYTES} bytes`;

type ParsedLine = { readonly spec: PutSpec } | { readonly id: string | null; readonly message: string };

function parseLine(schema: SpecSchema, line: Buffer): ParsedLine {
  if (line.includes('"carry"')) return parseExported(schema, line) ?? parsePlain(schema, line);
  return parsePlain(schema, line);
}

function parsePlain(schema: SpecSchema, line: Buffer): ParsedLine {
  if (line.length > MAX_SPEC_BYTES) return { id: null, message: TOO_LONG };
  const result = parseSpec(schema, line);
  return result.ok ? result : { id: result.id, message: describeErrors(result.errors) };
}

/** A line of an export; null where it is none: only within the spec is there something called `carry`. */
function parseExported(schema: SpecSchema, line: Buffer): ParsedLine | null {
  const text = decodeUtf8(line);
  const parsed = text === null ? null : parseJsonText(text);
  if (parsed === null || 'message' in parsed || !isObject(parsed.value) || !Object.hasOwn(parsed.value, 'carry'))
    return null;
  const { carry = null, ...rest } = parsed.value;
  const result = checkSpec(schema, rest);
  if (!result.ok) return { id: result.id, message: describeErrors(result.errors) };
  const { spec } = result;
  if (carry === null) return { spec };
  const decoded = decodeCarry(spec, carry);
  if ('errors' in decoded) return { id: spec.id, message: describeErrors(decoded.errors) };
  return { spec: { ...spec, carried: decoded.carried } };
}

function isBlank(line: Buffer): boolean {
  return line.every((byte) => byte === 0x20 || byte === 0x09 || byte === CARRIAGE_RETURN);
}
