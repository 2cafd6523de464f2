import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Queue } from 'bullmq';
import { askChild } from '../ask.ts';
import { awaitValue } from '../processes.ts';
import type { Stage } from '../stage.ts';
import type { BullmqQuestion, BullmqReport } from './bullmq-worker.ts';

const WORKER = fileURLToPath(new URL('./bullmq-worker.js', import.meta.url));
const QUEUE = 'bench';
/** Jobs that one `addBulk` carries. */
const BATCH = 1_000;
/** Pause between two looks, ms. */
const LOOK_MS = 2;
/** How long one drain may take, ms. */
const DEADLINE_MS = 300_000;

/** Jobs per second: a BullMQ worker, which runs before the queue is let go, drains jobs that do nothing and are then removed. */
export async function bullmqRate(stage: Stage, jobs: number): Promise<number> {
  const connection = { host: '127.0.0.1', port: stage.server.port };
  const queue = new Queue(QUEUE, { connection });
  const child = fork(WORKER, [JSON.stringify({ connection, queue: QUEUE })], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const stop = async () => {
    child.kill('SIGKILL');
    await ended;
  };
  stage.onClose(stop);
  const ask = askChild<BullmqQuestion, BullmqReport>(child, 'BullMQ worker');
  try {
    await awaitValue('the BullMQ worker being ready', async () => ((await ask('look')).isReady ? true : null));
    for (let added = 0; added < jobs; added += BATCH) {
      const batch = Array.from({ length: Math.min(BATCH, jobs - added) }, () => ({
        name: 'noop',
        data: { args: [0], kwargs: {} },
        opts: { removeOnComplete: true },
      }));
      await queue.addBulk(batch);
    }
    const startedAtMs = performance.now();
    await ask('run');
    await awaitValue(
      'BullMQ draining its queue',
      async () => {
        const replies = await stage.redis.pipeline().llen(`bull:${QUEUE}:wait`).llen(`bull:${QUEUE}:active`).exec();
        return (replies ?? []).every(([, length]) => length === 0) ? true : null;
      },
      DEADLINE_MS,
      LOOK_MS,
    );
    const seconds = (performance.now() - startedAtMs) / 1_000;
    const { completed } = await ask('look');
    if (completed !== jobs) throw new Error(`BullMQ ran ${completed} of ${jobs} jobs.`);
    return jobs / seconds;
  } finally {
    await queue.close();
    await stop();
    await stage.redis.flushall();
  }
}
