import { tasks } from '../../client/task.ts';
import { PythonError } from '../../lua/pidbox.ts';
import { type Json, pythonRepr } from '../../protocol/json.ts';
import { ratePerSec } from '../../protocol/rate-limit.ts';
import { type Arguments, secondsOf } from './arguments.ts';
import type { WorkerView } from './view.ts';

/** Changes how often tasks of a name are started here. */
export function setRateLimit(view: WorkerView, args: Arguments): Json {
  return setRate('rate limit', args, (name, limit) => view.setRateLimit(name, limit));
}

/** Changes how often they are started by all workers together, as this one counts it. */
export function setGlobalRateLimit(view: WorkerView, args: Arguments): Json {
  return setRate('global rate limit', args, (name, limit) => view.setGlobalRateLimit(name, limit));
}

function setRate(what: string, args: Arguments, set: (task: string, limit: string | number | null) => void): Json {
  const { task_name: name, rate_limit: limit } = args;
  const reason = whyNoRate(limit);
  if (reason !== null) return { error: `Invalid rate limit string: ${reason}` };
  if (!isKnown(name)) return { error: 'unknown task' };
  const isNone = limit === null || limit === undefined || limit === 0 || limit === '' || limit === '0';
  set(name, isNone || (typeof limit !== 'string' && typeof limit !== 'number') ? null : limit);
  return { ok: isNone ? `${what} disabled successfully` : `new ${what} set successfully` };
}

/** Changes how long tasks of a name may run here. */
export function setTimeLimits(view: WorkerView, args: Arguments): Json {
  const { task_name: name } = args;
  if (!isKnown(name)) return { error: 'unknown task' };
  view.setTimeLimits(name, { soft: secondsOf('soft', args.soft), hard: secondsOf('hard', args.hard) });
  return { ok: 'time limits set successfully' };
}

function isKnown(name: Json | undefined): name is string {
  return typeof name === 'string' && tasks.has(name);
}

/** Why a rate cannot be read, as Python says it (celery/utils/time.py, rate); null for one that can. */
function whyNoRate(limit: Json | undefined): string | null {
  if (limit === undefined || limit === null) return null;
  if (typeof limit !== 'string' && typeof limit !== 'number') {
    return `TypeError(${pythonRepr(`${pythonRepr(limit)} is no rate`)})`;
  }
  try {
    ratePerSec(limit);
    return null;
  } catch {
    const [count = '', modifier] = String(limit).split('/');
    if (modifier !== undefined && !['s', 'm', 'h'].includes(modifier)) throw new PythonError('KeyError', modifier);
    return `ValueError(${pythonRepr(`could not convert string to float: ${pythonRepr(count)}`)})`;
  }
}
