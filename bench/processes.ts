import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type GuardedChild, spawnGuarded } from '../runtime/guarded-child.ts';
import { NODE_FLAGS } from '../runtime/node-flags.ts';

const CLI = fileURLToPath(new URL('../cli/main.js', import.meta.url));

/** How long a process of ours may take to say that it is ready. */
const READY_MS = 30_000;

/** Waits until `condition` gives something other than null; `what` is said when that takes too long. */
export async function awaitValue<T>(
  what: string,
  condition: () => Promise<T | null> | T | null,
  deadlineMs = READY_MS,
  everyMs = 10,
): Promise<T> {
  const giveUpAtMs = performance.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value !== null) return value;
    if (performance.now() > giveUpAtMs) throw new Error(`Not within ${deadlineMs / 1_000} s: ${what}`);
    await sleep(everyMs);
  }
}

/** A running `ringbeat` command. */
export interface CliProcess {
  readonly child: GuardedChild;
  readonly pid: number;
  /** When it was started, on the monotonic clock. */
  readonly startedAtMs: number;
  /** The first line of its log with this `event`; rejects when it ends before, with the end of its log. */
  event(name: string): Promise<Readonly<Record<string, unknown>>>;
}

export async function startCli(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<CliProcess> {
  const startedAtMs = performance.now();
  const child = await spawnGuarded(process.execPath, [...NODE_FLAGS, CLI, ...args], {
    graceSec: 5,
    stdout: 'ignore',
    stderr: 'pipe',
    env: { ...process.env, ...env },
  });
  const events = new Map<string, Readonly<Record<string, unknown>>>();
  const lastLines: string[] = [];
  createInterface({ input: child.process.stderr! }).on('line', (line) => {
    lastLines.push(line);
    if (lastLines.length > 20) lastLines.shift();
    const record = jsonObject(line);
    if (typeof record?.event === 'string' && !events.has(record.event)) events.set(record.event, record);
  });
  return {
    child,
    pid: child.pid,
    startedAtMs,
    event: (name) =>
      awaitValue(`${name} of ringbeat ${args.join(' ')}`, () => {
        const record = events.get(name);
        if (record !== undefined) return record;
        if (child.hasExited()) throw new Error(`ringbeat ${args.join(' ')} ended:\n${lastLines.join('\n')}`);
        return null;
      }),
  };
}

function jsonObject(line: string): Record<string, unknown> | null {
  if (!line.startsWith('{')) return null;
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

/** A beat node that serves the API. */
export interface Node extends CliProcess {
  readonly api: string;
}

export async function startNode(redisUrl: string, args: readonly string[] = []): Promise<Node> {
  const started = await startCli(['beat', '--redis', redisUrl, '--api-port', '0', ...args]);
  const { host, port } = await started.event('api_listening');
  const api = `http://${host}:${port}`;
  await awaitValue(`${api}/readyz`, async () => ((await fetch(`${api}/readyz`).catch(() => null))?.ok ? true : null));
  return { ...started, api };
}

/** CPU time that a process has used so far, in all its threads, ms. */
export function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The name before may hold anything, so fields are counted from its closing parenthesis.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const TICK_MS = 10;
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

/** Memory of a process that is in RAM, bytes. */
export function residentBytes(pid: number): number {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
  return Number(kilobytes) * 1_024;
}

/** Shares of one core that processes use from now on: `stop()` gives one for each, in order. */
export function watchCpu(pids: readonly number[]): { stop(): number[] } {
  const startedAtMs = performance.now();
  const before = pids.map(cpuMs);
  return {
    stop() {
      const elapsedMs = performance.now() - startedAtMs;
      return pids.map((pid, at) => (cpuMs(pid) - before[at]!) / elapsedMs);
    },
  };
}
