import { KOMBU } from '../lua/keys.ts';
import { awaitValue, watchCpu } from './processes.ts';
import { QUEUE, type Stage } from './stage.ts';
import { fillList, type TaskMessages } from './task-messages.ts';
import { startWorker } from './worker-process.ts';

/** Pause between two looks, ms. */
const LOOK_MS = 50;
/** How long one drain may take, ms. */
const DEADLINE_MS = 300_000;

export interface DrainOptions extends TaskMessages {
  /** Options of `ringbeat worker`. */
  readonly args: readonly string[];
}

export interface Drained {
  /** From the moment when the messages appeared until all were done. */
  readonly seconds: number;
  /** Messages per second. */
  readonly rate: number;
  /** Share of one core; of the worker's own process. */
  readonly workerCpu: number;
  readonly redisCpu: number;
  /** Results that were not stored, where they were asked for. */
  readonly missingResults: number;
}

/**
 * A new worker drains the queue: until queue and `unacked` are empty and every result is stored. It runs before the
 * queue is filled by one RENAME, so that its start is not counted. The last tasks that are acknowledged early may still run.
 */
export async function drain(stage: Stage, { args, ...wanted }: DrainOptions): Promise<Drained> {
  const { redis } = stage;
  const { messages, results } = wanted;
  const ids = await fillList(stage, `${QUEUE}-ahead`, wanted);
  const worker = await startWorker(stage, args);
  const keysBefore = await redis.dbsize();
  const cpu = watchCpu([worker.pid, stage.server.pid]);
  const startedAtMs = performance.now();
  await redis.rename(`${QUEUE}-ahead`, QUEUE);
  await awaitEmptyQueue(stage, (keys) => !results || keys >= keysBefore - 1 + messages);
  const seconds = (performance.now() - startedAtMs) / 1_000;
  const [workerCpu, redisCpu] = cpu.stop();
  await worker.stop();
  const missingResults = results ? ids.length - (await countResults(stage, ids)) : 0;
  await redis.flushall();
  return { seconds, rate: messages / seconds, workerCpu: workerCpu!, redisCpu: redisCpu!, missingResults };
}

/** Until queue and `unacked` are empty and `isDone` says so of the number of keys. */
export async function awaitEmptyQueue(stage: Stage, isDone: (keys: number) => boolean = () => true): Promise<void> {
  await awaitValue(
    'the queue drained',
    async () => {
      const replies = await stage.redis.pipeline().llen(QUEUE).hlen(KOMBU.unacked).dbsize().exec();
      const [queued, unacked, keys] = (replies ?? []).map(([, reply]) => Number(reply));
      return queued === 0 && unacked === 0 && isDone(keys!) ? true : null;
    },
    DEADLINE_MS,
    LOOK_MS,
  );
}

async function countResults(stage: Stage, ids: readonly string[]): Promise<number> {
  let found = 0;
  for (let at = 0; at < ids.length; at += 1_000) {
    const keys = ids.slice(at, at + 1_000).map((id) => `celery-task-meta-${id}`);
    found += await stage.redis.exists(...keys);
  }
  return found;
}
