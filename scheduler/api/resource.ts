import { z } from 'zod';
import { type Json, toJson } from '../../protocol/json.ts';
import type { StoredSchedule } from '../../registry/registry.ts';
import { formatInstant } from '../../schedule/instant.ts';
import { createSpecFields } from '../../schedule/spec.ts';
import type { System } from './system.ts';

export const STATES = ['scheduled', 'running', 'paused', 'completed'] as const;

export function instantField(description: string) {
  return z.string().meta({ description, format: 'date-time' });
}

/** A schedule as the API shows it: its spec with every default filled in, and how it stands. */
export function createResourceSchema(namespace: string) {
  return z.strictObject({
    ...createSpecFields(namespace),
    state: z.enum(STATES),
    shard: z.int(),
    owner: z.string().nullable().describe('Id of the beat node that owns its shard.'),
    next_run_at: instantField('null when it is paused, completed, or a loop whose run is in flight').nullable(),
    last_run_at: instantField('When the last run was sent').nullable(),
    runs: z.int().nullable().describe('Regular runs sent; null unless max_runs is set'),
    misfired: z.int().describe('Runs that the misfire policy or their expiry dropped'),
    last_lateness_ms: z.number().nullable().describe('How long after its due time the last run was sent, ms'),
  });
}

/** As JSON text, in which args, kwargs and headers have their numbers as they were written. */
export function resourceJson(stored: StoredSchedule, system: Pick<System, 'ownerOf'>): string {
  const resource: { readonly [key: string]: Json } = {
    ...stored.spec,
    state: stored.state,
    shard: stored.shard,
    owner: system.ownerOf(stored.shard),
    next_run_at: optionalInstant(stored.nextRunAtMs),
    last_run_at: optionalInstant(stored.lastRunAtMs),
    runs: stored.runs,
    misfired: stored.misfired,
    last_lateness_ms: stored.lastLatenessMs,
  };
  return toJson(resource);
}

export function optionalInstant(atMs: number | null): string | null {
  return atMs === null ? null : formatInstant(atMs);
}
