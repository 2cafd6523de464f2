import { randomUUID } from 'node:crypto';
import type { Stage } from './stage.ts';

/** Messages that one LPUSH carries. */
const BATCH = 1_000;

export interface TaskMessages {
  /** A message as a beat node dispatches it (`dispatchedMessage`). */
  readonly sample: string;
  readonly task: string;
  readonly results: boolean;
  readonly messages: number;
}

/** Puts messages into the list `key` that are like the sample but for task, id and delivery tag; gives their ids. */
export async function fillList(stage: Stage, key: string, wanted: TaskMessages): Promise<string[]> {
  const { sample, task, results, messages } = wanted;
  const id = /"id": "([^"]+)"/.exec(sample)?.[1];
  const tag = /"delivery_tag": "([^"]+)"/.exec(sample)?.[1];
  if (id === undefined || tag === undefined) throw new Error(`No message: ${sample}`);
  const pattern = sample
    .replace('"bench.check"', `"${task}"`)
    .replace('"ignore_result": true', `"ignore_result": ${!results}`);
  const ids: string[] = [];
  while (ids.length < messages) {
    const batch = Array.from({ length: Math.min(BATCH, messages - ids.length) }, () => {
      const own = randomUUID();
      ids.push(own);
      return pattern.replaceAll(id, own).replace(tag, randomUUID());
    });
    await stage.redis.lpush(key, ...batch);
  }
  return ids;
}
