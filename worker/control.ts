import type { Redis } from 'ioredis';
import { LosslessNumber } from 'lossless-json';
import { listParked } from '../lua/list-parked.ts';
import { type ControlCommands, PythonError } from '../lua/pidbox.ts';
import { revokeParked } from '../lua/revoke-parked.ts';
import type { LogicalClock } from '../protocol/control-message.ts';
import { RingbeatError } from '../protocol/errors.ts';
import type { Json } from '../protocol/json.ts';
import { readMessage, type TaskMessage } from '../protocol/message-reader.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { celeryTime } from '../protocol/task-message.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { WorkerConfig } from './config.ts';

/** Most parked messages that `inspect scheduled` lists. */
const MAX_PARKED = 1_000;

/** What Celery's timer gives ETA tasks (celery/worker/consumer). */
const TIMER_PRIORITY = 6;

export interface ControlOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly clock: LogicalClock;
  readonly revoked: RevokedTasks;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /** Shards of the namespace; 0 while there is none. */
  shards(): number;
  /** Messages with a future eta that this worker holds itself. */
  held(): readonly TaskMessage[];
  /** Drops what this worker holds of these tasks, which `revoked` knows by now. */
  drop(): void;
}

/** The remote control commands of a worker (celery/worker/control.py), under all their names. */
export function controlCommands(options: ControlOptions): ControlCommands {
  const { config, clock, revoked } = options;
  const scheduled = () => listScheduled(options);
  const revokedIds = () => [...revoked.entries()].map(([id]) => id);
  return {
    ping: () => ({ ok: 'pong' }),
    hello: (args) => {
      if (args.from_node === config.hostname) return null;
      revokeHere(options, idsOf(args.revoked));
      return {
        revoked: Object.fromEntries([...revoked.entries()].map(([id, atMs]) => [id, [pythonFloat(atMs / 1_000), id]])),
        clock: clock.forward(),
      };
    },
    revoke: async (args) => {
      if (args.task_id === undefined) {
        throw new PythonError('TypeError', "revoke() missing 1 required positional argument: 'task_id'");
      }
      const ids = idsOf(args.task_id);
      revokeHere(options, ids);
      await revokeStored(options, ids);
      // What runs here cannot be ended from outside.
      if (args.terminate === true) return { ok: 'terminate: tasks unknown' };
      return { ok: `tasks ${ids.join(', ')} flagged as revoked` };
    },
    revoked: revokedIds,
    dump_revoked: revokedIds,
    scheduled,
    dump_schedule: scheduled,
  };
}

function revokeHere({ revoked, drop }: ControlOptions, ids: readonly string[]): void {
  if (ids.length === 0) return;
  revoked.add(ids, monotonicMs());
  drop();
}

async function revokeStored({ redis, config, shards, nowMs }: ControlOptions, ids: readonly string[]): Promise<void> {
  const { namespace, resultExpiresSec } = config;
  try {
    await revokeParked(redis, namespace, { shards: shards(), taskIds: ids, resultExpiresSec, nowMs: nowMs() });
  } catch (error) {
    // Where there is no namespace, nothing is parked.
    if (!(error instanceof RingbeatError) || error.code !== 'NAMESPACE_GONE') throw error;
  }
}

async function listScheduled({ redis, config, shards, held }: ControlOptions): Promise<Json> {
  const parked = await listParked(redis, config.namespace, shards(), config.queues, MAX_PARKED);
  const messages = [...held(), ...parked.flatMap(({ envelope }) => readable(envelope))];
  return messages
    .sort((one, other) => (one.etaMs ?? 0) - (other.etaMs ?? 0))
    .map((message) => ({
      eta: message.etaMs === null ? null : celeryTime(message.etaMs),
      priority: TIMER_PRIORITY,
      request: requestInfo(message, config.hostname),
    }));
}

function readable(envelope: string): TaskMessage[] {
  try {
    return [readMessage(envelope)];
  } catch {
    // It is reported as a dead letter by whoever takes it when it is due.
    return [];
  }
}

/** A task that is not running yet as Celery shows it (celery/worker/request.py, Request.info). */
function requestInfo(message: TaskMessage, hostname: string): Json {
  const { exchange, routingKey, priority, redelivered } = message.deliveryInfo;
  return {
    id: message.id,
    name: message.task,
    args: plain(message.args),
    kwargs: plain(message.kwargs),
    type: message.task,
    hostname,
    time_start: null,
    acknowledged: false,
    delivery_info: { exchange, routing_key: routingKey, priority, redelivered },
    worker_pid: null,
  };
}

/** Arguments as JSON: what is no JSON value is written as text. */
function plain(value: unknown): Json {
  if (value === null || typeof value === 'boolean' || typeof value === 'number' || typeof value === 'string')
    return value;
  if (value instanceof Date) return celeryTime(value.getTime());
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(Object(value)).map(([key, member]) => [key, plain(member)]));
}

/** Celery 5.2 takes no whole number for a time. */
function pythonFloat(value: number): LosslessNumber {
  return new LosslessNumber(value.toFixed(6));
}

/** One id or a list of them; newer workers say hello with a list, older ones with an object. */
function idsOf(value: Json | undefined): string[] {
  if (typeof value === 'string') return [value];
  if (typeof value !== 'object' || value === null) return [];
  const ids: readonly unknown[] = Array.isArray(value) ? value : Object.keys(value);
  return ids.filter((id) => typeof id === 'string');
}
