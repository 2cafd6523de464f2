import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { FastifyInstance } from 'fastify';
import { connect, keepSubscribed, withoutPassword } from '../lua/connection.ts';
import type { DispatchReply } from '../lua/dispatch.ts';
import { namespaceKeys, shardKeys } from '../lua/keys.ts';
import { realign } from '../lua/realign.ts';
import { requireRedisVersion } from '../lua/redis-version.ts';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { RevokedTasks } from '../protocol/revoked-tasks.ts';
import { DeadLetters } from '../registry/dead-letters.ts';
import type { Namespace } from '../registry/namespace.ts';
import { namespaceGone, Registry } from '../registry/registry.ts';
import { Tasks } from '../registry/tasks.ts';
import { RedisClock } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import type { Service } from '../runtime/service.ts';
import { VERSION } from '../runtime/version.ts';
import type { ApiToken } from './api/auth.ts';
import { requireSafeListener } from './api/auth.ts';
import { createApi } from './api/server.ts';
import type { Readiness, System } from './api/system.ts';
import { Calendars } from './calendars.ts';
import { Completions } from './completions.ts';
import type { BeatConfig } from './config.ts';
import { RemoteControl } from './control.ts';
import { DelayedQueues } from './delayed.ts';
import { joinAtStart } from './join.ts';
import { Journal } from './journal/journal.ts';
import { Membership } from './membership.ts';
import { Metrics, type ShardGauges } from './metrics.ts';
import { Recovery } from './recovery.ts';
import { type NodeInfo, readNodes, readQueues, readShards, readStats } from './status.ts';
import { Sweeper } from './sweeper.ts';
import { Ticker } from './ticker.ts';

/** A dispatch loop that has not turned for this long is stuck: twice what a command may take. */
const STUCK_MS = 15_000;

/** One beat node: dispatches its shards, helps with the others', serves the API. */
export interface BeatNode extends Service {
  readonly id: string;
}

