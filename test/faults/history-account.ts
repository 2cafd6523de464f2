import type { Redis } from 'ioredis';
import { shardKeys } from '../../lua/keys.ts';
import { type Era, isLoop, type Page } from './history-book.ts';
import { SHARDS } from './history-fleet.ts';
import { duesOf } from './history-specs.ts';

/** A message that was sent, as its header tells. */
export interface Sent {
  readonly id: string;
  readonly schedule: string;
  readonly due: number;
  /** 0: a regular run. */
  readonly run: number;
}

/** What a task wrote down when it was entered or left. */
export interface LedgerLine extends Sent {
  readonly is: 'start' | 'end';
  readonly attempt: number;
  readonly pid: number;
  readonly aborted: boolean;
}

/** From here on this worker process is dead, or may have been taken for dead. */
export interface WorkerLine {
  readonly is: 'lost';
  readonly pid: number;
}

/** Messages of a queue that nobody takes from, oldest first. */
export async function readQueue(redis: Redis, queue: string): Promise<Sent[]> {
  const raw = await redis.lrange(queue, 0, -1);
  return raw.reverse().map((text) => {
    const { headers } = JSON.parse(text);
    return { id: headers.id, ...headers.ringbeat };
  });
}

export async function readLedger(redis: Redis, from = 0): Promise<(LedgerLine | WorkerLine)[]> {
  return (await redis.lrange('ledger', from, -1)).map((line) => JSON.parse(line));
}

/** `<schedule>@<due>` of every run that overlap kept from being sent. */
export async function readSkipped(redis: Redis): Promise<Set<string>> {
  const skipped = new Set<string>();
  for (let shard = 0; shard < SHARDS; shard++) {
    for (const [, [, items = '']] of await redis.xrange(shardKeys('rb', shard).occurrences, '-', '+')) {
      for (const item of items.split('\x1e')) {
        const [id, kind, due] = item.split('\x1f');
        if (kind === 's') skipped.add(`${id}@${due}`);
      }
    }
  }
  return skipped;
}

interface Expected {
  readonly must: ReadonlySet<number>;
  /** `must` among them. */
  readonly may: ReadonlySet<number>;
}

function expected({ eras, maybe }: Page, untilMs: number): Expected {
  const must = new Set<number>();
  const may = new Set<number>();
  for (const { spec, originMs, mayFromMs, mustFromMs, mustUntilMs, mayUntilMs } of eras as readonly Era[]) {
    for (const due of duesOf(spec, originMs, mayFromMs, Math.min(mayUntilMs, untilMs))) {
      may.add(due);
      if (due >= mustFromMs && due < mustUntilMs && !maybe.has(due)) must.add(due);
    }
  }
  return { must, may };
}

/** What of a page was sent that should not have been, or was not sent; nothing when all is right. */
export function problemsOfSent(
  page: Page,
  sent: readonly Sent[],
  skipped: ReadonlySet<string>,
  untilMs: number,
): string[] {
  const problems: string[] = [];
  const say = (text: string) => problems.push(`${page.id}: ${text}`);
  const ids = new Set<string>();
  for (const { id, due, run } of sent) {
    if (ids.has(id)) say(`${id} (due ${due}, run ${run}) was sent twice`);
    ids.add(id);
  }
  problems.push(...problemsOfExtras(page, sent, ids));
  if (isLoop(page.spec)) return problems;

  const { must, may } = expected(page, untilMs);
  const regular = sent.filter(({ run }) => run === 0).map(({ due }) => due);
  const dues = new Set(regular);
  if (dues.size < regular.length) say('a due time was sent twice');
  for (const due of dues) if (!may.has(due)) say(`${due} was sent, and is none of its times`);
  const isSkipped = (due: number) => skipped.has(`${page.id}@${due}`);
  for (const due of dues) if (isSkipped(due)) say(`${due} was sent, and skipped as well`);
  const missing = [...must].filter((due) => !dues.has(due) && !isSkipped(due)).sort((a, b) => a - b);
  const mostRuns = page.spec.max_runs;
  if (mostRuns !== null) {
    if (dues.size > mostRuns) say(`${dues.size} runs were sent, of ${mostRuns}`);
    if (missing.length > page.dropped && dues.size < mostRuns)
      say(`${dues.size} runs were sent, of ${mostRuns}, ${page.dropped} were dropped, and not sent: ${missing}`);
  } else if (page.spec.misfire.policy === 'all') {
    if (missing.length > 0) say(`not sent: ${missing}`);
    if (page.dropped > 0) say(`${page.dropped} were dropped`);
  } else if (dues.size + page.dropped < must.size || dues.size + page.dropped > may.size) {
    say(
      `${dues.size} were sent and ${page.dropped} dropped, of at least ${must.size} and at most ${may.size}; not sent: ${missing}`,
    );
  }
  return problems;
}

