// Tasks of the workers that a random history is played with. What they do is told to a Redis to which nothing happens.
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type TaskContext, task } from '../../client/task.ts';

const ledger = new Redis(process.env.RINGBEAT_TEST_LEDGER ?? '');
ledger.on('error', () => {});

async function note(ctx: TaskContext, is: 'start' | 'end'): Promise<void> {
  const { schedule = '', due = 0, run = 0, attempt = 0 } = ctx.schedule ?? {};
  const line = { is, id: ctx.id, schedule, due, run, attempt, pid: process.pid, aborted: ctx.signal.aborted };
  await ledger.rpush('ledger', JSON.stringify(line));
}

/** Nothing random: what a run does follows from its id, so that another attempt does the same. */
function oneIn(count: number, ctx: TaskContext): boolean {
  return Number.parseInt(ctx.id.slice(-5), 16) % count === 0;
}

/** Takes so long; its moods are those of loops, and change nothing elsewhere. */
async function work(ctx: TaskContext, seconds: number, mood: string): Promise<unknown> {
  await note(ctx, 'start');
  await sleep(seconds * 1_000);
  await note(ctx, 'end');
  if (mood === 'fails' && oneIn(3, ctx)) throw new Error('as this run was to');
  if (mood === 'stops' && oneIn(8, ctx)) return { ringbeat: { stop: true } };
  if (mood === 'returns') return { ringbeat: { after: oneIn(2, ctx) ? 0.1 : 0.6 } };
  if (mood === 'sets') ctx.loop.runAgainIn(oneIn(2, ctx) ? 0.1 : 0.6);
  return null;
}

task('work', work);
task('work-late', work, { acksLate: true });
