import type { Json } from './json.ts';

/** What a word of the command line becomes. */
type ArgumentType = 'text' | 'integer' | 'float' | 'switch';

export interface ControlCommandSpec {
  /** `inspect` only looks. */
  readonly kind: 'inspect' | 'control';
  /** Another name of the method. */
  readonly alias?: string;
  /** Arguments that words of the command line are for, in their order. */
  readonly args?: Readonly<Record<string, ArgumentType>>;
  /** The argument that takes the words which are left. */
  readonly variadic?: string;
  readonly signature?: string;
  readonly help: string;
  /** Arguments without which it fails. */
  readonly required?: readonly string[];
  /** It fails when given others than those of `args`. */
  readonly isStrict?: boolean;
  /** Between workers; not offered by the command line. */
  readonly isHidden?: boolean;
}

/** Celery's remote control commands (celery/worker/control.py), and one of our own, by method. */
export const CONTROL_COMMANDS = {
  active: { kind: 'inspect', alias: 'dump_active', help: 'List of tasks currently being executed.' },
  active_queues: {
    kind: 'inspect',
    isStrict: true,
    help: 'List the task queues a worker is currently consuming from.',
  },
  clock: { kind: 'inspect', help: 'Get current logical clock value.' },
  conf: {
    kind: 'inspect',
    alias: 'dump_conf',
    args: { with_defaults: 'switch' },
    signature: '[include_defaults=False]',
    help: 'List configuration.',
  },
  hello: { kind: 'inspect', required: ['from_node'], isHidden: true, help: 'Request mingle sync-data.' },
  memdump: {
    kind: 'inspect',
    args: { samples: 'integer' },
    signature: '[n_samples=10]',
    help: 'Dump statistics of previous memsample requests.',
  },
  memsample: { kind: 'inspect', help: 'Sample current RSS memory usage.' },
  objgraph: {
    kind: 'inspect',
    args: { type: 'text', num: 'integer', max_depth: 'integer' },
    signature: '[object_type=Request] [num=200 [max_depth=10]]',
    help: 'Create graph of uncollected objects (memory-leak debugging); of our workers, a heap snapshot.',
  },
  ping: { kind: 'inspect', help: 'Ping worker(s).' },
  query_task: {
    kind: 'inspect',
    variadic: 'ids',
    required: ['ids'],
    signature: '[id1 [id2 [... [idN]]]]',
    help: 'Query for task information by id.',
  },
  registered: {
    kind: 'inspect',
    alias: 'dump_tasks',
    variadic: 'taskinfoitems',
    signature: '[attr1 [attr2 [... [attrN]]]]',
    help: 'List of registered tasks.',
  },
  report: { kind: 'inspect', isStrict: true, help: 'Information about the installation for bug reports.' },
  reserved: {
    kind: 'inspect',
    alias: 'dump_reserved',
    help: 'List of currently reserved tasks, not including scheduled/active.',
  },
  revoked: { kind: 'inspect', alias: 'dump_revoked', help: 'List of revoked task-ids.' },
  scheduled: { kind: 'inspect', alias: 'dump_schedule', help: 'List of currently scheduled ETA/countdown tasks.' },
  stats: { kind: 'inspect', help: 'Request worker statistics/information.' },

  add_consumer: {
    kind: 'control',
    args: { queue: 'text', exchange: 'text', exchange_type: 'text', routing_key: 'text' },
    required: ['queue'],
    signature: '<queue> [exchange [type [routing_key]]]',
    help: 'Tell worker(s) to consume from task queue by name.',
  },
  autoscale: {
    kind: 'control',
    args: { max: 'integer', min: 'integer' },
    isStrict: true,
    signature: '[max [min]]',
    help: 'Modify autoscale settings.',
  },
  cancel_consumer: {
    kind: 'control',
    args: { queue: 'text' },
    required: ['queue'],
    signature: '<queue>',
    help: 'Tell worker(s) to stop consuming from task queue by name.',
  },
  disable_events: { kind: 'control', isStrict: true, help: 'Tell worker(s) to stop sending task-related events.' },
  election: { kind: 'control', required: ['id', 'topic'], help: 'Hold election.' },
  enable_events: { kind: 'control', isStrict: true, help: 'Tell worker(s) to send task-related events.' },
  global_rate_limit: {
    kind: 'control',
    args: { task_name: 'text', rate_limit: 'text' },
    required: ['task_name', 'rate_limit'],
    signature: '<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>',
    help: 'Tell workers of ours to modify the rate limit of a task that holds for all of them together.',
  },
  heartbeat: { kind: 'control', isStrict: true, help: 'Tell worker(s) to send event heartbeat immediately.' },
  pool_grow: {
    kind: 'control',
    args: { n: 'integer' },
    signature: '[N=1]',
    help: 'Grow pool by n processes/threads.',
  },
  pool_restart: { kind: 'control', help: 'Restart execution pool.' },
  pool_shrink: {
    kind: 'control',
    args: { n: 'integer' },
    signature: '[N=1]',
    help: 'Shrink pool by n processes/threads.',
  },
  rate_limit: {
    kind: 'control',
    args: { task_name: 'text', rate_limit: 'text' },
    required: ['task_name', 'rate_limit'],
    signature: '<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>',
    help: 'Tell worker(s) to modify the rate limit for a task by type.',
  },
  revoke: {
    kind: 'control',
    variadic: 'task_id',
    required: ['task_id'],
    signature: '[id1 [id2 [... [idN]]]]',
    help: 'Revoke task by task id (or list of ids).',
  },
  revoke_by_stamped_headers: {
    kind: 'control',
    variadic: 'headers',
    required: ['headers'],
    signature: '[key1=value1 [key2=value2 [... [keyN=valueN]]]]',
    help: 'Revoke task by header (or list of headers).',
  },
  shutdown: { kind: 'control', help: 'Shutdown worker(s).' },
  terminate: {
    kind: 'control',
    args: { signal: 'text' },
    variadic: 'task_id',
    required: ['signal', 'task_id'],
    signature: '<signal> [id1 [id2 [... [idN]]]]',
    help: 'Terminate task by task id (or list of ids).',
  },
  time_limit: {
    kind: 'control',
    args: { task_name: 'text', soft: 'float', hard: 'float' },
    signature: '<task_name> <soft_secs> [hard_secs]',
    help: 'Tell worker(s) to modify the time limit for task by type.',
  },
} as const satisfies Readonly<Record<string, ControlCommandSpec>>;

