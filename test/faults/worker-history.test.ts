import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { KOMBU, queueList, queueLists, resultKey, shardKeys } from '../../lua/keys.ts';
import { type Chance, chanceOf } from '../support/chance.ts';
import { eventually } from '../support/eventually.ts';
import { envelope, iso, redisNow } from '../worker/messages.ts';
import { SHARDS, WorkerFleet } from './worker-history-fleet.ts';
import { allSettled, type Plan } from './worker-ledger.ts';

/**
 * A random history of workers, played with real processes: tasks of every kind are sent and revoked while workers with
 * all kinds of pools, their children and Redis are killed, stopped and suspended. Then their effects are counted.
 * RINGBEAT_HISTORY_SEED picks another history, RINGBEAT_HISTORY_SECONDS a longer one.
 */
const SEED = Number(process.env.RINGBEAT_HISTORY_SEED ?? 20_261_122);
const SECONDS = Number(process.env.RINGBEAT_HISTORY_SECONDS ?? 20);

/** So long is played between two quiet points. */
const ACT_MS = 10_000;

const TIMEOUT_MS = (SECONDS * 2 + 200) * 1_000;
t.setTimeout(TIMEOUT_MS);

const KINDS = { effect: 3, 'effect-late': 3, 'effect-put-back': 2 } as const;

interface Message {
  readonly id: string;
  readonly task: keyof typeof KINDS;
  readonly plan: Plan;
  /** Somebody asked for it to be revoked. */
  isRevoked: boolean;
}

const FINAL: ReadonlySet<string | null> = new Set(['SUCCESS', 'FAILURE', 'REVOKED']);

t.test(
  `a random history of workers, ${SECONDS} s, seed ${SEED}: no message is lost or in two places, none acknowledged early runs twice`,
  { timeout: TIMEOUT_MS },
  async (t) => {
    t.comment(`RINGBEAT_HISTORY_SEED=${SEED} RINGBEAT_HISTORY_SECONDS=${SECONDS}`);
    const chance = chanceOf(SEED);
    const fleet = await WorkerFleet.start(t, chanceOf(SEED + 1));
    const messages: Message[] = [];
    try {
      const endsAtMs = performance.now() + SECONDS * 1_000;
      while (performance.now() < endsAtMs) {
        await play(fleet, chance, messages, Math.min(ACT_MS, endsAtMs - performance.now()));
        const broken = await fleet.whileFrozen(() => misplaced(fleet.redis, messages));
        t.same(broken, [], `every one of ${messages.length} messages is in one place, or has ended`);
      }
      await ending(t, fleet, messages);
    } finally {
      if (!t.passing()) for (const line of fleet.story) t.comment(line);
    }
  },
);

/** Messages and faults at the same time, for about so long. */
async function play(fleet: WorkerFleet, chance: Chance, messages: Message[], ms: number): Promise<void> {
  const endsAtMs = performance.now() + ms;
  const goOn = () => performance.now() < endsAtMs;
  const produce = async () => {
    while (goOn()) {
      messages.push(await sendAny(fleet, chance, messages.length));
      if (chance.integer(1, 12) === 1) await revoke(fleet, chance.pick(messages));
      await sleep(chance.integer(5, 60));
    }
  };
  const harm = async () => {
    while (goOn()) {
      await fleet.fault();
      await sleep(20);
    }
  };
  await Promise.all([produce(), harm()]);
  await fleet.settled();
  fleet.tell('quiet');
}

async function sendAny({ redis, ledger }: WorkerFleet, chance: Chance, number: number): Promise<Message> {
  const id = `id-${number}`;
  const task = chance.weighted(KINDS);
  const plan: Plan = {
    seconds: chance.pick([0, 0.01, 0.1, 0.5, 2]),
    retries: chance.pick([0, 0, 0, 1, 2]),
    countdown: chance.pick([0, 0.1, 1]),
  };
  const priority = chance.pick([0, 0, 3, 9]);
  const etaMs = chance.pick([null, null, 100, 1_000, 4_000]);
  const headers = etaMs === null ? {} : { eta: iso((await redisNow(redis)) + etaMs) };
  const text = envelope({ id, task, priority, args: ledger.args(plan), headers });
  // Once, though the command be sent again when Redis was away.
  await redis.eval(PUSH_ONCE, 2, 'sent', queueList('celery', priority), id, text);
  return { id, task, plan, isRevoked: false };
}

