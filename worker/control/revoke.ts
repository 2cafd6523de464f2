import { constants } from 'node:os';
import type { Redis } from 'ioredis';
import { PythonError } from '../../lua/pidbox.ts';
import { revokeParked } from '../../lua/revoke-parked.ts';
import { revokeResults } from '../../lua/revoke-results.ts';
import { messageOf, RingbeatError } from '../../protocol/errors.ts';
import { type Json, pythonRepr } from '../../protocol/json.ts';
import { type RevokedTasks, type Stamp, stampsFrom, stampsOf } from '../../protocol/revoked-tasks.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import type { Log } from '../../runtime/log.ts';
import type { WorkerConfig } from '../config.ts';
import { type Arguments, isList, isTrue, textsOf } from './arguments.ts';
import type { WorkerView } from './view.ts';

export interface RevokeOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly view: WorkerView;
  readonly revoked: RevokedTasks;
  readonly log: Log;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /** Shards of the namespace; 0 while there is none. */
  shards(): number;
}

/** Revokes tasks by id: those that wait anywhere will not run; those that run are ended where `terminate` says so. */
export async function revoke(options: RevokeOptions, args: Arguments): Promise<Json> {
  const { view, log } = options;
  const ids = [...new Set(textsOf(args.task_id))];
  const isToEnd = isTrue(args.terminate);
  const signal = signalOf(args.signal);
  const active = new Set(view.active().map(({ message }) => message.id));
  const waiting = new Set([...view.reserved(), ...view.held()].map(({ id }) => id));
  revokeHere(options, ids);
  const ended = isToEnd ? [...view.terminate(new Set(ids), signal), ...ids.filter((id) => waiting.has(id))] : [];
  log.info({ event: isToEnd ? 'tasks_terminated' : 'tasks_revoked', ids, ...(isToEnd ? { ended, signal } : {}) });
  await revokeStored(
    options,
    ids.filter((id) => !active.has(id)),
  );
  if (!isToEnd) return { ok: `tasks ${ids.join(', ')} flagged as revoked` };
  return { ok: `terminate: ${ended.length === 0 ? 'tasks unknown' : ended.join(', ')}` };
}

/** What peers have revoked is not run here either. */
export function revokeHere({ view, revoked }: Pick<RevokeOptions, 'view' | 'revoked'>, ids: readonly string[]): void {
  if (ids.length === 0) return;
  revoked.add(ids, monotonicMs());
  view.dropRevoked();
}

/** Revokes all messages that carry one of these stamps. */
export function revokeByStampedHeaders({ view, revoked, log }: RevokeOptions, args: Arguments): Json {
  const signal = signalOf(args.signal);
  const headers = headersOf(args.headers);
  const stamps = Object.entries(headers).flatMap(([header, value]) => stampsFrom(header, value));
  revoked.addStamps(stamps);
  view.dropRevoked();
  const shown = pythonRepr(headers);
  log.info({ event: 'stamps_revoked', headers });
  if (!isTrue(args.terminate)) return { ok: `headers ${shown} flagged as revoked, but not terminated` };
  const running = view
    .active()
    .map(({ message }) => ({ id: message.id, matching: matches(stampsOf(message.headers), stamps) }))
    .filter(({ matching }) => matching.length > 0);
  view.terminate(new Set(running.map(({ id }) => id)), signal);
  if (running.length === 0) return { ok: `headers ${shown} were not terminated` };
  const ended = new Map<string, string[]>();
  for (const [header, value] of new Set(running.flatMap(({ matching }) => matching))) {
    ended.set(header, [...new Set([...(ended.get(header) ?? []), value])]);
  }
  return { ok: `headers ${pythonRepr(Object.fromEntries(ended))} revoked` };
}

/** `{key: value}`, `{key: [value, …]}` or `["key=value", …]`, as the command line sends it. */
function headersOf(value: Json | undefined): { readonly [header: string]: Json } {
  if (isList(value)) {
    return Object.fromEntries(
      textsOf(value).map((text) => {
        const [header = '', stamp] = text.split('=');
        if (stamp === undefined) throw new PythonError('IndexError', 'list index out of range');
        return [header, stamp];
      }),
    );
  }
  if (typeof value === 'object' && value !== null) return Object.fromEntries(Object.entries(value));
  throw new PythonError('AttributeError', `${pythonRepr(value ?? null)} has no attribute 'items'`);
}

function matches(carried: readonly Stamp[], revoked: readonly Stamp[]): Stamp[] {
  return revoked.filter(([header, value]) => carried.some(([name, stamp]) => name === header && stamp === value));
}

/** What lies in a shard or has a record that says that it waits becomes REVOKED at once, as of Celery 5.5. */
async function revokeStored(options: RevokeOptions, ids: readonly string[]): Promise<void> {
  const { redis, config, shards, nowMs, log } = options;
  const { namespace, resultExpiresSec } = config;
  if (ids.length === 0) return;
  try {
    await revokeParked(redis, namespace, { shards: shards(), taskIds: ids, resultExpiresSec, nowMs: nowMs() });
  } catch (error) {
    // Where there is no namespace, nothing is parked.
    if (!(error instanceof RingbeatError) || error.code !== 'NAMESPACE_GONE') throw error;
  }
  try {
    await revokeResults(redis, ids, { resultExpiresSec, nowMs: nowMs() });
  } catch (error) {
    // Whoever takes such a task later stores it.
    log.warn({ event: 'revoked_not_stored', reason: messageOf(error), ids });
  }
}

/** `TERM`, `SIGTERM` or 15 as `SIGTERM`. Throws as Python does (celery/platforms.py, Signals.signum). */
function signalOf(value: Json | undefined): NodeJS.Signals {
  if (value === undefined || value === null || value === '') return 'SIGTERM';
  const names = Object.entries(constants.signals) as [NodeJS.Signals, number][];
  if (typeof value === 'number') {
    const name = names.find(([, number]) => number === value)?.[0];
    if (name === undefined) throw new PythonError('ValueError', `${value} is no signal`);
    return name;
  }
  if (typeof value !== 'string' || value !== value.toUpperCase() || /^\d/.test(value)) {
    throw new PythonError('TypeError', 'signal name must be uppercase string.');
  }
  const wanted = value.startsWith('SIG') ? value : `SIG${value}`;
  const name = names.find(([name]) => name === wanted)?.[0];
  if (name !== undefined) return name;
  throw new PythonError('AttributeError', `module 'signal' has no attribute '${wanted}'`);
}
