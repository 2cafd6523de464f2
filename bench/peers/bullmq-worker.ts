/** A BullMQ worker in a process of its own, whose job does nothing. Started with `fork`; waits to be told `run`. */
import { Worker } from 'bullmq';
import { answerParent } from '../ask.ts';

export type BullmqQuestion = 'look' | 'run';

export interface BullmqReport {
  readonly isReady: boolean;
  /** Jobs that its function has been entered for. */
  readonly completed: number;
}

/** BullMQ's guide to parallelism and concurrency calls 100 to 300 standard; jobs that do nothing are slower with more. */
const CONCURRENCY = 100;

const { connection, queue }: { connection: { host: string; port: number }; queue: string } = JSON.parse(
  process.argv[2] ?? '',
);
let isReady = false;
let completed = 0;

const worker = new Worker(
  queue,
  async () => {
    completed += 1;
  },
  { connection, concurrency: CONCURRENCY, autorun: false },
);
worker.waitUntilReady().then(() => {
  isReady = true;
});

answerParent<BullmqQuestion, BullmqReport>((question) => {
  if (question === 'run') void worker.run();
  return { isReady, completed };
});
process.on('disconnect', () => process.exit());
