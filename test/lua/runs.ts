import { completeRuns } from '../../lua/complete-runs.ts';
import { reserve } from '../../lua/reserve.ts';
import { settle } from '../../lua/settle.ts';
import type { LoopWish } from '../../protocol/loop.ts';
import { EPOCH, parseMessage, type Sent, type Store } from './store.ts';

/** The run in flight of a schedule, as `journal` tells it. */
export interface Flight {
  readonly taskId: string;
  readonly dueMs: number;
  readonly run: number;
  readonly attempt: number;
  readonly tag: string;
  readonly list: string;
  /** Due time of the run that overlap holds back. */
  readonly bufferedMs: number | null;
  readonly dispatchedAtMs: number;
}

export async function flightOf({ redis, keys }: Store, id: string): Promise<Flight | null> {
  const text = await redis.hget(keys.journal, id);
  if (text === null) return null;
  const [taskId, due, run, attempt, tag, list, buffered, dispatched] = text.split('\x1f') as string[] & { length: 8 };
  return {
    taskId: taskId!,
    dueMs: Number(due),
    run: Number(run),
    attempt: Number(attempt),
    tag: tag!,
    list: list!,
    bufferedMs: buffered === '' ? null : Number(buffered),
    dispatchedAtMs: Number(dispatched),
  };
}

let counter = 0;

/** Takes all messages of the queue as a bundled worker does. */
export async function take({ redis }: Store, workerId = 'w1'): Promise<Sent[]> {
  counter += 1;
  const request = { workerId, counter, limit: 1_000, byteLimit: 10_000_000, queues: ['celery'] };
  const { messages } = await reserve(redis, 'rb', request);
  return messages.map(({ envelope }) => parseMessage(envelope));
}

export interface End {
  readonly outcome?: 'success' | 'failure';
  readonly wish?: LoopWish | null;
  readonly workerId?: string;
  /** Given: the call is one that was made before. */
  readonly counter?: number;
}

/** Settles a message that was taken, as a bundled worker does: the run in flight ends with it. How many came too late. */
export async function end({ redis }: Store, message: Sent, options: End = {}): Promise<number> {
  if (options.counter === undefined) counter += 1;
  const { journal } = message.headers.ringbeat as { readonly journal?: string };
  const ended = {
    schedule: message.schedule,
    outcome: options.outcome ?? 'success',
    wish: options.wish ?? null,
  } as const;
  const { late } = await settle(redis, 'rb', {
    workerId: options.workerId ?? 'w1',
    counter: options.counter ?? counter,
    resultExpiresSec: 60,
    shards: 0,
    settlements: [
      {
        tag: message.tag,
        mode: 'held',
        result: null,
        letter: null,
        run: journal === undefined ? null : { shard: journal, ...ended },
        actions: [],
      },
    ],
  });
  return late;
}

/** Takes what lies in the queue and settles all of it; what was taken. */
export async function runAll(store: Store, options: End = {}): Promise<Sent[]> {
  const taken = await take(store, options.workerId);
  for (const message of taken) await end(store, message, options);
  return taken;
}

/** Ends runs as a node does that saw their result records. */
export function endByResult(
  { redis, names, keys }: Store,
  taskIds: readonly string[],
  outcome: 'success' | 'failure' = 'success',
  wish: LoopWish | null = null,
) {
  const runs = taskIds.map((taskId) => ({ taskId, outcome, wish }));
  return completeRuns(redis, names, keys, { epoch: EPOCH, shard: 0, runs, checksDeadlines: false });
}

/** Lets the deadline of a run in flight pass, and looks at deadlines as a node does each second. */
export async function endByDeadline({ redis, names, keys }: Store, id: string) {
  await redis.zadd(keys.deadlines, 'XX', 1, id);
  return completeRuns(redis, names, keys, { epoch: EPOCH, shard: 0, runs: [], checksDeadlines: true });
}
