import { PythonError } from '../../lua/pidbox.ts';
import type { Json } from '../../protocol/json.ts';
import { type Arguments, integerOf } from './arguments.ts';
import type { WorkerView } from './view.ts';

/** Largest pool that remote control makes. */
const MAX_SIZE = 100_000;

export function growPool(view: WorkerView, args: Arguments): Json {
  return resize(view, 'grow', integerOf('n', args.n, 1));
}

export function shrinkPool(view: WorkerView, args: Arguments): Json {
  return resize(view, 'shrink', -integerOf('n', args.n, 1));
}

function resize(view: WorkerView, verb: 'grow' | 'shrink', change: number): Json {
  if (view.autoscaler !== null) {
    return { error: `pool_${verb} is not supported with autoscale. Adjust autoscale range instead.` };
  }
  const { kind, size } = view.pool;
  if (kind === 'solo') throw new PythonError('NotImplementedError', 'A solo pool runs one task at a time');
  const wanted = size + change;
  if (wanted < 1 || wanted > MAX_SIZE) {
    throw new PythonError('ValueError', `The pool can have 1 to ${MAX_SIZE} slots, not ${wanted}`);
  }
  view.resizePool(wanted);
  return { ok: `pool will ${verb}` };
}

/** Replaces the pool's processes or threads. */
export function restartPool({ restartPool }: WorkerView): Json {
  if (restartPool === null) throw new PythonError('ValueError', 'Pool restarts not enabled');
  restartPool();
  return { ok: 'reload started' };
}

export function autoscale({ autoscaler }: WorkerView, args: Arguments): Json {
  if (autoscaler === null) throw new PythonError('ValueError', 'Autoscale not enabled');
  const wanted = { max: integerOf('max', args.max, null), min: integerOf('min', args.min, null) };
  for (const [name, value] of Object.entries(wanted)) {
    if (value !== null && (value < 0 || value > MAX_SIZE)) {
      throw new PythonError('ValueError', `${name} must be 0 to ${MAX_SIZE}, not ${value}`);
    }
  }
  const { max, min } = autoscaler.update(wanted.max, wanted.min);
  return { ok: `autoscale now max=${max} min=${min}` };
}
