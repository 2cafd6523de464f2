import assert from 'node:assert/strict';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { KOMBU, queueList, shardKeys } from '../../lua/keys.ts';
import { definedScripts } from '../../lua/script.ts';
import { eventually, until } from '../support/eventually.ts';
import { type Spawned, spawnBeat, spawnWorker } from '../support/processes.ts';
import { type Cut, type RedisProxy, runsScript, startProxy } from '../support/proxy.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';
import { envelope, iso, redisNow } from '../worker/messages.ts';
import { allSettled, LEDGER_TASKS, Ledger, type Plan, stateOf } from './worker-ledger.ts';
// Defines the scripts that are cut.
import '../../worker/worker.ts';

const SHARDS = [0, 1, 2, 3];
const WITH_BEAT = 'rb';
const WITHOUT_BEAT = 'alone';

/** Of what follows others in chains and chords: no victim takes from it. */
const FOLLOWING = 'following';

const TIMEOUT_MS = 180_000;
t.setTimeout(TIMEOUT_MS);

interface Stage {
  readonly server: RedisServer;
  readonly redis: Redis;
  readonly ledger: Ledger;
}

/** A message that a worker has in some phase of its life when the worker is killed. */
interface Sent {
  readonly task: string;
  readonly plan?: Plan;
  /** Due so many ms after it was sent. */
  readonly etaMs?: number;
  /** What is sent when it has succeeded: the next of its chain, or the body of the chord whose one part it is. */
  readonly follow?: 'chain' | 'chord';
  /** How often it is entered, in all, and the state of its result in the end. */
  readonly entered: number;
  readonly state: 'SUCCESS' | null;
}

interface Phase {
  /** Also the queue that its messages are in. */
  readonly name: string;
  /** Its worker's namespace has no beat node. */
  readonly isAlone?: true;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** A script at which the worker's connection breaks from the start on, each time. */
  readonly cut?: readonly [script: string, when: 'before' | 'after'];
  readonly sent: readonly Sent[];
  /** Resolves when the worker has its messages in this phase. */
  reached(victim: Victim): Promise<void>;
}

interface Victim {
  readonly phase: Phase;
  readonly stage: Stage;
  readonly worker: Spawned;
  readonly proxy: RedisProxy;
  readonly cut: Cut | null;
  readonly ids: readonly string[];
}

/** Workers must be dead before this, counted from when all of them live. */
const LATER_MS = 15_000;

/** The claim to send the body of a chord outlives its worker by 30 s. */
const CLAIM = { deadlineMs: 90_000 };

/** A task that has been entered when its worker dies, with acks late. */
const BLOCKER: Sent = { task: 'effect-late', plan: { gate: 'rescued' }, entered: 2, state: 'SUCCESS' };
/** Started in the step that takes it, where its worker has a free slot. */
const EARLY_AT_ONCE: Sent = { task: 'effect', entered: 1, state: 'SUCCESS' };
/** What has an eta, though it be past, is started in a step of its own. */
const EARLY: Sent = { ...EARLY_AT_ONCE, etaMs: 0 };
const LATE: Sent = { task: 'effect-late', entered: 1, state: 'SUCCESS', etaMs: 0 };
const FOR_LATER: readonly Sent[] = [
  { ...EARLY, etaMs: LATER_MS },
  { ...LATE, etaMs: LATER_MS },
];
const CHORDS: readonly Sent[] = [
  { ...EARLY, follow: 'chord' },
  { ...LATE, follow: 'chord' },
];
const RETRIED: Plan = { retries: 1 };

const isCut = ({ cut, phase }: Victim) => until(() => (cut?.count ?? 0) > 0, `${phase.name} is cut`);
const hasEntered = ({ stage, ids, phase }: Victim) =>
  until(() => ids.every((id) => stage.ledger.entered(id) === 1), `${phase.name}: all have been entered`);

/** Waits until the worker holds so many unacknowledged messages. */
function holds({ stage, phase }: Victim, count: number): Promise<void> {
  return eventually(async () => {
    const held = (await stage.redis.hvals(KOMBU.unacked)).filter((value) => value.endsWith(`"${phase.name}"]`));
    assert.equal(held.length, count, `${phase.name} holds ${held.length}`);
  });
}

async function stopAndCut(victim: Victim, when: 'before' | 'after'): Promise<void> {
  await holds(victim, 5);
  const cut = cutAt(victim.proxy, 'restore', when);
  victim.worker.kill('SIGTERM');
  await until(() => cut.count > 0, 'it was giving back');
}