export type ControlMethod = keyof typeof CONTROL_COMMANDS;

/** A command by its method; null: there is none. */
export function controlCommand(method: string): ControlCommandSpec | null {
  return Object.hasOwn(CONTROL_COMMANDS, method) ? CONTROL_COMMANDS[method as ControlMethod] : null;
}

/**
 * The arguments that words of the command line stand for, as Celery's own makes them (celery/bin/control.py). Throws an
 * Error that says which word is wrong.
 */
export function argumentsOf(method: string, words: readonly string[]): { readonly [name: string]: Json } {
  const spec = controlCommand(method);
  const slots = Object.entries(spec?.args ?? {});
  const named = slots.slice(0, words.length).map(([name, type], i) => [name, argumentOf(name, type, words[i] ?? '')]);
  const rest = words.slice(slots.length);
  if (spec?.variadic !== undefined) return Object.fromEntries([...named, [spec.variadic, rest]]);
  if (rest.length > 0) {
    throw new Error(
      spec?.signature === undefined ? `${method} takes no arguments` : `${method} takes arguments: ${spec.signature}`,
    );
  }
  return Object.fromEntries(named);
}

const TRUE_WORDS: ReadonlySet<string> = new Set(['true', 'yes', '1', 'on']);
const FALSE_WORDS: ReadonlySet<string> = new Set(['false', 'no', '0', 'off']);

function argumentOf(name: string, type: ArgumentType, word: string): Json {
  switch (type) {
    case 'text':
      return word;
    case 'integer':
      if (!/^[+-]?\d+$/.test(word)) throw new Error(`${name} must be a whole number, got "${word}"`);
      return Number(word);
    case 'float': {
      const value = Number(word);
      if (word.trim() === '' || !Number.isFinite(value)) throw new Error(`${name} must be a number, got "${word}"`);
      return value;
    }
    case 'switch': {
      const isOn = TRUE_WORDS.has(word.toLowerCase());
      if (!isOn && !FALSE_WORDS.has(word.toLowerCase())) throw new Error(`${name} must be yes or no, got "${word}"`);
      return isOn;
    }
  }
}
