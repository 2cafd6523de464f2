import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { KOMBU, shardKeys, shardOf } from '../../lua/keys.ts';
import { parkedId } from '../../lua/parked.ts';
import { readParked } from '../../lua/read-parked.ts';
import { etaMessages } from '../celery-messages.ts';
import { awaitValue, watchCpu } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { countEntries, NAMESPACE, openStage, QUEUE, redisNowMs, type Stage, shardsOf, usedMemory } from '../stage.ts';
import { startWorker } from '../worker-process.ts';

/** The first of the messages is due so much later, ms; each of the others a little after it. */
const ETA_AHEAD_MS = 6 * 3_600_000;
/** Messages of one LPUSH, and how many at most wait in the queue. */
const BATCH = 1_000;
const QUEUE_MAX = 20_000;
/** Messages that the worker has in its hands: several batches, so that none waits for another. */
const PREFETCH = 2_000;
/** Of so many messages the bytes are looked at. */
const SAMPLE = 1_000;

export const parked: Scenario = {
  name: 'parked',
  doc: 'messages of Celery with an eta far ahead, parked by the bundled worker: memory of each beyond its own bytes',
  defaults: { schedules: 1_000_000, every: 3_600, seconds: 0, nodes: 3 },
  targets: [
    { figure: 'overhead_bytes', atMost: 150 },
    { figure: 'lost', atMost: 0 },
    { figure: 'strange', atMost: 0 },
  ],
  shown: ['parked_bytes', 'message_bytes', 'rate_per_s'],
  rate: 'rate_per_s',
  async run({ schedules: messages, nodes: nodeCount }, aof) {
    const stage = await openStage(aof);
    try {
      await stage.startNodes(nodeCount);
      const worker = await startWorker(stage, ['--prefetch', String(PREFETCH)]);
      const shards = await shardsOf(stage.redis);
      const bytesBefore = await usedMemory(stage.redis);
      const cpu = watchCpu([stage.server.pid, worker.pid]);
      const startedAtMs = performance.now();
      const sent = await feed(stage, messages);
      await awaitValue(
        'every message leaving queue and unacked',
        async () => ((await stage.redis.llen(QUEUE)) + (await stage.redis.hlen(KOMBU.unacked)) === 0 ? true : null),
        60_000,
      );
      const seconds = (performance.now() - startedAtMs) / 1_000;
      const [redisCpu, workerCpu] = cpu.stop();
      const parkedBytes = ((await usedMemory(stage.redis)) - bytesBefore) / messages;
      const messageBytes = sent.bytes / messages;
      return {
        figures: {
          parked_bytes: parkedBytes,
          message_bytes: messageBytes,
          overhead_bytes: parkedBytes - messageBytes,
          rate_per_s: messages / seconds,
          redis_cpu_cores: redisCpu!,
          worker_cpu_cores: workerCpu!,
          lost: messages - (await countEntries(stage.redis, shards, 'hlen', 'parked')),
          strange: await countChanged(stage.redis, sent.sample, shards.length),
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};

interface Sent {
  readonly bytes: number;
  /** Some of the messages, by task id. */
  readonly sample: ReadonlyMap<string, string>;
}

/** Sends messages as fast as they are taken. */
async function feed({ redis }: Stage, messages: number): Promise<Sent> {
  const write = etaMessages();
  const sample = new Map<string, string>();
  const sampleEvery = Math.max(1, Math.floor(messages / SAMPLE));
  const firstEtaMs = Math.floor(await redisNowMs(redis)) + ETA_AHEAD_MS;
  let bytes = 0;
  for (let from = 0; from < messages; from += BATCH) {
    const batch = Array.from({ length: Math.min(BATCH, messages - from) }, (_, at) => {
      const arg = from + at;
      const id = randomUUID();
      const message = write[arg % write.length]!({ id, tag: randomUUID(), etaMs: firstEtaMs + arg, arg });
      bytes += message.length;
      if (arg % sampleEvery === 0) sample.set(id, message);
      return message;
    });
    const length = await redis.lpush(QUEUE, ...batch);
    if (length > QUEUE_MAX) {
      await awaitValue(
        'the worker taking messages',
        async () => ((await redis.llen(QUEUE)) < QUEUE_MAX / 2 ? true : null),
        60_000,
      );
    }
  }
  return { bytes, sample };
}

/** How many of these messages do not come out of their shard as they were sent. */
async function countChanged(redis: Redis, sample: ReadonlyMap<string, string>, shards: number): Promise<number> {
  let changed = 0;
  for (const [taskId, message] of sample) {
    const id = parkedId(taskId);
    const found = await readParked(redis, shardKeys(NAMESPACE, shardOf(id, shards)), [id]);
    if (found.get(id)?.envelope !== message) changed += 1;
  }
  return changed;
}
