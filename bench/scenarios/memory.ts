import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { queueLists } from '../../lua/keys.ts';
import { startConsumer } from '../consumer-process.ts';
import { loadLines, register } from '../load.ts';
import { residentBytes } from '../processes.ts';
import type { Parameters, Scenario } from '../scenario.ts';
import { openStage, QUEUE, usedMemory } from '../stage.ts';

/** How many times as many schedules the second look at the nodes' memory has: 1,000,000 by default. */
const MANY = 20 / 3;
const MIB = 2 ** 20;

export const memory: Scenario = {
  name: 'memory',
  doc: 'Redis memory per schedule, with one tag and without; memory of beat nodes with few and with many schedules',
  defaults: { schedules: 150_000, every: 10, seconds: 60, nodes: 3 },
  targets: [
    { figure: 'schedule_bytes', atMost: 300 },
    { figure: 'tag_bytes', atMost: 80 },
    { figure: 'node_few_mib', atMost: 140 },
    { figure: 'node_many_mib', atMost: 140 },
  ],
  shown: ['schedule_keys_bytes'],
  rate: 'rate_per_s',
  async run(parameters, aof, say) {
    const plain = await redisBytesPerSchedule(parameters, aof, () => '');
    say(`${plain.usedBytes.toFixed(1)} B a schedule`);
    const tagged = await redisBytesPerSchedule(
      parameters,
      aof,
      (index) => `,"tags":["tenant-${Math.floor(index / 100)}"]`,
    );
    const few = await nodeMemory(parameters, aof);
    say(`nodes ${few.mib.toFixed(1)} MiB with ${parameters.schedules}`);
    const manySchedules = Math.round(parameters.schedules * MANY);
    const many = await nodeMemory(
      { ...parameters, schedules: manySchedules, every: Math.round(parameters.every * MANY) },
      aof,
    );
    return {
      figures: {
        schedule_bytes: plain.usedBytes,
        schedule_keys_bytes: plain.keyBytes,
        tag_bytes: tagged.usedBytes - plain.usedBytes,
        tag_keys_bytes: tagged.keyBytes - plain.keyBytes,
        node_few_mib: few.mib,
        node_many_mib: many.mib,
        many_schedules: manySchedules,
        rate_per_s: many.registerRate,
      },
      percentiles: {},
    };
  },
};

interface RedisMemory {
  /** By `used_memory`. */
  readonly usedBytes: number;
  /** By MEMORY USAGE of every key. */
  readonly keyBytes: number;
}

/**
 * After minus before, per schedule, over all keys but the queue's lists: the namespace exists before, every schedule has
 * been dispatched at least once after, and no node is connected at either time.
 */
async function redisBytesPerSchedule(
  { schedules, every, nodes: nodeCount }: Parameters,
  aof: boolean,
  more: (index: number) => string,
): Promise<RedisMemory> {
  const stage = await openStage(aof);
  try {
    await stopAll(await stage.startNodes(nodeCount));
    const before = await redisMemory(stage.redis);
    const nodes = await stage.startNodes(nodeCount);
    const consumer = await startConsumer(stage, { schedules, everyMs: every * 1_000, drain: true });
    await register(nodes[0]!.api, loadLines({ to: schedules, schedule: `{"every":${every}}`, more }));
    await sleep((every + 2) * 1_000);
    await stopAll(nodes);
    await consumer.stop();
    const after = await redisMemory(stage.redis);
    return {
      usedBytes: (after.usedBytes - before.usedBytes) / schedules,
      keyBytes: (after.keyBytes - before.keyBytes) / schedules,
    };
  } finally {
    await stage.close();
  }
}

async function stopAll(nodes: readonly { child: { stop(graceMs: number): Promise<unknown> } }[]): Promise<void> {
  await Promise.all(nodes.map((node) => node.child.stop(10_000)));
}

async function redisMemory(redis: Redis): Promise<RedisMemory> {
  await redis.del(...queueLists(QUEUE));
  return { usedBytes: await usedMemory(redis), keyBytes: await allKeyBytes(redis) };
}

async function allKeyBytes(redis: Redis): Promise<number> {
  let bytes = 0;
  for await (const keys of redis.scanStream({ count: 1_000 })) {
    // SAMPLES 0 looks at every element instead of extrapolating from five.
    for (const key of keys as string[]) bytes += (await redis.memory('USAGE', key, 'SAMPLES', 0)) ?? 0;
  }
  return bytes;
}

interface NodeMemory {
  /** Of the largest node. */
  readonly mib: number;
  readonly registerRate: number;
}

/** Resident memory of beat nodes `seconds` after the last request, while they dispatch. */
async function nodeMemory(
  { schedules, every, nodes: nodeCount, seconds }: Parameters,
  aof: boolean,
): Promise<NodeMemory> {
  const stage = await openStage(aof);
  try {
    const nodes = await stage.startNodes(nodeCount);
    await startConsumer(stage, { schedules, everyMs: every * 1_000, drain: true });
    const registered = await register(nodes[0]!.api, loadLines({ to: schedules, schedule: `{"every":${every}}` }));
    await sleep(seconds * 1_000);
    return {
      mib: Math.max(...nodes.map((node) => residentBytes(node.pid))) / MIB,
      registerRate: schedules / registered.seconds,
    };
  } finally {
    await stage.close();
  }
}
