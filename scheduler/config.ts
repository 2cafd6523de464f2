import { InvalidArgumentError } from 'commander';
import { COMMON_OPTIONS } from '../runtime/common-options.ts';
import { flag, integer, list, number, type OptionSpec, type OptionValues, oneOf, text } from '../runtime/options.ts';

/** A queue's name has 200 bytes at most, and `.delayed` is added to it. */
const MAX_QUEUE_BYTES = 192;

/** Options that only the first node of a namespace decides; `ringbeat namespace set` changes them later. */
export const NAMESPACE_OPTIONS = {
  queueCap: integer({
    min: 0,
    max: 1_000_000_000,
    default: 1_000_000,
    doc: 'most messages in a queue whose schedule does not say otherwise',
  }),
  misfireThreshold: number({
    placeholder: 'S',
    min: 0.001,
    max: 86_400,
    default: 1,
    doc: 'a schedule whose oldest run is more overdue than this has missed runs, s',
  }),
  keepCompleted: number({
    placeholder: 'S',
    min: 0,
    max: 31_536_000,
    default: 3_600,
    doc: 'how long a completed one-shot is kept, s',
  }),
  recoveryRate: integer({
    placeholder: 'N',
    min: 0,
    max: 1_000_000,
    default: 100_000,
    doc: 'missed runs that all nodes together send per second after an outage; 0: as fast as it goes',
  }),
  recoveryOrder: oneOf(['current', 'missed'], {
    default: 'current',
    doc: 'which runs go first while missed ones wait: those that are due now, or the missed ones',
  }),
  delayedQueues: delayedQueues<readonly string[]>({ default: [] }),
};

export const BEAT_OPTIONS = {
  ...COMMON_OPTIONS,
  ...NAMESPACE_OPTIONS,
  shards: integer<number | null>({
    min: 1,
    max: 1_024,
    default: null,
    doc: 'shards of a new namespace (16 when left out); cannot be changed later',
  }),
  apiHost: text({ placeholder: 'HOST', default: '127.0.0.1', doc: 'address that the HTTP API listens on' }),
  apiPort: integer({
    placeholder: 'PORT',
    min: 0,
    max: 65_535,
    default: 7_380,
    doc: 'port that the HTTP API listens on; 0 takes a free one',
  }),
  apiToken: list({
    placeholder: 'TOKEN[:read|:write]',
    default: [],
    doc: 'bearer token that the API asks for; may be given several times; may write unless it says read',
  }),
  insecure: flag({ doc: 'allow the API to listen beyond loopback without a token' }),
  noApi: flag({ doc: 'serve no HTTP API' }),
  journalDir: text<string | null>({
    placeholder: 'DIR',
    default: null,
    doc: "folder for a copy of all schedules on this node's disk, from which they are restored should Redis lose them",
  }),
  createAtOnce: flag({
    doc: 'create a namespace that is not in Redis without waiting for nodes that have it in a journal: for a Redis that nobody else uses',
  }),
  helpAfter: integer({
    placeholder: 'MS',
    min: 10,
    max: 60_000,
    default: 40,
    doc: "how much overdue another node's shard must be before this node helps, ms",
  }),
};

export type BeatConfig = OptionValues<typeof BEAT_OPTIONS>;

/** Names of queues with a delayed list; null by default where it may be left as it is. */
export function delayedQueues<T extends readonly string[] | null>(spec: { readonly default: T }): OptionSpec<T> {
  const names = list({
    default: [],
    placeholder: 'QUEUE,…',
    doc: 'queues with a list <queue>.delayed beside them, whose messages beat nodes keep until their eta',
  });
  return {
    ...names,
    default: spec.default,
    parse(value, previous) {
      const queues = [...new Set(names.parse(value, previous === spec.default ? [] : (previous ?? [])))];
      const bad = queues.find((queue) => /["\\\x00-\x1f]/.test(queue) || Buffer.byteLength(queue) > MAX_QUEUE_BYTES);
      if (bad === undefined) return queues as readonly string[] as T;
      throw new InvalidArgumentError(
        `"${bad}" cannot have one: its name must have at most ${MAX_QUEUE_BYTES} bytes and no quote, backslash or control character.`,
      );
    },
  };
}
