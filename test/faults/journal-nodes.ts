import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually, until } from '../support/eventually.ts';
import type { LogLine, Spawned, SpawnedBeat } from '../support/processes.ts';
import { ask, put, readiness } from './ledger.ts';

/** Options of a node with a journal in this folder. */
export function journalIn(dir: string): string[] {
  return ['--journal-dir', dir];
}

/** Where the journal of namespace `rb` lies. */
export function folderIn(dir: string): string {
  return join(dir, 'rb.journal');
}

/** Waits until a node's journal has everything that was registered up to now: a schedule of this id is put last. */
export async function isCopied(beat: SpawnedBeat, dirs: readonly string[], id: string): Promise<void> {
  await until(
    () => dirs.every((dir) => readdirSync(folderIn(dir)).some((name) => /^snapshot-\d+$/.test(name))),
    'every journal has a snapshot',
  );
  await put(beat, id, { schedule: { every: 3_600 }, enabled: false });
  await until(
    () =>
      dirs.every((dir) =>
        readdirSync(folderIn(dir))
          .filter((name) => /^(changes|snapshot)-\d+$/.test(name))
          .some((name) => readFileSync(join(folderIn(dir), name)).includes(`${id}\x1e`)),
      ),
    `${id} is in the journals`,
  );
}

/** Waits until every node is ready again. */
export async function areReady(beats: readonly SpawnedBeat[]): Promise<void> {
  await eventually(
    async () =>
      assert.deepEqual(
        await Promise.all(beats.map(readiness)),
        beats.map(() => 200),
      ),
    { everyMs: 50 },
  );
}

/** A schedule as the API shows it. */
export interface Shown {
  readonly id: string;
  readonly state: string;
  readonly next_run_at: string | null;
  readonly [field: string]: unknown;
}

/** Every schedule, by id, without what tells of its last run. */
export async function schedulesOf(beat: SpawnedBeat): Promise<Map<string, Shown>> {
  const found = new Map<string, Shown>();
  let cursor: string | null = null;
  do {
    const page: { schedules: Shown[]; cursor: string | null } = await ask(
      beat,
      `/v1/schedules?limit=1000${cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`}`,
    );
    for (const { last_run_at, last_lateness_ms, owner, ...schedule } of page.schedules)
      found.set(schedule.id, schedule);
    cursor = page.cursor;
  } while (cursor !== null);
  return found;
}

/** Every line of these processes with this event. */
export function linesOf(processes: readonly Spawned[], event: string): LogLine[] {
  return processes.flatMap(({ log }) => log.filter((line) => line.event === event));
}
