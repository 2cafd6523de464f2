import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { connect, withoutPassword } from '../lua/connection.ts';
import { namespaceKeys, shardKeys } from '../lua/keys.ts';
import { type Lateness, readLateness } from '../lua/lateness.ts';
import { messageOf } from '../protocol/errors.ts';
import { type EmbeddedRedis, startEmbeddedRedis } from '../runtime/embedded-redis.ts';
import type { GuardedChild } from '../runtime/guarded-child.ts';
import { VERSION } from '../runtime/version.ts';
import type { DevOptions } from './dev.ts';
import { registerLoad } from './dev-load.ts';
import {
  type DevProcess,
  killAll,
  Ports,
  type Surroundings,
  startBeat,
  startWorker,
  stopAll,
} from './dev-processes.ts';
import { inline, Output, perSecond, type Scene, shownNodes } from './dev-table.ts';
import {
  lookAtWorker,
  progressBetween,
  rateBetween,
  type Snapshot,
  SystemWatch,
  type WorkerFigures,
} from './dev-watch.ts';

/** What is counted here is shown over as many seconds as what the beats report. */
const WINDOW_SEC = 10;
/** The history of lateness reaches no further back. */
const HISTORY_SEC = 120;

/**
 * Starts everything, registers the load, shows figures until Ctrl-C or `--for`, sums up and ends everything, Redis
 * last. Answers the exit code: 0 also after Ctrl-C at any moment, 1 when something it needs fails or ends.
 */
export async function runDev(options: DevOptions): Promise<number> {
  const output = new Output(process.stdout);
  const children = new Set<GuardedChild>();
  const ending = new Ending(output, () => killAll(children));
  let redis: EmbeddedRedis | null = null;
  let summary: readonly string[] = [];
  try {
    output.say(`ringbeat ${VERSION}`);
    if (options.redis === null)
      redis = await startEmbeddedRedis(options.dataDir === null ? {} : { dataDir: options.dataDir });
    const fleet = await startFleet(options, redis, children, output, ending);
    await registerAll(options, fleet, output, ending.signal);
    const watched = await watch(options, fleet, output, ending.signal);
    if (!ending.failed) summary = await sumUp(options, fleet, watched);
  } catch (error) {
    if (ending.signal.aborted) output.say('ended before there was anything to sum up');
    else ending.fail(messageOf(error));
  }
  ending.begin();
  output.leaveTable();
  await stopAll(children);
  await redis?.stop();
  for (const line of summary) output.say(line);
  ending.forget();
  return ending.failed ? 1 : 0;
}

/** That the run ends, and whether for a failure. */
class Ending {
  readonly #output: Output;
  readonly #onCold: () => void;
  readonly #abort = new AbortController();
  readonly #onSignal = (signal: NodeJS.Signals) => this.#interrupt(signal);
  failed = false;

  constructor(output: Output, onCold: () => void) {
    this.#output = output;
    this.#onCold = onCold;
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, this.#onSignal);
    // `ringbeat dev | head` closes the pipe, a closed terminal answers EIO: nobody is looking any more.
    process.stdout.on('error', () => this.begin());
  }

