import type { Redis } from 'ioredis';
import { RingbeatError } from '../protocol/errors.ts';

/** The first version that has what our scripts use: RPOP with a count, ZMSCORE, SMISMEMBER. */
const NEEDED = [6, 2] as const;

/** Throws REDIS_TOO_OLD. (Valkey tells the Redis version that it is compatible with.) */
export async function requireRedisVersion(redis: Redis): Promise<void> {
  const version = /^redis_version:(\S+)/m.exec(await redis.info('server'))?.[1] ?? '';
  if (!isNewEnough(version)) throw new RingbeatError('REDIS_TOO_OLD', { version });
}

/** Whether a version such as `7.0.15` will do; one that cannot be read is believed to. */
export function isNewEnough(version: string): boolean {
  const [, major, minor] = /^(\d+)(?:\.(\d+))?/.exec(version) ?? [];
  if (major === undefined) return true;
  return Number(major) > NEEDED[0] || (Number(major) === NEEDED[0] && Number(minor ?? 0) >= NEEDED[1]);
}