function problemsOfExtras(page: Page, sent: readonly Sent[], ids: ReadonlySet<string>): string[] {
  const problems: string[] = [];
  const say = (text: string) => problems.push(`${page.id}: ${text}`);
  for (const [id, must] of page.triggered) if (must && !ids.has(id)) say(`triggered run ${id} was not sent`);
  const extras = sent.filter(({ id, run }) => run > 0 && !page.triggered.has(id));
  const counts = new Map<number, number>();
  for (const { due } of extras) counts.set(due, (counts.get(due) ?? 0) + 1);
  let missing = 0;
  let surplus = 0;
  for (const due of new Set([...counts.keys(), ...page.backfilled.keys()])) {
    const more = (counts.get(due) ?? 0) - (page.backfilled.get(due) ?? 0);
    if (more > 0) surplus += more;
    else missing -= more;
  }
  if (missing > page.cancelledBackfills)
    say(`${missing} made-up runs were not sent, ${page.cancelledBackfills} were cancelled`);
  if (surplus > page.unknownExtras)
    say(`${surplus} extra runs were sent that nobody asked for, ${page.unknownExtras} in doubt`);
  return problems;
}

/** The first start of every run that the workers entered, as messages that were sent. */
export function sentOfLedger(lines: readonly (LedgerLine | WorkerLine)[]): Sent[] {
  const first = new Map<string, Sent>();
  for (const line of lines) if (line.is === 'start' && !first.has(line.id)) first.set(line.id, line);
  return [...first.values()];
}

/**
 * Runs that began beside another of the same schedule, and attempts that began without a reason. A run of a schedule that was
 * deleted goes on as an ordinary message, so another of the same id may begin beside it.
 */
export function problemsOfOverlap(lines: readonly (LedgerLine | WorkerLine)[], deleted: ReadonlySet<string>): string[] {
  const problems: string[] = [];
  const running = new Map<string, LedgerLine[]>();
  const attempts = new Map<string, LedgerLine[]>();
  const lost = new Set<number>();
  for (const line of lines) {
    if (line.is === 'lost') {
      lost.add(line.pid);
      continue;
    }
    const beside = running.get(line.schedule) ?? [];
    if (line.is === 'end') {
      const rest = beside.filter(({ id, attempt }) => id !== line.id || attempt !== line.attempt);
      running.set(line.schedule, rest);
      continue;
    }
    const isExcused = ({ id, pid }: LedgerLine) =>
      lost.has(pid) || (deleted.has(line.schedule) && id.slice(0, GENERATION) !== line.id.slice(0, GENERATION));
    const earlier = attempts.get(line.id) ?? [];
    for (const other of earlier)
      if (!isExcused(other)) problems.push(`${line.schedule}: ${describe(line)} began after ${describe(other)}`);
    attempts.set(line.id, [...earlier, line]);
    for (const other of beside)
      if (!isExcused(other)) problems.push(`${line.schedule}: ${describe(line)} began beside ${describe(other)}`);
    running.set(line.schedule, [...beside, line]);
  }
  return problems;
}

/** Characters of a task id that tell the generation of its schedule. */
const GENERATION = 18;

function describe({ id, due, run, attempt, pid }: LedgerLine): string {
  return `${id} (due ${due}, run ${run}, attempt ${attempt}, process ${pid})`;
}
