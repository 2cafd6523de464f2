// The examples of Celery's documentation (docs/userguide/tasks.rst, workers.rst) as tasks of ours; in Python: documented.py.
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { Ignore, Reject, task } from '../../index.ts';

const redis = new Redis(process.env.RINGBEAT_TEST_REDIS ?? '');
redis.on('error', () => {});

class FailWhaleError extends Error {
  override readonly name = 'FailWhaleError';
}

task('send_twitter_status', (ctx, failures: number) => {
  try {
    if (ctx.retries < failures) throw new FailWhaleError('over capacity');
    return ctx.retries;
  } catch (exc) {
    return ctx.retry({ exc, countdown: 0 });
  }
});

task(
  'custom_delay',
  (ctx, x: number, y: number) => {
    try {
      if (ctx.retries === 0) throw new FailWhaleError('something raising');
      return x + y;
    } catch (exc) {
      return ctx.retry({ exc, countdown: 0 });
    }
  },
  { defaultRetryDelay: 30 * 60 },
);

task(
  'refresh_timeline',
  (ctx, failures: number) => {
    if (ctx.retries < failures) throw new FailWhaleError('over capacity');
    return ctx.retries;
  },
  { autoretryFor: [FailWhaleError], maxRetries: 5, defaultRetryDelay: 0 },
);

task(
  'backs_off',
  (ctx) => {
    if (ctx.retries < 1) throw new FailWhaleError('over capacity');
    return ctx.retries;
  },
  { autoretryFor: [FailWhaleError], retryBackoff: true, retryBackoffMax: 1, retryJitter: false },
);

task('gives_up', (ctx) => ctx.retry({ countdown: 0, maxRetries: 1 }));

task('mytask', async (ctx) => {
  try {
    await sleep(60_000, null, { signal: ctx.signal });
    return 'done';
  } catch (error) {
    if (!ctx.signal.aborted) throw error;
    return 'cleaned up in a hurry';
  }
});

task('crawl_the_web', (ctx, seconds: number) => sleep(seconds * 1_000, 'done', { signal: ctx.signal }), {
  trackStarted: true,
});

task('upload_files', async (ctx, filenames: readonly string[]) => {
  for (const [i] of filenames.entries()) {
    await ctx.updateState('PROGRESS', { current: i, total: filenames.length });
    await redis.blpop(`go:${ctx.id}`, 30);
  }
  return 'uploaded';
});

task('get_tweets', async (ctx) => {
  await ctx.updateState('SUCCESS', ['tweet']);
  throw new Ignore();
});

task(
  'render_scene',
  () => {
    throw new Reject('out of memory', { requeue: false });
  },
  { acksLate: true },
);

task(
  'requeues',
  (ctx) => {
    if (ctx.deliveryInfo.redelivered !== true) throw new Reject('no reason', { requeue: true });
    return 'received two times';
  },
  { acksLate: true },
);

task('limited', () => Date.now() / 1_000, { rateLimit: '2/s' });