/** Builds a node and joins the namespace. Throws RingbeatError: bad URL, other shard count, no Redis it can use. */
export async function createBeatNode(config: BeatConfig, log: Log): Promise<BeatNode> {
  const tokens = parseTokens(config.apiToken);
  if (!config.noApi) requireSafeListener(config.apiHost, tokens, config.insecure);
  const id = `${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`;
  const names = namespaceKeys(config.namespace);
  const metrics = new Metrics();
  const journal =
    config.journalDir === null
      ? null
      : await Journal.open({
          dir: config.journalDir,
          redisUrl: config.redis,
          namespace: config.namespace,
          nodeId: id,
          log,
          onRestored: metrics.recordRestored.bind(metrics),
        });
  if (journal !== null) metrics.watchJournal(() => journal.isWhole);
  const redis = connect(config.redis, { option: '--redis', name: `ringbeat-beat-${id}` });
  // Imports send much at once: dispatch must not wait in line behind them.
  const apiRedis = connect(config.redis, { option: '--redis', name: `ringbeat-api-${id}` });
  const subscriber = connect(config.redis, { option: '--redis', name: `ringbeat-wake-${id}` });
  const clock = new RedisClock((jumpMs) => takeJump(jumpMs));
  const startedAtMs = Date.now();
  let draining = false;
  let hasSteppedBack = false;

  const joined = await join().catch(async (error: unknown) => {
    for (const connection of [redis, apiRedis, subscriber]) connection.disconnect();
    await journal?.stop();
    if (error instanceof RingbeatError) throw error;
    throw new RingbeatError(
      'REDIS_UNREACHABLE',
      { url: withoutPassword(config.redis), reason: messageOf(error) },
      { cause: error },
    );
  });

  async function join(): Promise<Namespace> {
    await requireRedisVersion(redis);
    const wanted = {
      shards: config.shards,
      queueCap: config.queueCap,
      misfireThresholdMs: Math.round(config.misfireThreshold * 1_000),
      keepCompletedMs: Math.round(config.keepCompleted * 1_000),
      recoveryRate: config.recoveryRate,
      missedFirst: config.recoveryOrder === 'missed' ? 1 : 0,
      delayedQueues: config.delayedQueues,
    };
    const { namespace: name, createAtOnce } = config;
    return joinAtStart({ redis, names, name, nodeId: id, wanted, journal, createAtOnce });
  }

  const membership = new Membership({
    redis,
    names,
    nodeId: id,
    namespace: joined,
    clock,
    log,
    journal,
    describe: (): NodeInfo => ({
      hostname: hostname(),
      pid: process.pid,
      version: VERSION,
      startedAtMs,
      rate: metrics.rate(clock.nowMs()),
    }),
  });
  const namespace = () => membership.namespace;
  const requireNamespace = (): Namespace => {
    const current = namespace();
    if (current === null) throw namespaceGone(config.namespace);
    return current;
  };
  const allShards = Array.from({ length: joined.shards }, (_, shard) => shardKeys(config.namespace, shard));
  let owned = allShards.slice(0, 0);
  let others = allShards;
  const ticking = { redis, names, clock, log, namespace, onDispatch: takeReply };
  const owner = new Ticker({ ...ticking, name: 'owner', graceMs: 0, shards: () => owned });
  const helper = new Ticker({ ...ticking, name: 'helper', graceMs: config.helpAfter, shards: () => others });
  const isBusy = () => metrics.rate(clock.nowMs()) > 0;
  const sweeper = new Sweeper({ redis, names, log, namespace, isBusy, shards: () => owned });

  const calendars = new Calendars({
    redis,
    names,
    clock,
    log,
    namespace,
    shards: () => owned,
    onDue: (dueMs) => owner.wake(dueMs),
  });
  const completions = new Completions({
    redis,
    subscriber,
    names,
    log,
    namespace,
    allShards,
    owned: () => membership.owned,
  });

  const onRecovered = metrics.recordRecovered.bind(metrics);
  const revoked = new RevokedTasks();
  const control = new RemoteControl({ redis: apiRedis, subscriber, clock, revoked, log, namespace });
  const delayed = new DelayedQueues({ redis: apiRedis, nodeId: id, revoked, log, namespace });
  const recovery = new Recovery({ redis, namespace: config.namespace, clock, log, onRecovered });

  membership.on('owned', (shards) => {
    const mine = new Set(shards);
    owned = allShards.filter((_, shard) => mine.has(shard));
    others = allShards.filter((_, shard) => !mine.has(shard));
    owner.wake();
    helper.wake();
    calendars.wake();
    // Whoever owned them before may have died before it could.
    if (hasSteppedBack) realignShards();
  });

  function takeReply(reply: DispatchReply): void {
    metrics.record(reply);
    if (reply.sent > 0) sweeper.wake();
  }

  /** Redis's clock jumped: forward is like an outage, which dispatch deals with; back needs the schedules realigned. */
  function takeJump(jumpMs: number): void {
    log.warn({ event: 'redis_clock_jumped', ms: jumpMs });
    metrics.recordJump();
    hasSteppedBack ||= jumpMs < 0;
    if (jumpMs < 0) realignShards();
  }

  /** Interval schedules that wait longer than their interval, and need not, go back to their grid. */
  function realignShards(): void {
    const current = namespace();
    if (current === null) return;
    for (const keys of owned) {
      realign(redis, names, keys, current.epoch).then(
        (moved) => {
          if (moved > 0) log.warn({ event: 'schedules_realigned', shard: keys.due, moved });
          owner.wake();
        },
        (error: unknown) => log.error({ event: 'realign_failed', shard: keys.due, reason: messageOf(error) }),
      );
    }
  }

  redis.on('close', () => clock.disturbed());
  redis.on('ready', () => {
    clock.disturbed();
    membership.refresh();
    owner.wake();
    helper.wake();
  });
  subscriber.on('message', (channel, message: string) => {
    if (channel !== names.wake) return;
    const [shard, dueMs] = message.split(':');
    if (dueMs === undefined) membership.refresh();
    else if (membership.owned.includes(Number(shard))) owner.wake(Number(dueMs));
    else helper.wake(Number(dueMs));
  });
  // Wake-ups that were published while this connection was down are made up for by the longest sleep.
  keepSubscribed(subscriber, 'subscribe', names.wake).catch((error: unknown) =>
    log.warn({ event: 'subscribe_failed', reason: messageOf(error) }),
  );

  const system: System = {
    nodes: () => readNodes(apiRedis, names, membership.owners),
    shards: () => readShards(apiRedis, requireNamespace(), system.ownerOf),
    queues: () => readQueues(apiRedis, requireNamespace()),
    stats: () => readStats(apiRedis, names, requireNamespace(), clock.nowMs()),
    ownerOf: (shard) => [...membership.owners].find(([, shards]) => shards.includes(shard))?.[0] ?? null,
    redisIsReachable: () => redis.status === 'ready',
    nowMs: () => clock.nowMs(),
    isLive: () => owner.silentMs < STUCK_MS && helper.silentMs < STUCK_MS,
    isReady: readiness,
    metrics: async () => metrics.text(await gauges()),
  };

  function readiness(): Readiness {
    if (draining) return { ready: false, reason: 'This node is shutting down.' };
    if (redis.status !== 'ready') return { ready: false, reason: 'Redis is not reachable.' };
    if (membership.silentMs > 3_000) return { ready: false, reason: 'Redis does not answer.' };
    if (namespace() === null) return { ready: false, reason: `Namespace ${config.namespace} is not in Redis.` };
    if (membership.owners.size === 0) return { ready: false, reason: 'The shards of this node are not known yet.' };
    return { ready: true };
  }

  async function gauges(): Promise<ShardGauges | null> {
    const current = namespace();
    if (redis.status !== 'ready' || current === null) return null;
    const [shards, queues] = await Promise.all([
      readShards(apiRedis, current, system.ownerOf),
      readQueues(apiRedis, current),
    ]);
    const mine = shards.filter(({ owner }) => owner === id);
    return {
      schedules: mine.reduce((sum, { schedules }) => sum + schedules, 0),
      overdue: mine.reduce((sum, { overdue }) => sum + overdue, 0),
      shards: mine.map(({ id }) => id),
      queueLengths: new Map(queues.map(({ name, length }) => [name, length])),
    };
  }

  const registry = new Registry({ redis: apiRedis, names, namespace: requireNamespace, nowMs: () => clock.nowMs() });
  const tasks = new Tasks({ redis: apiRedis, names, namespace: requireNamespace });
  const deadLetters = new DeadLetters({ redis: apiRedis, names, namespace: requireNamespace });
  const api = config.noApi
    ? null
    : createApi({ registry, tasks, deadLetters, system, redis: apiRedis, namespace: config.namespace, tokens, log });
  const services: readonly Service[] = [
    membership,
    owner,
    helper,
    sweeper,
    calendars,
    completions,
    recovery,
    control,
    delayed,
    ...(journal === null ? [] : [journal]),
  ];

  return {
    id,
    async start() {
      // The port first: a node that cannot have it must not be in the ring.
      if (api !== null) {
        await listen(api, config, log).catch(async (error: unknown) => {
          for (const connection of [redis, apiRedis, subscriber]) connection.disconnect();
          await journal?.stop();
          throw error;
        });
      }
      for (const service of services) await service.start();
      log.info({
        event: 'beat_started',
        node: id,
        namespace: config.namespace,
        shards: joined.shards,
        version: VERSION,
      });
    },
    /** Unready first, so that load balancers turn away; out of the ring next, so that others take over while we finish. */
    async stop() {
      draining = true;
      // Together: where Redis does not answer, each of them waits for a command.
      await Promise.all(services.filter((service) => service !== membership).map((service) => service.stop()));
      await membership.stop();
      await api?.close();
      for (const connection of [redis, apiRedis, subscriber]) connection.disconnect();
      log.info({ event: 'beat_stopped', node: id });
    },
  };
}

async function listen(api: FastifyInstance, config: BeatConfig, log: Log): Promise<void> {
  try {
    await api.listen({ host: config.apiHost, port: config.apiPort });
  } catch (error) {
    throw new RingbeatError(
      'PORT_TAKEN',
      { host: config.apiHost, port: config.apiPort, reason: messageOf(error), option: '--api-port' },
      { cause: error },
    );
  }
  const [address] = api.addresses();
  log.info({
    event: 'api_listening',
    host: config.apiHost,
    port: typeof address === 'object' ? address.port : config.apiPort,
  });
}

/** `secret` or `secret:write` may do everything, `secret:read` only read. */
function parseTokens(texts: readonly string[]): ApiToken[] {
  return texts.map((text) => {
    const [, token, scope] = /^(.+?)(?::(read|write))?$/.exec(text)!;
    return { token: token!, scope: scope === 'read' ? 'read' : 'write' };
  });
}
