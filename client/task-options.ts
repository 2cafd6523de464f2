import { ratePerSec } from '../protocol/rate-limit.ts';
import type { TaskOptions } from './task.ts';

type Check = (value: unknown) => string | null;

/** Throws TypeError for an option of a task that is none or that has a value it cannot have. */
export function checkTaskOptions(task: string, options: TaskOptions): void {
  if (typeof options !== 'object' || options === null) {
    throw new TypeError(`The options of task ${task} must be an object.`);
  }
  for (const [name, value] of Object.entries(options)) {
    const check = CHECKS[name as keyof TaskOptions] as Check | undefined;
    if (check === undefined) {
      throw new TypeError(`Task ${task} has no option ${name}. Its options are ${Object.keys(CHECKS).join(', ')}.`);
    }
    const reason = value === undefined ? null : check(value);
    if (reason !== null) throw new TypeError(`Option ${name} of task ${task} ${reason}.`);
  }
  const { softTimeLimit, timeLimit } = options;
  if (softTimeLimit != null && timeLimit != null && softTimeLimit > timeLimit) {
    throw new TypeError(
      `Option softTimeLimit of task ${task} must not be above timeLimit, got ${softTimeLimit} and ${timeLimit}.`,
    );
  }
}

const flag: Check = (value) => (typeof value === 'boolean' ? null : `must be true or false, got ${shown(value)}`);

const seconds: Check = (value) => (isNumber(value, 0) ? null : `must be 0 s or more, got ${shown(value)}`);

const limit: Check = (value) =>
  value === null || (isNumber(value, 0) && value > 0) ? null : `must be above 0 s, or null, got ${shown(value)}`;

const hook: Check = (value) => (typeof value === 'function' ? null : `must be a function, got ${shown(value)}`);

const rate: Check = (value) => {
  const isShort = value === null || typeof value === 'string' || typeof value === 'number';
  if (!isShort) return `must be a number, or like "10/s", "100/m" or "5/h", got ${shown(value)}`;
  try {
    ratePerSec(value);
    return null;
  } catch {
    return `must be a number of starts a second, or like "10/s", "100/m" or "5/h", got ${shown(value)}`;
  }
};

const errorKinds: Check = (value) =>
  Array.isArray(value) && value.every((kind) => typeof kind === 'string' || typeof kind === 'function')
    ? null
    : `must be a list of error classes or names, got ${shown(value)}`;

const schema: Check = (value) => {
  const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function';
  const standard = isObject && '~standard' in value ? value['~standard'] : null;
  const isSchema = typeof standard === 'object' && standard !== null && 'validate' in standard;
  return isSchema ? null : 'must be a Standard Schema (https://standardschema.dev), such as zod and valibot make';
};

const CHECKS: { readonly [Name in keyof Required<TaskOptions>]: Check } = {
  acksLate: flag,
  ignoreResult: flag,
  rejectOnWorkerLost: flag,
  trackStarted: flag,
  sendEvents: flag,
  autoretryFor: errorKinds,
  dontAutoretryFor: errorKinds,
  maxRetries: (value) =>
    value === null || (Number.isInteger(value) && isNumber(value, 0))
      ? null
      : `must be a whole number of 0 or more, or null for no limit, got ${shown(value)}`,
  defaultRetryDelay: seconds,
  retryBackoff: (value) =>
    typeof value === 'boolean' || isNumber(value, 0) ? null : `must be true, false or a factor, got ${shown(value)}`,
  retryBackoffMax: seconds,
  retryJitter: flag,
  softTimeLimit: limit,
  timeLimit: limit,
  rateLimit: rate,
  globalRateLimit: rate,
  priority: (value) =>
    value === null || (Number.isInteger(value) && isNumber(value, 0) && value <= 9)
      ? null
      : `must be a whole number from 0 (most urgent) to 9, or null, got ${shown(value)}`,
  serializer: (value) => (value === 'json' ? null : `must be "json", the only one that is spoken, got ${shown(value)}`),
  shadow: (value) =>
    value === null || (typeof value === 'string' && value !== '') ? null : `must be a name, got ${shown(value)}`,
  schema,
  kwargsSchema: schema,
  beforeStart: hook,
  onSuccess: hook,
  onFailure: hook,
  onRetry: hook,
  afterReturn: hook,
};

function isNumber(value: unknown, least: number): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= least;
}

function shown(value: unknown): string {
  return typeof value === 'bigint' || typeof value === 'function'
    ? String(value)
    : (JSON.stringify(value) ?? 'nothing');
}
