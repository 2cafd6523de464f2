import type { ResultNode } from '../protocol/canvas-freeze.ts';
import type { Client, TaskHandle, TaskResult } from './client.ts';

/** A group that was sent, as Celery's GroupResult: its result is the list of its members' results, in order. */
export interface GroupHandle<Results extends readonly unknown[] = readonly unknown[]> extends TaskHandle<Results> {
  readonly members: readonly TaskHandle<unknown>[];
}

/** Members that are waited for at once. */
const LANES = 100;

/** Handles on what a signature comes to: a task's, or of a group one with its members'. */
export function handleOf(client: Client, node: ResultNode): TaskHandle<unknown> {
  const parent = node.parent === null ? null : handleOf(client, node.parent);
  if (node.members === null) return { ...client.handle<unknown>(node.id), parent };
  const members = node.members.map((member) => handleOf(client, member));
  const group: GroupHandle = {
    id: node.id,
    parent,
    members,
    result: () => groupResult(node.id, members),
    get: (timeout) => resultsOf(members, timeout),
    revoke: () => client.revoke(...leavesOf(node)),
  };
  return group;
}

/** Throws what the first of them throws. */
async function resultsOf(members: readonly TaskHandle<unknown>[], timeout: number): Promise<unknown[]> {
  const untilMs = performance.now() + timeout * 1_000;
  const results: unknown[] = new Array(members.length).fill(null);
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let at = next++; at < members.length; at = next++) {
      try {
        results[at] = await members[at]?.get(Math.max(0, untilMs - performance.now()) / 1_000);
      } catch (error) {
        next = members.length;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(LANES, members.length) }, lane));
  return results;
}

/** What is known of a group: SUCCESS when all have succeeded, FAILURE as soon as one has not, PENDING until then. */
async function groupResult(
  taskId: string,
  members: readonly TaskHandle<unknown>[],
): Promise<TaskResult<readonly unknown[]>> {
  const known: TaskResult<unknown>[] = [];
  for (let from = 0; from < members.length; from += LANES)
    known.push(...(await Promise.all(members.slice(from, from + LANES).map((member) => member.result()))));
  const failed = known.find(({ state }) => state === 'FAILURE' || state === 'REVOKED');
  const isDone = known.every(({ state }) => state === 'SUCCESS');
  const ends = known.flatMap(({ doneAt }) => (doneAt === null ? [] : [doneAt.getTime()]));
  return {
    taskId,
    state: failed === undefined ? (isDone ? 'SUCCESS' : 'PENDING') : 'FAILURE',
    result: isDone ? known.map(({ result }) => result) : null,
    traceback: failed?.traceback ?? null,
    doneAt: isDone && ends.length > 0 ? new Date(Math.max(...ends)) : null,
    eta: null,
  };
}

function leavesOf({ id, members }: ResultNode): string[] {
  return members === null ? [id] : members.flatMap(leavesOf);
}