const PHASES: readonly Phase[] = [
  {
    name: 'reserved',
    args: ['-c', '1', '--prefetch', '8'],
    sent: [BLOCKER, EARLY, LATE, EARLY, LATE],
    reached: (victim) => holds(victim, 5),
  },
  {
    name: 'rate-limited',
    env: { RINGBEAT_TEST_RATE_LIMIT: '1/h' },
    sent: ['effect-limited', 'effect-limited-late'].flatMap((task) => Array(3).fill({ ...EARLY_AT_ONCE, task })),
    async reached(victim) {
      await holds(victim, 4);
      const { ids, stage } = victim;
      await until(() => ids.filter((id) => stage.ledger.finished(id) === 1).length === 2, 'one of each has run');
      await until(async () => {
        const states = await Promise.all(ids.map((id) => stateOf(stage.redis, id)));
        return states.filter((state) => state !== null).length === 2;
      }, 'they are settled');
    },
  },
  {
    name: 'started',
    sent: [{ task: 'effect', plan: { gate: 'rescued' }, entered: 1, state: null }, BLOCKER],
    reached: hasEntered,
  },
  // What was acknowledged just before its function was to be entered is lost: this is what acks early means.
  {
    name: 'reserving',
    cut: ['reserve', 'after'],
    sent: [{ ...EARLY_AT_ONCE, entered: 0, state: null }, EARLY, LATE],
    reached: isCut,
  },
  { name: 'about to start', cut: ['start', 'before'], sent: [EARLY, LATE], reached: isCut },
  {
    name: 'starting',
    cut: ['start', 'after'],
    sent: [{ ...EARLY, entered: 0, state: null }, LATE],
    reached: isCut,
  },
  {
    name: 'about to settle',
    cut: ['settle', 'before'],
    sent: [
      { ...EARLY, state: null },
      { ...EARLY, plan: RETRIED, state: null },
      { ...LATE, entered: 2 },
      { ...LATE, plan: RETRIED, entered: 3 },
      { ...LATE, follow: 'chain', entered: 2 },
      { ...LATE, follow: 'chord', entered: 2 },
    ],
    reached: isCut,
  },
  // One message each: which of several are settled by the call that is cut is a matter of chance.
  ...[
    EARLY,
    { ...EARLY, plan: RETRIED, entered: 2 },
    { ...EARLY, follow: 'chain' as const },
    { ...EARLY, follow: 'chord' as const },
    LATE,
    { ...LATE, plan: RETRIED, entered: 2 },
    { ...LATE, follow: 'chain' as const },
    { ...LATE, follow: 'chord' as const },
  ].map((sent, at): Phase => ({ name: `settling ${at}`, cut: ['settle', 'after'], sent: [sent], reached: isCut })),
  // The last part has been counted: it is for another worker to send the body, once the claim of this one has run out.
  { name: 'about to send a body', cut: ['finish-chord', 'before'], sent: CHORDS, reached: isCut },
  { name: 'sending a body', cut: ['finish-chord', 'after'], sent: CHORDS, reached: isCut },
  {
    name: 'about to park',
    cut: ['park', 'before'],
    sent: FOR_LATER,
    reached: isCut,
  },
  { name: 'parking', cut: ['park', 'after'], sent: FOR_LATER, reached: isCut },
  {
    name: 'parked',
    sent: FOR_LATER,
    reached: ({ stage, phase }) =>
      until(async () => (await parkedOf(stage.redis, phase.name)) === FOR_LATER.length, 'they are parked'),
  },
  { name: 'held', isAlone: true, sent: FOR_LATER, reached: (victim) => holds(victim, FOR_LATER.length) },
  ...[
    { ...EARLY, plan: RETRIED, entered: 2 },
    { ...LATE, plan: RETRIED, entered: 2 },
  ].map(
    (sent, at): Phase => ({
      name: `settling without a beat node ${at}`,
      isAlone: true,
      cut: ['settle', 'after'],
      sent: [sent],
      reached: isCut,
    }),
  ),
  {
    name: 'about to give back',
    args: ['-c', '1', '--prefetch', '8'],
    sent: [BLOCKER, EARLY, LATE, EARLY, LATE],
    reached: (victim) => stopAndCut(victim, 'before'),
  },
  {
    name: 'giving back',
    args: ['-c', '1', '--prefetch', '8'],
    sent: [BLOCKER, EARLY, LATE, EARLY, LATE],
    reached: (victim) => stopAndCut(victim, 'after'),
  },
];

