import type { Redis } from 'ioredis';
import type { Test } from 'tap';
import { type SpawnedBeat, spawnBeat } from '../support/processes.ts';
import { withRedis } from '../support/redis-server.ts';

export async function put(beat: SpawnedBeat, id: string, spec: object): Promise<void> {
  const answer = await fetch(`${beat.api}/v1/schedules/${encodeURIComponent(id)}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(spec),
  });
  if (answer.status !== 201) throw new Error(await answer.text());
}

/** A beat node for which nothing is ever missed, only late. */
export async function setUp(t: Test): Promise<{ url: string; redis: Redis; beat: SpawnedBeat }> {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  return {
    url: server.url,
    redis,
    beat: await spawnBeat(t, server.url, ['--create-at-once', '--misfire-threshold', '600']),
  };
}
