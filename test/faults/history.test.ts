import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { KOMBU, shardKeys } from '../../lua/keys.ts';
import { brokenLaws, strayFlights } from '../lua/laws.ts';
import { chanceOf } from '../support/chance.ts';
import { eventually, until } from '../support/eventually.ts';
import { spawnRingbeat } from '../support/processes.ts';
import {
  problemsOfOverlap,
  problemsOfSent,
  readLedger,
  readQueue,
  readSkipped,
  type Sent,
  sentOfLedger,
} from './history-account.ts';
import { Book, isLoop, redisNow } from './history-book.ts';
import { Fleet, SHARDS } from './history-fleet.ts';
import { SINK, WORK } from './history-specs.ts';

/**
 * A random history, played with real processes: schedules of every kind are registered, changed, paused, triggered and
 * deleted, while beat nodes, workers and Redis are killed, suspended, restarted and made slow, and clocks are wrong. Then it
 * is accounted for. RINGBEAT_HISTORY_SEED picks another history, RINGBEAT_HISTORY_SECONDS a longer one.
 */
const SEED = Number(process.env.RINGBEAT_HISTORY_SEED ?? 20_261_121);
const SECONDS = Number(process.env.RINGBEAT_HISTORY_SECONDS ?? 40);

/** So long is played between two quiet points. */
const ACT_MS = 20_000;
const MOST_SCHEDULES = 40;

const TIMEOUT_MS = (SECONDS * 2 + 180) * 1_000;
t.setTimeout(TIMEOUT_MS);

t.test(
  `a random history of ${SECONDS} s, seed ${SEED}: every run that is due is sent once, no loop is lost or doubled, and nothing is left`,
  { timeout: TIMEOUT_MS },
  async (t) => {
    t.comment(`RINGBEAT_HISTORY_SEED=${SEED} RINGBEAT_HISTORY_SECONDS=${SECONDS}`);
    const chance = chanceOf(SEED);
    const fleet = await Fleet.start(t, chanceOf(SEED + 1));
    const book = new Book(fleet, chance, MOST_SCHEDULES);
    try {
      await book.fill();
      const endsAtMs = performance.now() + SECONDS * 1_000;
      while (performance.now() < endsAtMs) {
        await play(fleet, book, Math.min(ACT_MS, endsAtMs - performance.now()));
        await t.test('at a quiet point', (t) => quietPoint(t, fleet, book));
      }
      await t.test('at the end', (t) => ending(t, fleet, book));
    } finally {
      if (!t.passing()) for (const line of fleet.story) t.comment(line);
    }
  },
);

/** Changes and faults at the same time, for about so long. */
async function play(fleet: Fleet, book: Book, ms: number): Promise<void> {
  const endsAtMs = performance.now() + ms;
  const goOn = () => performance.now() < endsAtMs;
  const change = async () => {
    while (goOn()) {
      await book.change();
      await sleep(20);
    }
  };
  const fault = async () => {
    while (goOn()) {
      await fleet.fault();
      await sleep(20);
    }
  };
  await Promise.all([change(), fault()]);
  await fleet.settled();
  fleet.tell('quiet');
}

/** Nothing that is due waits, every loop goes on. */
async function quietPoint(t: Test, fleet: Fleet, book: Book): Promise<void> {
  const { redis, ledger } = fleet;
  await book.resumeAll();
  const quietAtMs = await redisNow(redis);
  const seen = await ledger.llen('ledger');
  await eventually(
    async () => {
      for (const keys of allShards()) {
        const [, head = Infinity] = await redis.zrange(keys.due, '0', '0', 'WITHSCORES');
        assert.ok(Math.floor(Number(head)) > quietAtMs, `${keys.due} waits since ${head}`);
        assert.deepEqual(await redis.zrange(keys.missed, '0', '-1'), []);
        assert.deepEqual(await redis.zrange(keys.claims, '0', '-1'), []);
      }
    },
    { everyMs: 50 },
  );
  const loops = book.live.filter(({ spec }) => isLoop(spec)).map(({ id }) => id);
  await eventually(
    async () => {
      const lines = await readLedger(ledger, seen);
      const ran = new Set(lines.flatMap((line) => (line.is === 'start' ? [line.schedule] : [])));
      const idle = loops.filter((id) => !ran.has(id));
      const states = await Promise.all(idle.map(async (id) => `${id} is ${await stateOf(fleet, id)}`));
      assert.deepEqual(
        states.filter((state) => !state.endsWith(' completed')),
        [],
        'loops that do not run again',
      );
    },
    { everyMs: 100 },
  );
  const broken = await fleet.whileFrozen(async () => [
    ...(await brokenLaws(redis, 'rb', SHARDS)),
    ...(await strayFlights(redis, 'rb', SHARDS)),
  ]);
  t.same(broken, [], 'the conservation laws hold');
  t.pass(`${loops.length} loops of ${book.live.length} schedules go on`);
}

