// Tasks of the workers whose loops are looked at. What they do is told in the Redis list `ledger`.
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type TaskContext, task } from '../../client/task.ts';

const redis = new Redis(process.env.RINGBEAT_TEST_LEDGER ?? '');
redis.on('error', () => {});

async function note(ctx: TaskContext, is: 'start' | 'end'): Promise<void> {
  const { schedule = '', due = 0, run = 0, attempt = 0 } = ctx.schedule ?? {};
  const line = { is, id: ctx.id, schedule, due, run, attempt, pid: process.pid, aborted: ctx.signal.aborted };
  await redis.rpush('ledger', JSON.stringify(line));
}

task('tick', async (ctx, seconds: number) => {
  await note(ctx, 'start');
  await sleep(seconds * 1_000);
  await note(ctx, 'end');
});

/** Ends when its signal says so, or once the Redis key `go` exists. */
task('hold', async (ctx) => {
  await note(ctx, 'start');
  while (!ctx.signal.aborted && (await redis.exists('go')) === 0) await sleep(20);
  await note(ctx, 'end');
});

task('return', async (ctx, value: unknown) => {
  await note(ctx, 'start');
  return value;
});

task('set', async (ctx, seconds: number) => {
  await note(ctx, 'start');
  ctx.loop.runAgainIn(seconds);
});

task('stop', async (ctx) => {
  await note(ctx, 'start');
  ctx.loop.stop();
});

/** Fails while the Redis key `bad` exists. */
task('fail', async (ctx) => {
  await note(ctx, 'start');
  if ((await redis.exists('bad')) === 1) throw new Error('as it was to');
});