  /** Aborts when the run ends. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  begin(): void {
    this.#abort.abort();
  }

  fail(reason: string): void {
    if (this.signal.aborted) return;
    this.failed = true;
    process.stderr.write(`ringbeat: ${reason}\n`);
    this.begin();
  }

  forget(): void {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) process.off(signal, this.#onSignal);
  }

  #interrupt(signal: NodeJS.Signals): void {
    if (this.signal.aborted || signal === 'SIGQUIT') this.#onCold();
    else this.#output.say(`${signal}: ending (once more: at once)`);
    this.begin();
  }
}

/** Everything that runs, as it was started. */
interface Fleet {
  /** As the processes reach Redis. */
  readonly redisUrl: string;
  readonly beats: readonly DevProcess[];
  readonly worker: DevProcess;
}

async function startFleet(
  options: DevOptions,
  redis: EmbeddedRedis | null,
  children: Set<GuardedChild>,
  output: Output,
  ending: Ending,
): Promise<Fleet> {
  const redisUrl = redis?.socketUrl ?? options.redis!;
  const where: Surroundings = {
    redisUrl,
    redisLifeline: redis?.lifeline ?? null,
    namespace: options.namespace,
    logLevel: pino.levels.values[options.logLevel] ?? Infinity,
    ports: new Ports(options.apiPort),
    children,
    say: (line) => output.say(line),
  };
  ending.signal.throwIfAborted();
  void redis?.exited.then(() => {
    ending.fail('the embedded Redis has ended');
    // A warm end would wait for a Redis that does not come back.
    killAll(children);
  });
  if (redis === null) output.say(`redis    ${withoutPassword(redisUrl)}`);
  else
    output.say(
      `redis    ${redis.url}  pid ${redis.pid}  data in ${redis.dataDir}${options.dataDir === null ? ', removed at the end' : ''}`,
    );

  const started = await Promise.all([
    ...Array.from({ length: options.beats }, (_, index) => startBeat(`beat-${index + 1}`, where, ending.signal)),
    startWorker('worker', where, ending.signal),
  ]);
  const beats = started.slice(0, -1);
  const worker = started.at(-1)!;
  for (const beat of beats) output.say(`${beat.name}   ${beat.url}  pid ${beat.child.pid}`);
  output.say(`worker   ${worker.url}/metrics  pid ${worker.child.pid}`);
  for (const { name, child } of started) {
    void child.exited.then(({ code, signal }) => {
      if (ending.signal.aborted) return;
      output.say(`${name} (pid ${child.pid}) has ended: ${signal ?? `exit code ${code}`}`);
      if (beats.every((beat) => beat.child.hasExited())) ending.fail('no beat node is left');
    });
  }
  return { redisUrl, beats, worker };
}

async function registerAll(options: DevOptions, { beats }: Fleet, output: Output, signal: AbortSignal): Promise<void> {
  if (options.schedules === 0) {
    const spec = JSON.stringify({ id: 'hello', task: 'sample.add', args: [2, 3], schedule: { every: 5 } });
    output.say(`register one: curl -H 'content-type: application/json' -d '${spec}' ${beats[0]!.url}/v1/schedules`);
    return;
  }
  output.say(`registering ${options.schedules} schedules, each every ${options.every} s`);
  const startedAtMs = performance.now();
  const { failed, errors, unchanged } = await registerLoad(beats[0]!.url, options, signal);
  const seconds = (performance.now() - startedAtMs) / 1_000;
  if (failed > 0)
    throw new Error(`${failed} schedules were refused, the first in line ${errors[0]?.line}: ${errors[0]?.message}`);
  const known = unchanged > 0 ? `, ${unchanged} of them known already` : '';
  output.say(
    `registered ${options.schedules} in ${seconds.toFixed(1)} s (${perSecond(options.schedules / seconds)})${known}`,
  );
}

/** What was answered at one moment; null by who did not. */
interface Look {
  readonly system: Snapshot | null;
  readonly worker: WorkerFigures | null;
}

interface Watched {
  readonly seconds: number;
  readonly first: Look;
  /** The last answer of each. */
  readonly last: Look;
  /** The most messages that were seen waiting. */
  readonly queueMax: number;
}

/** Looks and shows once a second. */
async function watch(
  options: DevOptions,
  { beats, worker }: Fleet,
  output: Output,
  signal: AbortSignal,
): Promise<Watched> {
  const system = new SystemWatch(beats.map(({ url }) => url));
  const metricsUrl = `${worker.url}/metrics`;
  const startedAtMs = performance.now();
  const look = async (): Promise<Look> => {
    const [seen, workerSeen] = await Promise.all([system.look(), lookAtWorker(metricsUrl)]);
    return { system: seen, worker: workerSeen };
  };
  const first = await look();
  const recent = [first];
  let last = first;
  let queueMax = 0;
  let seconds = 0;
  while (!signal.aborted && (options.for === null || seconds < options.for)) {
    seconds += 1;
    // To the second since the start, not a second after the last look, which took its time.
    const waitMs = Math.max(0, startedAtMs + seconds * 1_000 - performance.now());
    await sleep(waitMs, undefined, { signal }).catch(() => {});
    const now = await look();
    if (!signal.aborted) output.show(sceneOf(now, recent[0]!, seconds, options.for, beats));
    recent.push(now);
    if (recent.length > WINDOW_SEC) recent.shift();
    last = { system: now.system ?? last.system, worker: now.worker ?? last.worker };
    queueMax = Math.max(queueMax, waiting(now.system));
  }
  return { seconds: (performance.now() - startedAtMs) / 1_000, first, last, queueMax };
}

function sceneOf(
  now: Look,
  before: Look,
  seconds: number,
  forSeconds: number | null,
  beats: readonly DevProcess[],
): Scene {
  return {
    seconds,
    forSeconds,
    system: now.system,
    rate: now.system !== null && before.system !== null ? rateBetween(before.system, now.system) : 0,
    worker: now.worker !== null && before.worker !== null ? progressBetween(before.worker, now.worker) : null,
    names: namesOf(beats),
  };
}

/** Names by pid; null for a beat that has ended. */
function namesOf(beats: readonly DevProcess[]): Map<number, string | null> {
  return new Map(beats.map(({ name, child }) => [child.pid, child.hasExited() ? null : name]));
}

function waiting(snapshot: Snapshot | null): number {
  return snapshot?.queues.reduce((sum, { length }) => sum + length, 0) ?? 0;
}

async function sumUp(options: DevOptions, fleet: Fleet, watched: Watched): Promise<string[]> {
  const { first, last, seconds } = watched;
  const since = (figure: 'dispatched' | 'misfired' | 'refused') =>
    (last.system?.[figure] ?? 0) - (first.system?.[figure] ?? 0);
  const window = Math.min(seconds, HISTORY_SEC);
  const lateness = await latenessOver(options, fleet.redisUrl, window).catch(() => null);
  const tasks = first.worker === null || last.worker === null ? null : progressBetween(first.worker, last.worker);
  const nodes = last.system === null ? [] : shownNodes(last.system, namesOf(fleet.beats));
  return [
    '',
    `summary of ${seconds.toFixed(1)} s`,
    `schedules          ${last.system?.schedules ?? 'unknown'}`,
    `dispatched         ${since('dispatched')} (${perSecond(since('dispatched') / seconds)})`,
    `dispatch lateness  ${lateness === null ? 'unknown' : `ms ${inline(lateness)}${window < seconds ? `, of the last ${HISTORY_SEC} s` : ''}`}`,
    `start lateness     ${tasks === null ? 'unknown' : `ms ${inline(tasks.startLateness)}`}`,
    `tasks finished     ${tasks === null ? 'unknown' : `${tasks.finished}, ${tasks.failed} of them failed`}`,
    `misfired           ${since('misfired')}`,
    `refused            ${since('refused')}`,
    `queue              at most ${watched.queueMax}, at the end ${waiting(last.system)}`,
    `nodes              ${nodes.map(({ id, shards }) => `${id}: ${shards} shards`).join(', ') || 'none'}`,
  ];
}

async function latenessOver(
  { namespace }: DevOptions,
  redisUrl: string,
  seconds: number,
): Promise<ReturnType<typeof percentilesOf>> {
  const redis = connect(redisUrl, { option: '--redis', name: 'ringbeat-dev' });
  try {
    const [[nowSec], shards] = await Promise.all([redis.time(), redis.hget(namespaceKeys(namespace).meta, 'shards')]);
    const keys = Array.from({ length: Number(shards) }, (_, shard) => shardKeys(namespace, shard));
    return percentilesOf(await readLateness(redis, keys, (Number(nowSec) - seconds) * 1_000));
  } finally {
    redis.disconnect();
  }
}

function percentilesOf(lateness: Lateness) {
  return {
    p50: lateness.percentile(0.5),
    p99: lateness.percentile(0.99),
    p999: lateness.percentile(0.999),
    max: lateness.maxMs,
  };
}
