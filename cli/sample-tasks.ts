import { setTimeout as sleep } from 'node:timers/promises';
import { task } from '../client/task.ts';

/** What the schedules of `ringbeat dev --schedules` call: a check that has nothing to do. */
task('monitor.check', async (_ctx, id: number) => id);

task('sample.add', async (_ctx, x: number, y: number) => x + y);

/** Takes this many seconds. */
task('sample.sleep', async (ctx, seconds: number) => {
  await sleep(seconds * 1_000, undefined, { signal: ctx.signal });
  return seconds;
});

task('sample.fail', async (_ctx, message: string) => {
  throw new Error(message);
});
