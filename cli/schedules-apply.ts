import { isDeepStrictEqual } from 'node:util';
import { Command } from 'commander';
import { RingbeatError } from '../protocol/errors.ts';
import { type Json, toJson } from '../protocol/json.ts';
import { addOptions, flag, optionValues, text } from '../runtime/options.ts';
import { isObject } from '../schedule/fields.ts';
import {
  checkSpec,
  createSpecSchema,
  decodeUtf8,
  describeErrors,
  isTooLarge,
  MAX_SPEC_BYTES,
  parseJsonText,
  type ScheduleSpec,
  type SpecResult,
} from '../schedule/spec.ts';
import { API_OPTIONS, type ApiClient, apiClient, isRefusal, member, schedulePath } from './api-client.ts';
import { complain, print } from './output.ts';
import { readChunks, reportFailures } from './transfer.ts';

const APPLY_OPTIONS = {
  ...API_OPTIONS,
  tag: text<string | null>({
    placeholder: 'TAG',
    default: null,
    doc: 'the file is about the schedules with this tag; each of its schedules must have it',
  }),
  prefix: text<string | null>({
    placeholder: 'TEXT',
    default: null,
    doc: 'the file is about the schedules whose id begins so ("": about all); each of its schedules must be one',
  }),
  prune: flag({ doc: 'remove what has the tag or prefix and is not in the file' }),
  dryRun: flag({ doc: 'say what would be changed, and change nothing' }),
};

/** Requests at a time. */
const AT_ONCE = 16;

const PAGE = 500;

export function applyCommand(): Command {
  const command = new Command('apply')
    .description('make the schedules those of a file: create and update what differs, and with --prune remove the rest')
    .argument('<FILE>', 'a JSON array of specs, or one spec a line; - is standard input');
  return addOptions(command, APPLY_OPTIONS).action(async (file: string) => {
    const { tag, prefix, prune, dryRun } = optionValues(command, APPLY_OPTIONS);
    const scope: Scope = { tag, prefix };
    if (tag !== null && prefix !== null) command.error('error: give --tag or --prefix, not both');
    if (prune && tag === null && prefix === null) command.error('error: --prune needs --tag or --prefix');
    const specs = checkAll(file, await readSpecs(file), scope);
    if (specs === null) {
      complain('nothing was changed');
      process.exitCode = 1;
      return;
    }
    const api = apiClient(command);
    const plan = await planOf(api, specs, scope, prune);
    const isDone = dryRun || (await carryOut(api, file, plan));
    if (!isDone) process.exitCode = 1;
    else await print(reportOf(plan, dryRun));
  });
}

interface Scope {
  readonly tag: string | null;
  readonly prefix: string | null;
}

interface Plan {
  readonly created: readonly ScheduleSpec[];
  readonly updated: readonly ScheduleSpec[];
  readonly unchanged: number;
  /** Ids. */
  readonly removed: readonly string[];
}

/** The JSON values in the file. Throws BAD_FILE. */
async function readSpecs(file: string): Promise<readonly Json[]> {
  const chunks: Buffer[] = [];
  for await (const chunk of readChunks(file)) chunks.push(chunk);
  const content = decodeUtf8(Buffer.concat(chunks));
  if (content === null) throw new RingbeatError('BAD_FILE', { file, reason: 'it is not valid UTF-8' });
  const whole = parseJsonText(content);
  if ('value' in whole) return Array.isArray(whole.value) ? whole.value : [whole.value];
  if (content.trimStart().startsWith('[')) throw new RingbeatError('BAD_FILE', { file, reason: `it ${whole.message}` });
  return content.split('\n').flatMap((line, at) => {
    if (line.trim() === '') return [];
    const parsed = parseJsonText(line);
    if ('value' in parsed) return [parsed.value];
    throw new RingbeatError('BAD_FILE', { file, reason: `line ${at + 1} ${parsed.message}` });
  });
}

/** The specs with every default filled in; null when there is something wrong with any, which is said. */
function checkAll(file: string, values: readonly Json[], scope: Scope): readonly ScheduleSpec[] | null {
  // No queue begins so: which keys are the namespace's own, the API knows.
  const schema = createSpecSchema('\0');
  const specs = new Map<string, ScheduleSpec>();
  for (const [at, value] of values.entries()) {
    const spec = withoutCarry(value);
    const result = isTooLarge(spec) ? TOO_LARGE : checkSpec(schema, spec);
    const id = result.ok ? result.spec.id : result.id;
    const reason = result.ok ? outOfPlace(result.spec, scope, specs) : describeErrors(result.errors);
    if (reason !== null) complain(`${file}: schedule ${at + 1}${id === null ? '' : ` (${id})`}: ${reason}`);
    else if (result.ok) specs.set(result.spec.id, result.spec);
  }
  return specs.size === values.length ? [...specs.values()] : null;
}

