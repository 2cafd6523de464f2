// Tasks whose effects are counted in files outside of Redis (worker-ledger.ts); of the same names as those of the Celery test application.
import { setTimeout as sleep } from 'node:timers/promises';
import { type TaskContext, task } from '../../client/task.ts';
import { isOpen, note, type Plan } from './worker-ledger.ts';

async function effect(ctx: TaskContext, folder: string, plan: Plan = {}): Promise<string> {
  note(folder, { is: 'entered', id: ctx.id, pid: process.pid, retries: ctx.retries });
  if (plan.dies !== undefined && !isOpen(folder, 'cured')) die(plan.dies);
  while (plan.gate !== undefined && !isOpen(folder, plan.gate)) {
    await sleep(10);
    if (plan.extends === true) await ctx.extendLease();
  }
  if (plan.computes !== undefined) compute(plan.computes);
  if (plan.seconds !== undefined) await sleep(plan.seconds * 1_000);
  note(folder, { is: 'finished', id: ctx.id, pid: process.pid, retries: ctx.retries });
  if (ctx.retries < (plan.retries ?? 0)) ctx.retry({ countdown: plan.countdown ?? 0.05, maxRetries: null });
  return ctx.id;
}

/** Keeps the thread busy for so many seconds. */
function compute(seconds: number): void {
  const endsAtMs = performance.now() + seconds * 1_000;
  while (performance.now() < endsAtMs);
}

function die(how: Plan['dies']): void {
  if (how === 'exit') process.exit(1);
  if (how === 'abort') process.abort();
  process.kill(process.pid, 'SIGKILL');
}

const RATE_LIMIT = process.env.RINGBEAT_TEST_RATE_LIMIT ?? null;

task('effect', effect);
task('effect-late', effect, { acksLate: true });
task('effect-put-back', effect, { acksLate: true, rejectOnWorkerLost: true });
task('effect-limited', effect, { rateLimit: RATE_LIMIT });
task('effect-limited-late', effect, { acksLate: true, rateLimit: RATE_LIMIT });
