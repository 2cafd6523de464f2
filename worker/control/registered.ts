import { tasks } from '../../client/task.ts';
import { type Json, pythonRepr } from '../../protocol/json.ts';
import type { WorkerConfig } from '../config.ts';
import { type Arguments, isTrue, snakeCase, textsOf } from './arguments.ts';
import type { WorkerView } from './view.ts';

/** What Celery shows of a task when it is not told (celery/worker/control.py). */
const DEFAULT_ATTRIBUTES = ['exchange', 'routing_key', 'rate_limit'];

/** Tasks that this worker can run, `name [attribute=value …]`; what an attribute that is not set has is left out. */
export function listRegistered(view: WorkerView, config: WorkerConfig, args: Arguments): Json {
  const given = textsOf(args.taskinfoitems);
  const attributes = given.length === 0 ? DEFAULT_ATTRIBUTES : given.filter((name) => !name.startsWith('_'));
  return [...tasks.keys()]
    .filter((name) => isTrue(args.builtins) || !name.startsWith('celery.'))
    .sort()
    .map((name) => {
      const facts = attributesOf(name, view, config);
      const shown = attributes.flatMap((attribute) => {
        const value = facts.get(attribute) ?? null;
        return value === null ? [] : [`${attribute}=${typeof value === 'string' ? value : pythonRepr(value)}`];
      });
      return shown.length === 0 ? name : `${name} [${shown.join(' ')}]`;
    });
}

/** A task's attributes under Celery's names, as they are in effect. */
function attributesOf(name: string, view: WorkerView, config: WorkerConfig): ReadonlyMap<string, Json> {
  const { soft, hard } = view.timeLimits(name);
  const options = Object.entries(tasks.get(name)?.options ?? {}).flatMap(([key, value]): [string, Json][] => {
    return isPlain(value) ? [[snakeCase(key), value]] : [];
  });
  return new Map<string, Json>([
    ['name', name],
    ['acks_late', config.acksLate],
    ['ignore_result', false],
    ['max_retries', 3],
    ['default_retry_delay', 180],
    ['serializer', 'json'],
    ['send_events', true],
    ...options,
    ['rate_limit', view.rateLimit(name)],
    ['global_rate_limit', view.globalRateLimit(name)],
    ['soft_time_limit', soft],
    ['time_limit', hard],
  ]);
}

function isPlain(value: unknown): value is string | number | boolean {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean';
}
