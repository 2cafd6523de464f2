import { machine, platform, release } from 'node:os';
import { withoutPassword } from '../../lua/connection.ts';
import { type Json, pythonRepr } from '../../protocol/json.ts';
import { VERSION } from '../../runtime/version.ts';
import { type WorkerConfig, workerConfig } from '../config.ts';
import { isList, snakeCase } from './arguments.ts';

/** Settings of ours that Celery has under another name. */
const CELERY_NAMES: Readonly<Record<string, string>> = {
  acksLate: 'task_acks_late',
  concurrency: 'worker_concurrency',
  defaultQueue: 'task_default_queue',
  pool: 'worker_pool',
  resultExpiresSec: 'result_expires',
  resultExtended: 'result_extended',
  softTimeLimitSec: 'task_soft_time_limit',
  statedb: 'worker_state_db',
  maxMemoryKib: 'worker_max_memory_per_child',
  maxTasksPerChild: 'worker_max_tasks_per_child',
  taskEvents: 'worker_send_task_events',
  taskSendSentEvent: 'task_send_sent_event',
  timeLimitSec: 'task_time_limit',
  trackStarted: 'task_track_started',
};

/** As Celery hides settings (celery/app/utils.py). */
const SECRET = /API|TOKEN|KEY|SECRET|PASS|SIGNATURE|DATABASE/i;
const MASK = '********';

/** A worker's settings under Celery's names, and ours as `ringbeat_…`; those that are no default, or all. No secrets. */
export function settingsOf(config: WorkerConfig, withDefaults: boolean): { [name: string]: Json } {
  const url = withoutPassword(config.redis);
  const defaults = new Map(settingEntries(workerConfig({ redis: config.redis })));
  const settings = settingEntries(config)
    .filter(([name, value]) => withDefaults || JSON.stringify(value) !== JSON.stringify(defaults.get(name)))
    .map(([name, value]): [string, Json] => [name, SECRET.test(name) && value !== null ? MASK : value]);
  return { broker_url: url, result_backend: url, ...Object.fromEntries(settings) };
}

function settingEntries(config: WorkerConfig): [string, Json][] {
  return Object.entries(config).flatMap(([key, value]): [string, Json][] =>
    key === 'redis' || !isJson(value) ? [] : [[CELERY_NAMES[key] ?? `ringbeat_${snakeCase(key)}`, value]],
  );
}

function isJson(value: unknown): value is Json {
  return value !== undefined && typeof value !== 'function';
}

/** What to send along with a report of a bug, laid out as Celery's `bugreport`. */
export function bugReport(config: WorkerConfig): string {
  const settings = Object.entries(settingsOf(config, false)).map(
    ([name, value]) => `${name}: ${isList(value) ? `\n    ${pythonRepr(value)}` : pythonRepr(value)}`,
  );
  return `
software -> ringbeat:${VERSION} node:${process.versions.node}
            v8:${process.versions.v8} uv:${process.versions.uv} openssl:${process.versions.openssl}
platform -> system:${platform()} arch:${machine()}
            kernel version:${release()} imp:Node.js
loader   -> ringbeat
settings -> transport:redis results:${withoutPassword(config.redis)}

${settings.join('\n')}
`;
}
