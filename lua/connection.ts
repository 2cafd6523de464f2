import { Redis } from 'ioredis';
import { RingbeatError } from '../protocol/errors.ts';
import { tellTracingSubscribers } from './tracing-channels.ts';

tellTracingSubscribers();

export interface ConnectionOptions {
  /** Which command-line option the URL came from, for error texts. */
  readonly option: string;
  /** Shown by `CLIENT LIST`. */
  readonly name: string;
  /** After this long without a reply a command counts as "may have run" and is rejected. Default 5,000 ms. */
  readonly commandTimeoutMs?: number;
}

/**
 * A connection that reconnects by itself for as long as the process lives. Commands sent while Redis is away wait for
 * it, at most `commandTimeoutMs`. Nothing is sent before the returned promise's connection is used.
 * Throws BAD_URL or NOT_YET_SUPPORTED for a URL that is none of redis://, rediss://, unix://.
 */
export function connect(url: string, options: ConnectionOptions): Redis {
  const connection = new Redis({
    ...parseRedisUrl(url, options.option),
    connectionName: options.name,
    commandTimeout: options.commandTimeoutMs ?? 5_000,
    connectTimeout: 5_000,
    // A half-open connection answers nothing for ever: leave it once a command has timed out twice over.
    socketTimeout: 2 * (options.commandTimeoutMs ?? 5_000),
    // Reconnecting is quick, for lateness is what we sell.
    retryStrategy: (attempt) => Math.min(20 * 2 ** Math.min(attempt, 6), 500),
    maxRetriesPerRequest: null,
    enableReadyCheck: true,
    enableAutoPipelining: false,
    noDelay: true,
    // See `keepSubscribed`.
    autoResubscribe: false,
  });
  // Without a listener ioredis prints; whoever waits on a command gets its rejection, and readiness tells the rest.
  connection.on('error', () => {});
  return connection;
}

/** A subscription that Redis did not answer, or refused, is tried again after this, ms. */
const SUBSCRIBE_AGAIN_MS = 1_000;

/**
 * Hears a channel, or those of a pattern, from now on, and again after each reconnection. Resolves or rejects as the first
 * try does; however it ends, others follow until the connection is closed. (ioredis would subscribe anew by itself, but
 * where Redis does not answer that in time, it forgets the subscription and leaves a rejection that nobody can handle.)
 */
export function keepSubscribed(
  connection: Redis,
  command: 'subscribe' | 'psubscribe',
  channel: string,
): Promise<unknown> {
  const again = () => {
    connection[command](channel).catch(later);
  };
  const later = () => {
    if (connection.status === 'ready') setTimeout(again, SUBSCRIBE_AGAIN_MS).unref();
  };
  connection.on('ready', again);
  const first = connection[command](channel);
  first.catch(later);
  return first;
}

/** Where a Redis URL points, as ioredis wants it. */
export interface RedisAddress {
  readonly db: number;
  readonly username?: string;
  readonly password?: string;
  readonly host?: string;
  readonly port?: number;
  readonly path?: string;
  readonly tls?: Record<string, never>;
}

/** The connection settings that a Redis URL stands for: `redis://`, `rediss://` (TLS) and `unix:///path?db=0`. */
export function parseRedisUrl(url: string, option: string): RedisAddress {
  const refuse = (reason: string) => new RingbeatError('BAD_URL', { option, url: withoutPassword(url), reason });
  const scheme = /^([a-z][a-z0-9+-]*):\/\//i.exec(url)?.[1]?.toLowerCase();
  switch (scheme) {
    case 'redis':
    case 'rediss':
    case 'unix':
      break;
    case 'redis-cluster':
    case 'redis-sentinel':
      throw new RingbeatError('NOT_YET_SUPPORTED', {
        what: `${option} ${scheme}://`,
        remedy: 'Use redis://, rediss:// or unix://.',
      });
    default:
      throw refuse(scheme === undefined ? 'it is no URL' : `unknown scheme ${scheme}://`);
  }
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw refuse('it is no URL');
  }
  const dbText = scheme === 'unix' ? (parsed.searchParams.get('db') ?? '') : parsed.pathname.replace(/^\//, '');
  if (!/^\d*$/.test(dbText)) throw refuse(`the database must be a number, got "${dbText}"`);
  const credentials: RedisAddress = {
    db: Number(dbText || 0),
    ...(parsed.username === '' ? {} : { username: decodeURIComponent(parsed.username) }),
    ...(parsed.password === '' ? {} : { password: decodeURIComponent(parsed.password) }),
  };
  if (scheme === 'unix') return { ...credentials, path: decodeURIComponent(parsed.pathname) };
  if (parsed.hostname === '') throw refuse('it names no host');
  return {
    ...credentials,
    host: parsed.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: parsed.port === '' ? 6379 : Number(parsed.port),
    ...(scheme === 'rediss' ? { tls: {} } : {}),
  };
}

/** The URL as it may be shown: with its password hidden. */
export function withoutPassword(url: string): string {
  return url.replace(/(:\/\/[^:@/]*:)[^@/]*@/, '$1***@');
}
