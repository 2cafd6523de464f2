import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { type ChildExit, type GuardedChild, spawnGuarded } from './guarded-child.ts';

export interface EmbeddedRedisOptions {
  /** Where its data is kept, made if it is missing. Default: a new temporary folder, removed when Redis has ended. */
  readonly dataDir?: string;
  /** TCP port on 127.0.0.1. Default: any free one. */
  readonly port?: number;
  /** Append-only file, written to disk once a second. Default true. */
  readonly appendOnly?: boolean;
  /** More settings, as on redis-server's command line: `['--maxmemory', '64mb']`. */
  readonly args?: readonly string[];
}

/** A real redis-server that is a child of this process and ends with it, however that ends. */
export interface EmbeddedRedis {
  /** For everybody on this machine: `redis://127.0.0.1:<port>/0`. */
  readonly url: string;
  /** The same server by its Unix socket, which costs both sides less: `unix:///…`. */
  readonly socketUrl: string;
  readonly port: number;
  readonly pid: number;
  readonly dataDir: string;
  /** Processes that hold this are waited for before Redis ends, should this process be killed. */
  readonly lifeline: Writable;
  readonly exited: Promise<ChildExit>;
  kill(signal: NodeJS.Signals): boolean;
  /** Ends Redis as SHUTDOWN does, its append-only file complete. May be called twice. */
  stop(): Promise<void>;
}

/** How long Redis may take to answer the first PING; loading its data is not counted. */
const START_MS = 10_000;
/** How long Redis may take to end. */
const STOP_MS = 10_000;
/** A rewrite of the append-only file every few seconds would cost more than the log itself under full load. */
const AOF_REWRITE_MIN_SIZE = '1gb';

/**
 * Starts redis-server and waits until it answers. Throws NO_REDIS_SERVER where there is none on PATH, and
 * REDIS_NOT_STARTED with Redis's own words, or when `dataDir` belongs to another embedded Redis that is running.
 */
export async function startEmbeddedRedis(options: EmbeddedRedisOptions = {}): Promise<EmbeddedRedis> {
  if (spawnSync('redis-server', ['--version'], { stdio: 'ignore' }).error !== undefined)
    throw new RingbeatError('NO_REDIS_SERVER', {});
  const port = options.port ?? (await freePort());
  // From here to the start of its watcher nothing is awaited: a process killed in between would leave the folder behind.
  // It holds the socket, whose path must be short (108 bytes), and the data unless that is to stay.
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-redis-'));
  const dataDir = options.dataDir === undefined ? folder : resolve(options.dataDir);
  try {
    mkdirSync(dataDir, { recursive: true });
    const held = lock(dataDir);
    try {
      return await launch(port, folder, dataDir, options, held);
    } catch (error) {
      held.release();
      throw error;
    }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error instanceof RingbeatError ? error : notStarted(messageOf(error), error);
  }
}

async function launch(
  firstPort: number,
  folder: string,
  dataDir: string,
  options: EmbeddedRedisOptions,
  held: Lock,
): Promise<EmbeddedRedis> {
  const socket = join(folder, 'redis.sock');
  const logFile = join(folder, 'redis.log');
  for (let attempt = 1, port = firstPort; ; attempt++, port = await freePort()) {
    const child = await spawnGuarded('redis-server', serverArguments({ port, socket, logFile, dataDir, options }), {
      graceSec: STOP_MS / 1_000,
      removeFolder: folder,
      stdout: 'ignore',
      stderr: 'ignore',
    });
    held.handTo(child.pid);
    try {
      await answering(child, socket, logFile);
    } catch (error) {
      await child.stop(0);
      // Another program may have taken the free port between our look and Redis's.
      const retry = options.port === undefined && attempt < 5 && /already in use/i.test(messageOf(error));
      if (retry) continue;
      throw error;
    }
    const cleaned = child.exited.then(() => {
      held.release();
      rmSync(folder, { recursive: true, force: true });
    });
    return {
      url: `redis://127.0.0.1:${port}/0`,
      socketUrl: `unix://${socket}`,
      port,
      pid: child.pid,
      dataDir,
      lifeline: child.lifeline,
      exited: child.exited,
      kill: child.kill,
      async stop() {
        await child.stop(STOP_MS);
        await cleaned;
      },
    };
  }
}

interface ServerPlace {
  readonly port: number;
  readonly socket: string;
  readonly logFile: string;
  readonly dataDir: string;
  readonly options: EmbeddedRedisOptions;
}

function serverArguments({ port, socket, logFile, dataDir, options }: ServerPlace): string[] {
  return [
    ...['--bind', '127.0.0.1', '--port', String(port), '--unixsocket', socket, '--unixsocketperm', '700'],
    ...['--daemonize', 'no', '--dir', dataDir, '--logfile', logFile, '--save', ''],
    ...['--appendonly', options.appendOnly === false ? 'no' : 'yes', '--appendfsync', 'everysec'],
    ...['--auto-aof-rewrite-min-size', AOF_REWRITE_MIN_SIZE, '--maxmemory-policy', 'noeviction'],
    ...(options.args ?? []),
  ];
}

async function answering(child: GuardedChild, socket: string, logFile: string): Promise<void> {
  let giveUpAtMs = performance.now() + START_MS;
  for (;;) {
    if (child.hasExited()) throw notStarted(lastLine(logFile));
    const reply = await ping(socket);
    if (reply.startsWith('+PONG')) return;
    if (reply.startsWith('-LOADING')) giveUpAtMs = performance.now() + START_MS;
    if (performance.now() > giveUpAtMs) throw notStarted(reply === '' ? lastLine(logFile) : reply.trim());
    await sleep(10);
  }
}

/** Redis's first answer to PING, as it came; empty where nobody answers. */
function ping(socket: string): Promise<string> {
  return new Promise((resolve) => {
    const connection = connect(socket, () => connection.write('PING\r\n'));
    connection.setTimeout(1_000, () => connection.destroy());
    connection.on('error', () => {});
    connection.on('data', (data) => {
      resolve(data.toString('latin1'));
      connection.destroy();
    });
    connection.on('close', () => resolve(''));
  });
}

function lastLine(logFile: string): string {
  const lines = existsSync(logFile) ? readFileSync(logFile, 'utf8').trim().split('\n') : [];
  return lines.at(-1) || 'it said nothing';
}

/** A TCP port of 127.0.0.1 that nobody listens on at this moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

/**
 * Two servers that append to the same file would destroy it, so the folder names the process that uses it: this one
 * until Redis runs, then Redis itself, which may outlive this one by a moment. The lock of a process that is gone
 * does not count.
 */
function lock(dataDir: string): Lock {
  const file = join(dataDir, 'ringbeat-redis.lock');
  const holder = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0;
  if (holder > 0 && isAlive(holder))
    throw notStarted(`${dataDir} is in use by process ${holder} (if that is no redis-server, remove ${file})`);
  rmSync(file, { force: true });
  writeFileSync(file, String(process.pid), { flag: 'wx' });
  return {
    handTo: (pid) => writeFileSync(file, String(pid)),
    release: () => rmSync(file, { force: true }),
  };
}

interface Lock {
  handTo(pid: number): void;
  release(): void;
}

/** A zombie does not count: it waits for a parent that may never ask. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
  const status = `/proc/${pid}/stat`;
  return !existsSync(status) || !/\) Z /.test(readFileSync(status, 'utf8'));
}

function notStarted(reason: string, cause?: unknown): RingbeatError {
  return new RingbeatError(
    'REDIS_NOT_STARTED',
    { seconds: START_MS / 1_000, reason },
    cause === undefined ? {} : { cause },
  );
}