const PUSH_ONCE = `if redis.call('HSETNX', KEYS[1], ARGV[1], 1) == 1 then redis.call('LPUSH', KEYS[2], ARGV[2]) end`;

async function revoke({ beat }: WorkerFleet, message: Message): Promise<void> {
  message.isRevoked = true;
  // While Redis is away it may be refused: whoever asked knows no more than that it may have been heard.
  await fetch(`${beat.api}/v1/tasks/${message.id}`, { method: 'DELETE' }).catch(() => {});
}

interface Ended {
  readonly status: string;
  readonly result: { readonly exc_type?: string } | null;
}

async function endOf(redis: Redis, id: string): Promise<Ended | null> {
  const record = await redis.get(resultKey(id));
  return record === null ? null : JSON.parse(record);
}

/** Messages that are in more than one place; and those acknowledged late that are in none and have not ended either. */
async function misplaced(redis: Redis, messages: readonly Message[]): Promise<string[]> {
  const texts = (await Promise.all(queueLists('celery').map((list) => redis.lrange(list, 0, -1)))).flat();
  texts.push(...(await redis.hvals(KOMBU.unacked)));
  const places = new Map<string, number>();
  const found = (id: string) => places.set(id, (places.get(id) ?? 0) + 1);
  for (const text of texts) found(/"correlation_id": "([^"]*)"/.exec(text)?.[1] ?? text);
  for (let shard = 0; shard < SHARDS; shard++)
    for (const id of await redis.hkeys(shardKeys('rb', shard).parked)) found(id.split('\x1f')[0] ?? id);
  for (const letter of await redis.xrange('rb:dead-letters', '-', '+')) found(`dead: ${letter}`);
  const broken: string[] = [];
  for (const { id, task, isRevoked } of messages) {
    const count = places.get(id) ?? 0;
    const status = (await endOf(redis, id))?.status ?? null;
    const what = `${id} (${task}, ${status}${isRevoked ? ', revoked' : ''}) is in ${count} places`;
    if (count > 1) broken.push(what);
    if (task !== 'effect' && count === 0 && !FINAL.has(status)) broken.push(what);
    if (count > 0 && FINAL.has(status) && !isRevoked) broken.push(what);
    places.delete(id);
  }
  return [...broken, ...[...places.keys()].map((id) => `nobody sent ${id}`)];
}

async function ending(t: Test, fleet: WorkerFleet, messages: readonly Message[]): Promise<void> {
  const { redis, ledger } = fleet;
  await allSettled(redis);
  await fleet.stopWorkers();
  const lines = ledger.lines();
  const entered = new Map<string, number>();
  const finished = new Set<string>();
  for (const { is, id, retries } of lines) {
    const run = `${id} ${retries}`;
    if (is === 'entered') entered.set(run, (entered.get(run) ?? 0) + 1);
    else finished.add(run);
  }
  const problems: string[] = [];
  const states = new Map<string, number>();
  for (const { id, task, plan, isRevoked } of messages) {
    const end = await endOf(redis, id);
    const status = end?.status ?? 'none';
    states.set(`${task} ${status}`, (states.get(`${task} ${status}`) ?? 0) + 1);
    const say = (text: string) => problems.push(`${id} (${task}, ${status}): ${text}`);
    const last = `${id} ${plan.retries ?? 0}`;
    if (status === 'SUCCESS' && !finished.has(last)) say('it succeeded and did not finish');
    if (task === 'effect') {
      for (let retries = 0; retries <= (plan.retries ?? 0); retries++) {
        const times = entered.get(`${id} ${retries}`) ?? 0;
        if (times > 1) say(`acknowledged early, and entered ${times} times with ${retries} retries`);
      }
      continue;
    }
    if (status === 'SUCCESS' || (status === 'REVOKED' && isRevoked)) continue;
    // Its process of the pool was killed, and it does not ask for another run then.
    if (status === 'FAILURE' && task === 'effect-late' && end?.result?.exc_type === 'WorkerLostError') continue;
    say('acknowledged late, and did not succeed');
  }
  t.comment(`${messages.length} messages, ${lines.length} lines: ${JSON.stringify(Object.fromEntries(states))}`);
  t.same(problems, [], 'acks late: at least once and never lost; acks early: at most once');
  await eventually(async () => {
    const left = (await redis.keys('rb:worker*')).concat(await redis.keys('rb:crashes'));
    // Who was only cut off may still ask what his last settlement came to.
    assert.deepEqual(
      left.filter((key) => !key.endsWith(':settled')),
      [],
    );
  });
  t.pass('nothing is left of the workers');
}
