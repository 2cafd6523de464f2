import type { Redis } from 'ioredis';
import { resultKey } from './keys.ts';
import { defineScript } from './script.ts';

const script = defineScript('store-states');

export interface TaskState {
  readonly taskId: string;
  /** See `stateRecord` in protocol/result.ts. */
  readonly record: string;
}

/** Stores and publishes 1 to 1,000 states of tasks, save where a success is stored. They are kept for so many s; 0: for ever. */
export async function storeStates(redis: Redis, resultExpiresSec: number, states: readonly TaskState[]): Promise<void> {
  const keys = states.map(({ taskId }) => resultKey(taskId));
  await script.run(redis, keys, [resultExpiresSec, ...states.map(({ record }) => record)]);
}
