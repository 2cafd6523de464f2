import { COMMON_OPTIONS } from '../runtime/common-options.ts';
import { flag, integer, list, number, type OptionValues, text } from '../runtime/options.ts';

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
  helpAfter: integer({
    placeholder: 'MS',
    min: 10,
    max: 60_000,
    default: 40,
    doc: "how much overdue another node's shard must be before this node helps, ms",
  }),
};

export type BeatConfig = OptionValues<typeof BEAT_OPTIONS>;
