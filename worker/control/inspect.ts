import type { Redis } from 'ioredis';
import { listParked } from '../../lua/list-parked.ts';
import type { Json } from '../../protocol/json.ts';
import { readableMessage, type TaskMessage } from '../../protocol/message-reader.ts';
import { celeryTime } from '../../protocol/task-message.ts';
import type { WorkerConfig } from '../config.ts';
import { type Arguments, isTrue, textsOf } from './arguments.ts';
import { activeInfo, taskInfo } from './task-info.ts';
import type { WorkerView } from './view.ts';

/** Most parked messages that `inspect scheduled` lists. */
const MAX_PARKED = 1_000;

/** What Celery's timer gives ETA tasks (celery/worker/consumer). */
const TIMER_PRIORITY = 6;

export interface InspectOptions {
  readonly redis: Redis;
  readonly config: WorkerConfig;
  readonly view: WorkerView;
  /** Shards of the namespace; 0 while there is none. */
  shards(): number;
}

/** Tasks that run. */
export function listActive({ view, config }: InspectOptions, args: Arguments): Json {
  const { hostname } = config;
  return view.active().map((task) => activeInfo(task, { hostname, isSafe: isTrue(args.safe) }));
}

/** Messages that wait for a slot. */
export function listReserved({ view, config }: InspectOptions): Json {
  return view.reserved().map((message) => taskInfo(message, config));
}

/** Messages with a future eta: those that this worker holds, and those that are parked for its queues; nearest first. */
export async function listScheduled({ redis, config, view, shards }: InspectOptions): Promise<Json> {
  const parked = await listParked(redis, config.namespace, shards(), view.queues(), MAX_PARKED);
  const messages = [...view.held(), ...parked.flatMap(({ envelope }) => readableMessage(envelope) ?? [])];
  return messages
    .sort((one, other) => (one.etaMs ?? 0) - (other.etaMs ?? 0))
    .map((message) => ({
      eta: message.etaMs === null ? null : celeryTime(message.etaMs),
      priority: TIMER_PRIORITY,
      request: taskInfo(message, config),
    }));
}

/** What this worker does with each of some tasks; those that it does not hold are left out. */
export function queryTasks({ view, config }: InspectOptions, args: Arguments): Json {
  const wanted = new Set(textsOf(args.ids));
  const waiting = (state: string, messages: readonly TaskMessage[]): [string, Json][] =>
    messages
      .filter((message) => wanted.has(message.id))
      .map((message) => [message.id, [state, taskInfo(message, config)]]);
  return Object.fromEntries([
    ...waiting('scheduled', view.held()),
    ...waiting('reserved', view.reserved()),
    ...view
      .active()
      .filter(({ message }) => wanted.has(message.id))
      .map((task): [string, Json] => [task.message.id, ['active', activeInfo(task, config)]]),
  ]);
}
