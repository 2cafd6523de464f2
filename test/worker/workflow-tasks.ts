// Tasks of workflows, as those of the Celery application in test/support/celery.ts.
import { Redis } from 'ioredis';
import { task } from '../../client/task.ts';
import { Ignore } from '../../protocol/task-errors.ts';

const redis = new Redis(process.env.RINGBEAT_TEST_REDIS ?? '');
redis.on('error', () => {});

task('add', (_ctx, x: number, y: number) => x + y);
task('tsum', (_ctx, numbers: readonly number[]) => numbers.reduce((sum, number) => sum + number, 0));
task('echo', async (_ctx, value: unknown) => {
  await redis.rpush('echoed', JSON.stringify(value));
  return value;
});
task('boom', (_ctx, message: string) => {
  throw Object.assign(new Error(message), { name: 'ValueError' });
});
task('failed', async (_ctx, taskId: string) => {
  await redis.rpush('failed', taskId);
});
task('replaced', (ctx, x: number) => ctx.replace({ task: 'add', args: [x, 100], kwargs: {}, options: {} }));
task('replaced by a group', (ctx, x: number) =>
  ctx.replace({
    task: 'celery.group',
    args: [],
    kwargs: { tasks: [1, 2].map((y) => ({ task: 'add', args: [x, y], kwargs: {}, options: {} })) },
    options: {},
    subtask_type: 'group',
  }),
);
task('grow', (ctx, x: number) => {
  ctx.addToChord({ task: 'add', args: [x, 1], kwargs: {}, options: {} });
  return x;
});
const child = task('child', async ({ rootId }) => {
  await redis.rpush('roots', String(rootId));
});
task('parent', async (ctx) => {
  await Promise.all([child.delay(), child.s().delay()]);
  await ctx.send(child.s());
});
task('parent that ends badly', async (ctx, how: string) => {
  await child.delay();
  await ctx.send(child.s());
  if (how === 'state') {
    await ctx.updateState('HALFWAY', 0.5);
    throw new Ignore();
  }
  if (how === 'unwritable') return () => how;
  if (how === 'retry') ctx.retry({ countdown: 3_600 });
  throw new Error(how);
});
