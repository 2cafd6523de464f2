import { createServer } from 'node:net';
import { extname } from 'node:path';
import { createInterface } from 'node:readline';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type GuardedChild, spawnGuarded } from '../runtime/guarded-child.ts';
import { NODE_FLAGS } from '../runtime/node-flags.ts';

/** What all children of `ringbeat dev` are told alike. */
export interface Surroundings {
  readonly redisUrl: string;
  /** The embedded Redis's, which then ends after its clients; null where Redis is not ours. */
  readonly redisLifeline: Writable | null;
  readonly namespace: string;
  /** pino's number of the least severe event that is passed on. */
  readonly logLevel: number;
  readonly ports: Ports;
  /** Every child ever started, for the end. */
  readonly children: Set<GuardedChild>;
  /** Takes one line for the user. */
  say(line: string): void;
}

export interface DevProcess {
  readonly name: string;
  readonly child: GuardedChild;
  /** Where it serves HTTP, such as `http://127.0.0.1:7380`. */
  readonly url: string;
}

interface LogLine {
  readonly level: number;
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

const HOST = '127.0.0.1';
const READY_MS = 30_000;
/** How long a child may take to end before it is killed: a worker waits for the tasks it runs. */
const STOP_MS = 10_000;
const INFO = 30;
/** Warnings about a Redis that is shared with others, which a system to play with need not show. */
const EXPECTED = new Set(['visibility_timeout']);

const thisFile = fileURLToPath(import.meta.url);
const CLI = fileURLToPath(new URL(`./main${extname(thisFile)}`, import.meta.url));
const SAMPLE_TASKS = fileURLToPath(new URL(`./sample-tasks${extname(thisFile)}`, import.meta.url));

/** A beat node that serves its API on the next free port; resolves when it is ready. */
export function startBeat(name: string, where: Surroundings, signal: AbortSignal): Promise<DevProcess> {
  // Nobody else has a journal of what is in a Redis of our own.
  const own = where.redisLifeline === null ? [] : ['--create-at-once'];
  return start(name, where, signal, '/readyz', (port) => [
    ...['beat', '--api-host', HOST, '--api-port', String(port)],
    ...own,
  ]);
}

/** A bundled worker with the sample tasks, its metrics on the next free port; resolves when it answers there. */
export function startWorker(name: string, where: Surroundings, signal: AbortSignal): Promise<DevProcess> {
  const args = ['worker', '--tasks', SAMPLE_TASKS, '-Q', 'celery'];
  return start(name, where, signal, '/metrics', (port) => [...args, '--metrics-port', String(port)]);
}

/** Ends them all at once, warm; whoever has not ended after 10 s is killed. */
export async function stopAll(children: Iterable<GuardedChild>): Promise<void> {
  await Promise.all([...children].map((child) => child.stop(STOP_MS)));
}

/** Ends them all at once, cold. */
export function killAll(children: Iterable<GuardedChild>): void {
  for (const child of children) child.kill('SIGKILL');
}

/** Free ports, one after the other from the first on. */
export class Ports {
  #next: number;
  #asked: Promise<number> = Promise.resolve(0);

  constructor(first: number) {
    this.#next = first;
  }

  take(onTaken: (port: number) => void): Promise<number> {
    // Children start side by side: each must see what the one before it took.
    this.#asked = this.#asked.then(async () => {
      while (this.#next <= 65_535) {
        const port = this.#next++;
        if (await isFree(port)) return port;
        onTaken(port);
      }
      throw new Error(`no port is left on ${HOST}`);
    });
    return this.#asked;
  }
}

async function start(
  name: string,
  where: Surroundings,
  signal: AbortSignal,
  readyPath: string,
  argsFor: (port: number) => readonly string[],
): Promise<DevProcess> {
  for (;;) {
    const port = await where.ports.take((taken) => where.say(`port ${taken} is taken, taking the next one`));
    signal.throwIfAborted();
    const url = `http://${HOST}:${port}`;
    const child = await spawnGuarded(process.execPath, [...NODE_FLAGS, CLI, ...argsFor(port), ...commonArgs(where)], {
      graceSec: STOP_MS / 1_000,
      env: ownEnvironment(),
      stdout: 'ignore',
      ...(where.redisLifeline === null ? {} : { holds: where.redisLifeline }),
    });
    where.children.add(child);
    const lastWords = passOn(name, child, where);
    const outcome = await readiness(child, `${url}${readyPath}`, signal);
    if (outcome === 'ready') return { name, child, url };
    await child.stop(STOP_MS);
    signal.throwIfAborted();
    // Somebody else may take the port between our look and the child's.
    if (/cannot listen on/i.test(lastWords())) continue;
    throw new Error(
      `${name} ${outcome === 'late' ? `was not ready within ${READY_MS / 1_000} s` : 'ended before it was ready'}: ${lastWords()}`,
    );
  }
}

async function readiness(child: GuardedChild, url: string, signal: AbortSignal): Promise<'ready' | 'ended' | 'late'> {
  const giveUpAtMs = performance.now() + READY_MS;
  while (!child.hasExited() && !signal.aborted) {
    const ready = await fetch(url, { signal: AbortSignal.timeout(1_000) }).then(
      (response) => response.ok,
      () => false,
    );
    if (ready && !child.hasExited()) return 'ready';
    if (performance.now() > giveUpAtMs) return 'late';
    await sleep(20);
  }
  return 'ended';
}

function commonArgs({ redisUrl, namespace, logLevel }: Surroundings): string[] {
  return ['--redis', redisUrl, '--namespace', namespace, '--log-level', logLevel < INFO ? 'debug' : 'info'];
}

/** What a child does is told by the options that it is given here: variables meant for `dev` itself must not reach it. */
function ownEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([variable]) => !variable.startsWith('RINGBEAT_')));
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, HOST, () => server.close(() => resolve(true)));
  });
}

/** Shows what a child logs, if it is severe enough; returns a function that tells its last line. */
function passOn(name: string, child: GuardedChild, { logLevel, say }: Surroundings): () => string {
  let last = 'it said nothing';
  const lines = createInterface({ input: child.process.stderr! });
  lines.on('line', (text) => {
    if (text.trim() === '') return;
    last = text;
    const line = parseLog(text);
    if (line === null) say(`${name}: ${text}`);
    else if (line.level >= logLevel && !EXPECTED.has(line.event))
      say(`${name}: ${line.event} ${JSON.stringify(line.fields)}`);
  });
  return () => last;
}

function parseLog(text: string): LogLine | null {
  if (!text.startsWith('{')) return null;
  try {
    const { level, event, time, process, ...fields } = JSON.parse(text);
    return typeof level === 'number' ? { level, event: String(event), fields: withoutStacks(fields) } : null;
  } catch {
    return null;
  }
}

function withoutStacks(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { err, ...rest } = fields;
  return typeof err === 'object' && err !== null && 'message' in err ? { ...rest, error: err.message } : rest;
}
