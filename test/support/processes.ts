import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { type ChildExit, type GuardedChild, spawnGuarded } from '../../runtime/guarded-child.ts';
import { NODE_FLAGS } from '../../runtime/node-flags.ts';
import { until } from './eventually.ts';

/** Our own command line, as compiled beside this file. */
export const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));

export interface SpawnOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** A process of a test's own: ends with it, and with the test's process should that be killed. */
export interface Spawned {
  readonly pid: number;
  /** What it wrote so far. */
  readonly stdout: string;
  readonly stderr: string;
  /** Its log so far: every line of standard error that is a JSON object. */
  readonly log: readonly LogLine[];
  readonly exited: Promise<ChildExit>;
  hasExited(): boolean;
  kill(signal: NodeJS.Signals): boolean;
  /** SIGTERM, and SIGKILL after 10 s. */
  stop(): Promise<ChildExit>;
  /** The first log line with this `event`; throws with its output when it ends or does not come in time. */
  logged(event: string, deadlineMs?: number): Promise<LogLine>;
}

export interface LogLine {
  readonly event?: string;
  readonly [field: string]: unknown;
}

/** Runs `ringbeat <args>`. */
export function spawnRingbeat(t: Test, args: readonly string[], options: SpawnOptions = {}): Promise<Spawned> {
  return spawnProcess(t, process.execPath, [...NODE_FLAGS, CLI, ...args], options);
}

export interface SpawnedBeat extends Spawned {
  /** Base of its API, such as `http://127.0.0.1:40123`. */
  readonly api: string;
}

/** A beat node on a free port; resolves when it is ready. */
export async function spawnBeat(
  t: Test,
  redisUrl: string,
  args: readonly string[] = [],
  options: SpawnOptions = {},
): Promise<SpawnedBeat> {
  const beat = await spawnRingbeat(t, ['beat', '--redis', redisUrl, '--api-port', '0', ...args], options);
  const line = await beat.logged('api_listening');
  const api = `http://${line.host}:${line.port}`;
  await until(async () => {
    if (beat.hasExited()) throw new Error(`beat ended:\n${beat.stderr}`);
    return (await fetch(`${api}/readyz`)).ok;
  }, `beat is ready at ${api}`);
  return Object.assign(beat, { api });
}

/** A bundled worker; resolves when it takes messages. Give `--tasks FILE` in `args`. */
export async function spawnWorker(
  t: Test,
  redisUrl: string,
  args: readonly string[],
  options: SpawnOptions = {},
): Promise<Spawned> {
  const worker = await spawnRingbeat(t, ['worker', '--redis', redisUrl, ...args], options);
  await worker.logged('worker_ready');
  return worker;
}

export async function spawnProcess(
  t: Test,
  program: string,
  args: readonly string[],
  options: SpawnOptions = {},
): Promise<Spawned> {
  const child = await spawnGuarded(program, args, {
    graceSec: 1,
    env: { ...process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  const spawned = observe(child, [program, ...args].join(' '));
  t.teardown(async () => {
    child.kill('SIGCONT');
    await child.stop(10_000);
  });
  return spawned;
}

function observe(child: GuardedChild, command: string): Spawned {
  let stdout = '';
  let stderr = '';
  const log: LogLine[] = [];
  let unfinished = '';
  child.process.stdout!.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.process.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    const lines = (unfinished + text).split('\n');
    unfinished = lines.pop() ?? '';
    for (const line of lines) if (line.startsWith('{')) log.push(JSON.parse(line));
  });
  return {
    pid: child.pid,
    get stdout() {
      return stdout;
    },
    get stderr() {
      return stderr;
    },
    log,
    // `close`, not `exit`: then everything it wrote has been read.
    exited: new Promise((resolve) => child.process.once('close', (code, signal) => resolve({ code, signal }))),
    hasExited: child.hasExited,
    kill: child.kill,
    stop: () => child.stop(10_000),
    async logged(event, deadlineMs = 60_000) {
      let found: LogLine | undefined;
      await until(
        () => {
          found = log.find((line) => line.event === event);
          return found !== undefined || child.hasExited();
        },
        `${command} logs ${event}`,
        { deadlineMs },
      ).catch((error: unknown) => {
        throw new Error(`No ${event} from ${command}:\n${stdout}${stderr}`, { cause: error });
      });
      if (found === undefined) throw new Error(`${command} ended before it logged ${event}:\n${stdout}${stderr}`);
      return found;
    },
  };
}
