// Tasks of the worker processes that tests start. What they did is in the Redis list `ran`.
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type TaskContext, task } from '../../client/task.ts';

const redis = new Redis(process.env.RINGBEAT_TEST_REDIS ?? '');
redis.on('error', () => {});

async function note(ctx: TaskContext, value?: unknown): Promise<unknown> {
  await redis.rpush('ran', ctx.id);
  return value;
}

/** Notes that it has begun, and ends once the Redis key `go` exists. */
async function hold(ctx: TaskContext): Promise<string> {
  await redis.rpush('ran', ctx.id);
  while ((await redis.exists('go')) === 0) await sleep(10);
  return 'done';
}

task('note', note);
task('note-late', note, { acksLate: true });
task('hold', hold);
task('hold-late', hold, { acksLate: true });
task('ledger', note);
task('slow_late', note, { acksLate: true });
task('add', (_ctx, x: number, y: number) => x + y);
task('boom', (_ctx, message: string) => {
  throw Object.assign(new Error(message), { name: 'ValueError' });
});
task('odd', () => {
  throw Object.assign(new Error('strange'), { name: 'OddError' });
});
task('stray', () => {
  void Promise.reject(new Error('nobody waits for this'));
});
