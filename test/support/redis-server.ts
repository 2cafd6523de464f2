import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import type { Test } from 'tap';
import { startEmbeddedRedis } from '../../runtime/embedded-redis.ts';
import { eventually } from './eventually.ts';

export interface RedisOptions {
  /** Append-only file on; data then survives `kill` and `restart`. Default false. */
  readonly appendonly?: boolean;
  /** More settings, as on redis-server's command line. */
  readonly args?: readonly string[];
  /** Give the URL of the Unix socket as `url`. Default: TCP, whose URL stays the same over a restart. */
  readonly unixSocket?: boolean;
}

/** A redis-server of one test's own. */
export interface RedisServer {
  /** `redis://127.0.0.1:<port>/0`, or `unix://…`. */
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** A plain connection; whoever asks for it closes it. */
  connect(): Redis;
  /** Ends it as SHUTDOWN does; `restart` starts it again with what its append-only file holds. */
  stop(): Promise<void>;
  /** kill -9. */
  kill(): Promise<void>;
  /** Ends it if it runs, and starts it on the same port. */
  restart(): Promise<void>;
  /** SIGSTOP: connections stay open, nobody answers. */
  pause(): void;
  resume(): void;
  /** Ends it and removes its data. */
  remove(): Promise<void>;
}

export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  const dataDir = mkdtempSync(join(tmpdir(), 'ringbeat-test-redis-'));
  const launch = (port: number) =>
    startEmbeddedRedis({ dataDir, port, appendOnly: options.appendonly ?? false, args: options.args ?? [] });
  let server = await onPortOfOwn(launch);
  return {
    get url() {
      return options.unixSocket ? server.socketUrl : server.url;
    },
    port: server.port,
    get pid() {
      return server.pid;
    },
    connect: () =>
      quiet(
        options.unixSocket ? new Redis(server.socketUrl.slice('unix://'.length)) : new Redis(server.port, '127.0.0.1'),
      ),
    stop: () => server.stop(),
    async kill() {
      server.kill('SIGKILL');
      await server.stop();
    },
    async restart() {
      await server.stop();
      server = await launch(server.port);
    },
    pause: () => server.kill('SIGSTOP'),
    resume: () => server.kill('SIGCONT'),
    async remove() {
      server.kill('SIGCONT');
      await server.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

/**
 * A Redis that ends with the test. The test fails if, after everything else that it tore down, anybody is still
 * connected: what opens a connection must close it.
 */
export async function withRedis(t: Test, options: RedisOptions = {}): Promise<RedisServer> {
  const server = await startRedis(options);
  t.teardown(async () => {
    server.resume();
    try {
      await noConnections(server);
    } finally {
      await server.remove();
    }
  });
  return server;
}

/** Waits until nobody is connected; throws naming who still is. A Redis that is down has no connections. */
export async function noConnections(server: RedisServer, deadlineMs = 15_000): Promise<void> {
  const observer = new Redis(server.port, '127.0.0.1', {
    lazyConnect: true,
    retryStrategy: () => null,
    connectionName: 'observer',
  });
  observer.on('error', () => {});
  try {
    await observer.connect();
  } catch {
    return;
  }
  try {
    await eventually(
      async () => {
        const others = String(await observer.client('LIST'))
          .trim()
          .split('\n')
          .filter((line) => !line.includes('name=observer '));
        if (others.length > 0) throw new Error(`connections left open:\n${others.join('\n')}`);
      },
      { deadlineMs },
    );
  } finally {
    observer.disconnect();
  }
}

/**
 * Ports of this process: below those that the system gives out by itself, or somebody would be given the port of a Redis
 * that is down for a moment; and not those of the processes that run other test files meanwhile.
 */
const PORTS_EACH = 16;
const FIRST_PORT = 10_000 + PORTS_EACH * (process.pid % 1_400);
let portsTried = 0;

/** Launches a server on a port that nobody else of the tests uses, on another one where it fails. */
export async function onPortOfOwn<Server>(launch: (port: number) => Promise<Server>): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    const port = FIRST_PORT + (portsTried++ % PORTS_EACH);
    try {
      return await launch(port);
    } catch (error) {
      if (attempt === 5) throw error;
    }
  }
}

/** ioredis prints connection errors that nobody listens to; in a test Redis goes away on purpose. */
function quiet(redis: Redis): Redis {
  redis.on('error', () => {});
  return redis;
}
