// Tasks whose hooks and signals write down, in the file RINGBEAT_TEST_TOLD, what was told where: [process/thread, what, task id].
import { appendFileSync } from 'node:fs';
import { isMainThread, threadId } from 'node:worker_threads';
import { signals } from '../../client/signals.ts';
import { type TaskContext, type TaskOptions, task } from '../../client/task.ts';

const file = process.env.RINGBEAT_TEST_TOLD ?? '';

function tell(what: string, id: string | null): void {
  appendFileSync(file, `${JSON.stringify([`${process.pid}/${isMainThread ? 0 : threadId}`, what, id])}\n`);
}

const OF_TASKS = ['taskPrerun', 'taskPostrun', 'taskSuccess', 'taskFailure', 'taskRetry'] as const;
signals.workerProcessInit.connect(() => tell('workerProcessInit', null));
for (const name of OF_TASKS) signals[name].connect(({ taskId }: { readonly taskId: string }) => tell(name, taskId));

const hooks: TaskOptions = {
  beforeStart: ({ id }) => tell('beforeStart', id),
  onSuccess: ({ id }) => tell('onSuccess', id),
  onFailure: ({ id }, error) => tell(`onFailure ${error instanceof Error ? error.name : ''}`, id),
  onRetry: ({ id }) => tell('onRetry', id),
  afterReturn: ({ id }, state) => tell(`afterReturn ${state}`, id),
};

function told(ctx: TaskContext, how: string): string {
  tell('run', ctx.id);
  if (how === 'throw') throw new TypeError('no');
  if (how === 'retry' && ctx.retries === 0) ctx.retry({ countdown: 0 });
  if (how === 'exit') process.exit(1);
  while (how === 'hang');
  return how;
}

task('told', told, hooks);
task('told-limited', told, { ...hooks, timeLimit: 0.5 });
