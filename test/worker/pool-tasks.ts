// Tasks for the tests of pools. Those that have to be seen while they run note it in the Redis list `ran`, if there is one.
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, threadId } from 'node:worker_threads';
import { Redis } from 'ioredis';
import { task } from '../../client/task.ts';

const url = process.env.RINGBEAT_TEST_REDIS;
const redis = url === undefined ? null : new Redis(url);
redis?.on('error', () => {});

/** Where a task ran. */
const here = () => `${process.pid}/${isMainThread ? 0 : threadId}`;

function compute(ms: number): void {
  const untilMs = performance.now() + ms;
  while (performance.now() < untilMs);
}

task('add', (_ctx, x: number, y: number) => x + y);
task('where', here);
task('compute', (_ctx, ms: number) => {
  const fromMs = Date.now();
  compute(ms);
  return { where: here(), fromMs, toMs: Date.now() };
});
task('note', async (ctx) => {
  await redis?.rpush('ran', ctx.id);
  return here();
});
/** Ends once the Redis key `go` exists. */
task('hold', async (ctx) => {
  await redis?.rpush('ran', ctx.id);
  while ((await redis?.exists('go')) === 0) await sleep(10);
  return here();
});
task('hang', async () => {
  await redis?.rpush('ran', process.pid);
  for (;;) compute(1_000);
});
task('exit', (_ctx, code: number) => process.exit(code));
task('die', () => process.kill(process.pid, 'SIGKILL'));
task('throw-later', async () => {
  setTimeout(() => {
    throw new Error('nobody catches this');
  });
  await sleep(60_000);
});
task('wait-for-signal', async ({ signal }) => {
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve));
  throw signal.reason;
});
task('unwritable', () => () => 1);
const kept: Buffer[] = [];
task('grow', (_ctx, mib: number) => {
  kept.push(Buffer.alloc(mib * 1_048_576, 1));
  return here();
});
task('speak', async (ctx, line: string) => {
  ctx.logger.info({ event: 'spoken', line });
  writeSync(2, `${JSON.stringify({ event: 'written', line })}\n`);
  await ctx.updateState('PROGRESS', { line });
});
task('refused', (ctx) => ctx.updateState('REFUSED'));
