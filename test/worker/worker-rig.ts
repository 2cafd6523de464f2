import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import type { Test } from 'tap';
import { resultKey } from '../../lua/keys.ts';
import type { WorkerOptions } from '../../worker/config.ts';
import { Worker } from '../../worker/worker.ts';
import { eventually } from '../support/eventually.ts';
import type { RedisServer } from '../support/redis-server.ts';

export type Line = Record<string, unknown>;

export interface Rig {
  readonly worker: Worker;
  /** What it has logged so far. */
  readonly lines: Line[];
}

/** A worker in this process, stopped at the end of the test. */
export async function startRig(t: Test, server: RedisServer, options: Partial<WorkerOptions> = {}): Promise<Rig> {
  const lines: Line[] = [];
  const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const worker = new Worker({ redis: server.url, hostname: 'test@here', ...options }, log);
  t.teardown(() => worker.stopNow());
  await worker.start();
  return { worker, lines };
}

/** The result record of a task once it is in one of these states; default: has ended. */
export async function recordIn(
  redis: Redis,
  id: string,
  ...states: readonly string[]
): Promise<Record<string, unknown>> {
  const wanted = states.length === 0 ? ['SUCCESS', 'FAILURE', 'REVOKED'] : states;
  return eventually(async () => {
    const text = await redis.get(resultKey(id));
    assert.ok(text !== null, `no record of ${id} yet`);
    const record = JSON.parse(text) as Record<string, unknown>;
    assert.ok(wanted.includes(String(record.status)), `${id} is ${String(record.status)}`);
    return record;
  });
}
