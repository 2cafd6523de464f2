import { request } from 'node:http';
import type { FastifyInstance } from 'fastify';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import type { Test } from 'tap';
import { connect } from '../../lua/connection.ts';
import { type DispatchReply, type DispatchRequest, dispatch } from '../../lua/dispatch.ts';
import { namespaceKeys, shardKeys } from '../../lua/keys.ts';
import { DeadLetters } from '../../registry/dead-letters.ts';
import { joinNamespace, type Namespace } from '../../registry/namespace.ts';
import { Registry } from '../../registry/registry.ts';
import { Tasks } from '../../registry/tasks.ts';
import type { ApiToken } from '../../scheduler/api/auth.ts';
import { createApi } from '../../scheduler/api/server.ts';
import type { System } from '../../scheduler/api/system.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';

export const NAMESPACE = 'rb';

export interface TestApi {
  readonly app: FastifyInstance;
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  readonly port: number;
  readonly redis: Redis;
  readonly server: RedisServer;
  readonly registry: Registry;
  readonly namespace: Namespace;
  /** Sends what is due in all shards, as a beat node does; how many messages. Runs are only ever late, unless told else. */
  dispatch(request?: Partial<DispatchRequest>): Promise<number>;
}

export interface TestApiOptions {
  readonly tokens?: readonly ApiToken[];
  readonly system?: Partial<System>;
  readonly shards?: number;
  readonly queueCap?: number;
}

/** The API on a Redis of the test's own, with the state of a node that does nothing but serve it. */
export async function startApi(t: Test, options: TestApiOptions = {}): Promise<TestApi> {
  const server = await withRedis(t);
  const redis = connect(server.url, { option: '--redis', name: 'api-test', commandTimeoutMs: 2_000 });
  t.teardown(() => redis.disconnect());
  const names = namespaceKeys(NAMESPACE);
  const settings = {
    queueCap: options.queueCap ?? 1_000_000,
    misfireThresholdMs: 1_000,
    keepCompletedMs: 3_600_000,
    recoveryRate: 0,
    missedFirst: 0,
    delayedQueues: [],
    shards: options.shards ?? 16,
  };
  const namespace: Namespace = await joinNamespace(redis, names, NAMESPACE, settings);
  const registry = new Registry({ redis, names, namespace: () => namespace, nowMs: () => Date.now() });
  const app = createApi({
    registry,
    tasks: new Tasks({ redis, names, namespace: () => namespace }),
    deadLetters: new DeadLetters({ redis, names, namespace: () => namespace }),
    redis,
    namespace: NAMESPACE,
    tokens: options.tokens ?? [],
    log: pino({ level: 'silent' }),
    system: { ...idleSystem(redis), ...options.system },
  });
  t.teardown(() => app.close());
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const shards = Array.from({ length: namespace.shards }, (_, shard) => shardKeys(NAMESPACE, shard));
  const limits = { limit: 1_000, graceMs: 0, misfireThresholdMs: 1e15, recoveryRate: 0, missedFirst: false };
  const { epoch, queueCap } = namespace;
  return {
    app,
    url,
    port: Number(new URL(url).port),
    redis,
    server,
    registry,
    namespace,
    async dispatch(request = {}) {
      let sent = 0;
      for (let nextDueMs: DispatchReply['nextDueMs'] = 'soon'; nextDueMs === 'soon'; ) {
        const reply = await dispatch(redis, names, { epoch, shards, queueCap, ...limits, ...request });
        sent += reply.sent;
        nextDueMs = reply.nextDueMs;
      }
      return sent;
    },
  };
}

export interface CallOptions {
  /** Sent as application/json. */
  readonly json?: unknown;
  readonly body?: string | Buffer;
  /** Media type of `body`. */
  readonly type?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  /** The body parsed; undefined where there is none or it is no JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever came.
  readonly json: any;
}

/** One request, its path sent as it is: `fetch` would resolve `..`. */
export function call(
  api: Pick<TestApi, 'port'>,
  method: string,
  path: string,
  options: CallOptions = {},
): Promise<Reply> {
  const body = options.json === undefined ? options.body : JSON.stringify(options.json);
  const type = options.json === undefined ? options.type : 'application/json';
  const headers = {
    ...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
    ...(type === undefined ? {} : { 'content-type': type }),
    ...options.headers,
  };
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port: api.port, method, path, headers, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8');
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text,
          json: parsed(text, response.headers['content-type']),
        });
      });
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

export function importLines(
  api: TestApi,
  lines: readonly unknown[],
  headers: Readonly<Record<string, string>> = {},
): Promise<Reply> {
  const body = lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n');
  return call(api, 'POST', '/v1/schedules', { body, type: 'application/x-ndjson', headers });
}

export function schedulePath(id: string): string {
  return `/v1/schedules/${encodeURIComponent(id)}`;
}

/** Ids of all schedules there are, sorted. */
export async function storedIds(api: TestApi): Promise<string[]> {
  const ids: string[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page = await call(api, 'GET', `/v1/schedules?limit=1000${cursor === '' ? '' : `&cursor=${cursor}`}`);
    ids.push(...page.json.schedules.map(({ id }: { id: string }) => id));
    cursor = page.json.cursor;
  }
  return ids.sort();
}

function parsed(text: string, type: string | undefined): unknown {
  return type !== undefined && /[/+]json/.test(type) && text !== '' ? JSON.parse(text) : undefined;
}

function idleSystem(redis: Redis): System {
  return {
    async nodes() {
      return [
        {
          id: 'node-1',
          hostname: 'host',
          pid: 1,
          version: '0.1.0',
          startedAtMs: 1_000,
          lastSeenAtMs: 2_000,
          shards: [0, 1],
          rate: 0,
        },
      ];
    },
    async shards() {
      return [
        { id: 0, owner: 'node-1', schedules: 2, nextDueAtMs: 5_000, overdue: 0 },
        { id: 1, owner: null, schedules: 0, nextDueAtMs: null, overdue: 0 },
      ];
    },
    async queues() {
      return [
        {
          name: 'celery',
          length: 3,
          byPriority: new Map([
            [0, 3],
            [3, 0],
            [6, 0],
            [9, 0],
          ]),
          cap: 1_000_000,
          refused: 0,
        },
      ];
    },
    async stats() {
      const lateness = { p50: null, p99: null, p999: null, max: null };
      return {
        schedules: 2,
        enabled: 1,
        parked: 0,
        overdue: 0,
        inFlight: 0,
        missed: 0,
        deadLetters: 0,
        dispatched: 0,
        rate: 0,
        lateness,
        refused: 0,
        misfired: 0,
        skipped: 0,
        recovered: 0,
      };
    },
    ownerOf: (shard) => (shard === 0 ? 'node-1' : null),
    redisIsReachable: () => redis.status === 'ready',
    nowMs: () => Date.now(),
    isLive: () => true,
    isReady: () => (redis.status === 'ready' ? { ready: true } : { ready: false, reason: 'Redis cannot be reached.' }),
    metrics: async () => '# nothing\n',
  };
}