t.test(
  "kill -9 in every phase of a message's life: nothing is lost, nothing runs more often than it may",
  { timeout: TIMEOUT_MS },
  async (t) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    await spawnBeat(t, server.url, ['--create-at-once', '--shards', String(SHARDS.length)]);
    const stage: Stage = { server, redis, ledger: Ledger.open(t) };
    const victims = await Promise.all(PHASES.map((phase) => startVictim(t, stage, phase)));
    for (const victim of victims) await sendForLater(victim);
    for (const victim of victims) await victim.phase.reached(victim);
    for (const { worker } of victims) worker.kill('SIGKILL');
    await Promise.all(victims.map(({ worker }) => worker.exited));
    stage.ledger.openGate('rescued');

    for (const namespace of [WITH_BEAT, WITHOUT_BEAT]) {
      const queues = [FOLLOWING, ...PHASES.filter((phase) => namespaceOf(phase) === namespace).map(({ name }) => name)];
      const args = ['--tasks', LEDGER_TASKS, '--namespace', namespace, '-n', `rescuer-${namespace}@%h`];
      await spawnWorker(t, server.url, [...args, '-Q', queues.join(',')]);
    }
    // What is acknowledged early is settled before it has ended.
    const toSucceed = victims.flatMap(({ phase, ids }) => [
      ...ids.filter((_, at) => phase.sent[at]?.state === 'SUCCESS'),
      ...followers(phase),
    ]);
    await eventually(async () => {
      const states = await Promise.all(toSucceed.map((id) => stateOf(redis, id)));
      assert.deepEqual(
        toSucceed.filter((_, at) => states[at] !== 'SUCCESS'),
        [],
      );
    }, CLAIM);
    await allSettled(redis);
    for (const { phase, ids } of victims) {
      const found = await Promise.all(
        ids.map(async (id) => ({ id, entered: stage.ledger.entered(id), state: await stateOf(redis, id) })),
      );
      const wanted = phase.sent.map(({ entered, state }, at) => ({ id: ids[at], entered, state }));
      t.same(found, wanted, phase.name);
      const doubled = followers(phase).filter((id) => stage.ledger.entered(id) !== 1);
      t.same(doubled, [], `${phase.name}: what follows was entered once`);
    }
  },
);

function namespaceOf({ isAlone }: Phase): string {
  return isAlone ? WITHOUT_BEAT : WITH_BEAT;
}

/** A worker whose messages are in its queue before it is there, but for those with an eta ahead. */
async function startVictim(t: Test, stage: Stage, phase: Phase): Promise<Victim> {
  const { redis, server } = stage;
  const proxy = await startProxy(t, server.port);
  const { name, args = [], env = {} } = phase;
  const cut = phase.cut === undefined ? null : cutAt(proxy, ...phase.cut);
  const ids = phase.sent.map((_, at) => `${name}-${at}`);
  const envelopes = envelopesOf(stage, phase, await redisNow(redis), false);
  for (const [at, { follow }] of phase.sent.entries())
    if (follow === 'chord') await redis.set(`celery-taskset-meta-${groupOf(ids[at]!)}.s`, '1');
  if (envelopes.length > 0) await redis.lpush(queueList(name, 0), ...envelopes);
  const namespace = ['--namespace', namespaceOf(phase), '-n', `${name.replaceAll(' ', '-')}@%h`];
  const worker = await spawnWorker(t, proxy.url, ['--tasks', LEDGER_TASKS, '-Q', name, ...namespace, ...args], { env });
  return { phase, stage, worker, proxy, cut, ids };
}

function cutAt(proxy: RedisProxy, script: string, when: 'before' | 'after'): Cut {
  return when === 'before'
    ? proxy.cutBefore(scriptNamed(script), Infinity)
    : // Once, where the worker is to go on and repeat the call: cut off for longer than its lease it counts as dead.
      proxy.cutAfter(scriptNamed(script), script === 'settle' ? 1 : Infinity);
}

async function sendForLater({ stage, phase }: Victim): Promise<void> {
  const envelopes = envelopesOf(stage, phase, await redisNow(stage.redis), true);
  if (envelopes.length > 0) await stage.redis.lpush(queueList(phase.name, 0), ...envelopes);
}

function envelopesOf({ ledger }: Stage, { name, sent }: Phase, nowMs: number, isForLater: boolean): string[] {
  return sent.flatMap(({ task, plan = {}, etaMs, follow }, at) => {
    if ((etaMs ?? 0) > 0 !== isForLater) return [];
    const headers = etaMs === undefined ? {} : { eta: iso(nowMs + etaMs) };
    const id = `${name}-${at}`;
    const next = {
      task: 'effect',
      args: ledger.args(),
      kwargs: {},
      options: { task_id: `${id}-${follow}`, queue: FOLLOWING },
      subtask_type: null,
      immutable: true,
    };
    const embed = follow === 'chain' ? { chain: [next] } : follow === 'chord' ? { chord: next } : {};
    const group = follow === 'chord' ? { group: groupOf(id), group_index: 0 } : {};
    return [envelope({ id, task, queue: name, args: ledger.args(plan), embed, headers: { ...headers, ...group } })];
  });
}

function groupOf(id: string): string {
  return `group of ${id}`;
}

/** Ids of what follows the messages of a phase. */
function followers({ name, sent }: Phase): string[] {
  return sent.flatMap(({ follow }, at) => (follow === undefined ? [] : [`${name}-${at}-${follow}`]));
}

/** How many messages of a queue are parked. */
async function parkedOf(redis: Redis, queue: string): Promise<number> {
  const shards = await Promise.all(SHARDS.map((shard) => redis.hvals(shardKeys(WITH_BEAT, shard).parked)));
  return shards.flat().filter((text) => text.split('\x1f')[0] === queue).length;
}

function scriptNamed(name: string) {
  const script = definedScripts().find((script) => script.name === name);
  assert.ok(script, name);
  return runsScript(script);
}
