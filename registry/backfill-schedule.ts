import { MAX_BACKLOG } from '../lua/backfill.ts';
import { dueTimesBefore } from './due-times.ts';
import type { Registry } from './registry.ts';

export type BackfillOutcome =
  /** Runs that were queued. */
  | { readonly kind: 'done'; readonly runs: number }
  | { readonly kind: 'missing' }
  /** A loop has no times of its own. */
  | { readonly kind: 'loop' }
  | { readonly kind: 'too many'; readonly most: number };

/**
 * Runs a schedule once for each time from `fromMs` on and before `toMs` at which it is due, was, or would have been, after
 * start, end and exclude. The same request again changes nothing. Throws BACKLOG_FULL and NAMESPACE_GONE.
 */
export async function backfillSchedule(
  registry: Registry,
  id: string,
  { fromMs, toMs }: { readonly fromMs: number; readonly toMs: number },
  requestId: string,
): Promise<BackfillOutcome> {
  const [stored] = await registry.get([id]);
  if (stored == null) return { kind: 'missing' };
  if ('after' in stored.spec.schedule) return { kind: 'loop' };
  const duesMs = await dueTimesBefore(stored.spec, stored.originMs, fromMs - 1, toMs, MAX_BACKLOG + 1);
  if (duesMs.length > MAX_BACKLOG) return { kind: 'too many', most: MAX_BACKLOG };
  if (duesMs.length === 0) return { kind: 'done', runs: 0 };
  const runs = await registry.backfill(id, duesMs, requestId);
  return runs === null ? { kind: 'missing' } : { kind: 'done', runs };
}