async function stateOf({ beat }: Fleet, id: string): Promise<string> {
  const answer = await fetch(`${beat.api}/v1/schedules/${id}`);
  return ((await answer.json()) as { readonly state: string }).state;
}

async function ending(t: Test, fleet: Fleet, book: Book): Promise<void> {
  const { redis, ledger } = fleet;
  await book.deleteAll();
  const deletedAtMs = await redisNow(redis);
  await until(
    async () => {
      const extras = await Promise.all(allShards().map(({ extra }) => redis.zcard(extra)));
      const held = await redis.hlen(KOMBU.unacked);
      return extras.every((count) => count === 0) && held === 0 && (await redis.llen(WORK)) === 0;
    },
    'all that was sent has run',
    { everyMs: 50 },
  );
  const broken = await fleet.whileFrozen(() => brokenLaws(redis, 'rb', SHARDS));
  t.same(broken, [], 'the conservation laws hold');
  await fleet.stopWorkers();

  const lines = await readLedger(ledger);
  const sent = bySchedule([...(await readQueue(redis, SINK)), ...sentOfLedger(lines)]);
  const skipped = await readSkipped(redis);
  const problems = [...book.pages.values()].flatMap((page) =>
    problemsOfSent(page, sent.get(page.id) ?? [], skipped, deletedAtMs),
  );
  t.comment(`${book.pages.size} schedules, ${[...sent.values()].flat().length} runs, ${skipped.size} skipped`);
  t.same(problems, [], 'every run that was due was sent once');
  const deleted = new Set([...book.pages.values()].filter(({ deletions }) => deletions > 0).map(({ id }) => id));
  t.same(problemsOfOverlap(lines, deleted), [], 'no run overlapped another');

  await redis.del(SINK);
  await eventually(async () => assert.deepEqual(await unexpectedKeys(fleet), []));
  t.pass('nothing is left but what the namespace keeps');

  const deletion = await spawnRingbeat(t, ['namespace', 'delete', '--redis', fleet.server.url]);
  t.same(await deletion.exited, { code: 0, signal: null });
  await fleet.stopBeats();
  // What nodes with a journal tell each other of it is forgotten within seconds.
  await eventually(
    async () => {
      const left = (await redis.keys('*')).filter((key) => !/^(_kombu\.binding\.|celery-task-meta-)/.test(key));
      assert.deepEqual(left, ['rb:tombstone']);
    },
    { everyMs: 100 },
  );
  t.pass('nothing is left but the tombstone');
}

function bySchedule(sent: readonly Sent[]): Map<string, Sent[]> {
  const groups = new Map<string, Sent[]>();
  for (const one of sent) {
    const group = groups.get(one.schedule);
    if (group === undefined) groups.set(one.schedule, [one]);
    else group.push(one);
  }
  return groups;
}

/** Keys that nobody should find once every schedule is gone. */
async function unexpectedKeys({ redis }: Fleet): Promise<string[]> {
  const kept =
    /^(rb:(meta|nodes|node-info)|rb:\{\d+\}:(counts|history|occurrences|changes)|_kombu\.binding\..*|celery-task-meta-.*)$/;
  const left: string[] = [];
  for (const key of await redis.keys('*')) {
    // What a request answered is forgotten after ten minutes, and which call a dead worker settled last after a day.
    const isForgotten = /^rb:(\{\d+\}:)?request:|^rb:worker:.*:settled$/.test(key);
    if (kept.test(key) || (isForgotten && (await redis.ttl(key)) > 0)) continue;
    left.push(key);
  }
  return left.sort();
}

function allShards() {
  return Array.from({ length: SHARDS }, (_, shard) => shardKeys('rb', shard));
}
