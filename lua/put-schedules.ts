import type { Redis } from 'ioredis';
import type { EncodedDefinition } from './definition.ts';
import { type NamespaceKeys, requestKey, type ShardKeys } from './keys.ts';
import { defineScript, type ScriptArgument, textReply } from './script.ts';

const script = defineScript('put-schedules');

/** `refused`: it exists and was to be created, or is no longer the revision that was to be replaced. */
export type PutOutcome = 'created' | 'updated' | 'unchanged' | 'refused';

const OUTCOMES: Readonly<Record<string, PutOutcome>> = { c: 'created', u: 'updated', n: 'unchanged', x: 'refused' };

export interface PutEntry extends EncodedDefinition {
  readonly id: string;
  /** `encodeTemplate`'s text. */
  readonly template: string;
  /** Its calendar and exclusion, where its timing has places for them. */
  readonly calendar?: SharedText | undefined;
  readonly exclusion?: SharedText | undefined;
  /** What a schedule that is new here brings along from elsewhere. */
  readonly carried?: Carried | undefined;
}

/** A calendar or exclusion with what was computed ahead of it. */
export interface SharedText {
  /** `encodeShared`'s. */
  readonly text: string;
  /** `encodeTimes`'s. */
  readonly times: string;
  /** When to compute them further, ms since epoch; anything where nothing comes beyond them. */
  readonly refillAtMs: number;
}

/** The state of a schedule that moves: null where it has none. */
export interface Carried {
  /** First three groups of its task ids. */
  readonly seed: string;
  /** Instant of a one-shot, or offset of a grid of phase `now`, ms. */
  readonly anchorMs: number | null;
  readonly dueMs: number | null;
  readonly completedAtMs: number | null;
  /** Regular runs sent, where max_runs is set. */
  readonly runs: number | null;
  /** Due time of a loop while paused; `-`: it was stopped. */
  readonly held: string | null;
}

export interface PutRequest {
  readonly epoch: string;
  readonly namespace: string;
  readonly shard: number;
  /** At most 500, each id once, all of this shard. */
  readonly entries: readonly PutEntry[];
  /** Given: create only, and the same request again is told that it created. */
  readonly requestId?: string;
  /** Given: replaces this revision of one schedule only. */
  readonly revision?: string;
}

/** Creates or updates schedules of one shard in one atomic step; an outcome per entry. Throws NAMESPACE_GONE. */
export async function putSchedules(
  redis: Redis,
  names: NamespaceKeys,
  keys: ShardKeys,
  request: PutRequest,
): Promise<PutOutcome[]> {
  const numbers = new Map<string, number>();
  const texts: ScriptArgument[] = [];
  const numberOf = (text: string, times = '', refillAtMs: number | '' = ''): number => {
    const known = numbers.get(text);
    if (known !== undefined) return known;
    texts.push(text, times, refillAtMs);
    numbers.set(text, numbers.size + 1);
    return numbers.size;
  };
  const shared = (one: SharedText | undefined) =>
    one === undefined ? '' : `@${numberOf(one.text, one.times, one.refillAtMs)}`;
  const entries = request.entries.flatMap((entry) => [
    entry.id,
    numberOf(entry.template),
    entry.timing.replace('@calendar', shared(entry.calendar)).replace('@exclusion', shared(entry.exclusion)),
    entry.end,
    entry.rest,
    entry.carried === undefined ? '' : encodeCarried(entry.carried),
  ]);
  const creates = request.requestId !== undefined;
  const reply = await script.run(
    redis,
    [names.meta, keys.due, ...(creates ? [requestKey(keys, request.requestId!)] : [])],
    [
      request.epoch,
      request.namespace,
      creates ? 'create' : (request.revision ?? 'upsert'),
      names.wake,
      request.shard,
      numbers.size,
      ...texts,
      ...entries,
    ],
  );
  return Array.from(textReply(script, reply), (letter) => OUTCOMES[letter]!);
}

function encodeCarried({ seed, anchorMs, dueMs, completedAtMs, runs, held }: Carried): string {
  return [seed, anchorMs, dueMs, completedAtMs, runs, held].map((value) => value ?? '').join('\x1e');
}