const TOO_LARGE: SpecResult = {
  ok: false,
  id: null,
  errors: [{ path: '', message: `is larger than ${MAX_SPEC_BYTES} bytes` }],
};

/** Why a spec that is right in itself cannot be in this file; null when it can. */
function outOfPlace(
  { id, tags }: ScheduleSpec,
  { tag, prefix }: Scope,
  others: ReadonlyMap<string, ScheduleSpec>,
): string | null {
  if (others.has(id)) return 'it is in the file twice';
  if (tag !== null && !tags.includes(tag)) return `it does not have the tag ${tag}`;
  if (prefix !== null && !id.startsWith(prefix)) return `its id does not begin with ${prefix}`;
  return null;
}

/** An export also tells how far each schedule has come, which is nothing to be made true. */
function withoutCarry(value: Json): Json {
  if (!isObject(value)) return value;
  const { carry: _, ...spec } = value;
  return spec;
}

async function planOf(api: ApiClient, specs: readonly ScheduleSpec[], scope: Scope, prune: boolean): Promise<Plan> {
  const wanted = new Map(specs.map((spec) => [spec.id, spec]));
  /** By id of what is wanted and there already: whether it is what the spec says. */
  const same = new Map<string, boolean>();
  const others: string[] = [];
  const see = (id: string, schedule: Json) => {
    const spec = wanted.get(id);
    if (spec === undefined) others.push(id);
    else same.set(id, says(schedule, spec));
  };
  if (scope.tag !== null || scope.prefix !== null) {
    // An empty prefix is that of all.
    const query = { tag: scope.tag, prefix: scope.prefix || null, limit: PAGE };
    for await (const page of api.pages('/v1/schedules', 'schedules', query))
      for (const schedule of page) see(String(member(schedule, 'id')), schedule);
  }
  // With a prefix everything that the file may name has been seen.
  const unseen = scope.prefix === null ? specs.filter(({ id }) => !same.has(id)) : [];
  await severalAtOnce(unseen, async ({ id }) => {
    const schedule = await getSchedule(api, id);
    if (schedule !== null) see(id, schedule);
  });
  return {
    created: specs.filter(({ id }) => !same.has(id)),
    updated: specs.filter(({ id }) => same.get(id) === false),
    unchanged: [...same.values()].filter((isSame) => isSame).length,
    removed: prune ? [...new Set(others)] : [],
  };
}

/** Whether a stored schedule is what the spec says. */
function says(stored: Json, spec: ScheduleSpec): boolean {
  return Object.entries(spec).every(([name, value]) => isDeepStrictEqual(member(stored, name), value));
}

/** Whether all went well; what did not is said, and then nothing is removed. */
async function carryOut(api: ApiClient, file: string, { created, updated, removed }: Plan): Promise<boolean> {
  const changed = [...created, ...updated];
  if (changed.length > 0) {
    async function* lines(): AsyncGenerator<Buffer, void> {
      for (const spec of changed) yield Buffer.from(`${toJson(spec)}\n`);
    }
    if (reportFailures(file, await api.upload('/v1/schedules', lines()))) return false;
  }
  await severalAtOnce(removed, async (id) => {
    await api.send('DELETE', schedulePath(id)).catch((error: unknown) => {
      // Somebody else was faster.
      if (!isRefusal(error, 404)) throw error;
    });
  });
  return true;
}

function reportOf({ created, updated, unchanged, removed }: Plan, dryRun: boolean): string {
  const lines = [
    ...created.map(({ id }) => `created ${id}`),
    ...updated.map(({ id }) => `updated ${id}`),
    ...removed.map((id) => `removed ${id}`),
    `created ${created.length}, updated ${updated.length}, unchanged ${unchanged}, removed ${removed.length}`,
  ];
  return lines.map((line) => `${dryRun ? 'would be ' : ''}${line}\n`).join('');
}

async function getSchedule(api: ApiClient, id: string): Promise<Json> {
  try {
    return await api.get(schedulePath(id));
  } catch (error) {
    if (isRefusal(error, 404)) return null;
    throw error;
  }
}

async function severalAtOnce<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  const left = items.values();
  const lane = async () => {
    for (const item of left) await act(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
}
