import { chordOf, clone, compound, type Signature, unchained, unrolled } from './signature.ts';

/** What Celery's `a | b | c` makes of steps: what follows a group gets its results, and a chord together with it. */
export function chained(steps: readonly Signature[]): Signature {
  return steps.reduce(followedBy, compound('chain', []));
}

/** `first | next` (celery/canvas.py, `__or__` of each kind). */
function followedBy(first: Signature, given: Signature): Signature {
  const next = unrolled(given);
  switch (first.kind) {
    case 'group':
      return chordOf(first, next);
    case 'task':
      return compound('chain', [first, ...stepsOf(next)]);
    case 'chord':
      return next.kind === 'chain' || next.kind === 'group'
        ? compound('chain', [first, ...stepsOf(next)])
        : behindChord(first, next);
    case 'chain':
      return behindChain(first, next);
  }
}

function behindChain(chain: Signature, next: Signature): Signature {
  const last = chain.tasks.at(-1);
  if (last === undefined && next.kind === 'group') return next;
  const isPlain = next.kind === 'task' || next.kind === 'chord';
  if (last === undefined || !isPlain || last.kind === 'task' || last.kind === 'chain')
    return compound('chain', [...unchained(chain), ...stepsOf(next)]);
  const copy = clone(chain);
  copy.tasks.splice(-1, 1, last.kind === 'group' ? chordOf(last, next) : behindChord(last, next));
  return copy;
}

function behindChord(chord: Signature, next: Signature): Signature {
  const copy = clone(chord);
  copy.body = copy.body === null ? next : followedBy(copy.body, next);
  return copy;
}

function stepsOf(signature: Signature): readonly Signature[] {
  return signature.kind === 'chain' ? unchained(signature) : [signature];
}
