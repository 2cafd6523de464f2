import type { Redis } from 'ioredis';
import { bindingKey } from '../lua/pidbox.ts';
import { type ControlReplies, PidboxClient } from '../lua/pidbox-client.ts';
import { type LogicalClock, PIDBOX } from '../protocol/control-message.ts';
import { messageOf } from '../protocol/errors.ts';
import type { Json } from '../protocol/json.ts';
import type { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import { revokedBy } from './control/arguments.ts';

/** How long the first answer, and each further one, is waited for, ms, as Celery does (celery/worker/consumer/mingle.py). */
const TIMEOUT_MS = 1_000;

export interface MingleOptions {
  readonly redis: Redis;
  /** The worker's own name. */
  readonly hostname: string;
  readonly clock: LogicalClock;
  readonly revoked: RevokedTasks;
  readonly log: Log;
  nowMs(): number;
}

/**
 * Learns from all other workers which tasks are revoked, tells them what this one knows, and takes over the latest logical
 * time. Ends as soon as every worker that is bound has answered, at once where nobody else listens, and a second after
 * the last answer otherwise. Never fails: a worker that cannot be asked is none to learn from.
 */
export async function mingle({ redis, hostname, clock, revoked, log, nowMs }: MingleOptions): Promise<void> {
  const client = new PidboxClient({ redis, clock, nowMs });
  let bound: number | null = null;
  const others = (replies: ControlReplies) => replies.filter(([node]) => node !== hostname);
  try {
    const replies = await client.call({
      method: 'hello',
      // The ids alone: what time it is on another machine's monotonic clock tells nobody anything.
      arguments: { from_node: hostname, revoked: [...revoked.entries()].map(([id]) => id) },
      destination: null,
      timeoutMs: TIMEOUT_MS,
      isEnough: async (replies, hearers) => {
        // Beat nodes listen too, and answer nobody; who is bound does, or died without taking its name away.
        bound ??= await redis.scard(bindingKey(PIDBOX.exchange));
        return replies.length >= Math.min(hearers, bound);
      },
    });
    const answers = others(replies);
    for (const [, reply] of answers) learn(reply, clock, revoked);
    log.info({ event: 'mingle', nodes: answers.map(([node]) => node), revoked: revoked.size });
  } catch (error) {
    log.warn({ event: 'mingle_failed', reason: messageOf(error) });
  }
}

function learn(reply: Json, clock: LogicalClock, revoked: RevokedTasks): void {
  if (typeof reply !== 'object' || reply === null || Array.isArray(reply)) return;
  const { clock: time, revoked: tasks } = reply as { readonly [key: string]: Json };
  if (typeof time === 'number') clock.adjust(time);
  const ids = revokedBy(tasks);
  if (ids.length > 0) revoked.add(ids, monotonicMs());
}
