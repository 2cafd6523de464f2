import { loadLines, register } from '../load.ts';
import { median } from '../median.ts';
import { awaitValue } from '../processes.ts';
import { rawPushRate } from '../raw-push.ts';
import type { Limit, Scenario } from '../scenario.ts';
import { openStage, QUEUE, type Stage } from '../stage.ts';

/** Passes whose median counts. */
const PASSES = 3;

/** Takes the limit on a fresh Redis with the same settings, with the bytes of a message that a beat node dispatched there. */
export async function takeLimit(messages: number, aof: boolean): Promise<Limit> {
  const stage = await openStage(aof);
  try {
    const message = await dispatchedMessage(stage);
    const rates = async (perCommand: number) => {
      const passes: number[] = [];
      for (let pass = 0; pass < PASSES; pass++) {
        passes.push(await rawPushRate(stage.server, message, messages, perCommand));
        await stage.redis.flushall();
      }
      return median(passes);
    };
    return { perSecond: await rates(1), batchedPerSecond: await rates(500), messageBytes: message.length };
  } finally {
    await stage.close();
  }
}

/** A message as it lies in the queue: of one schedule that a beat node dispatches and is then stopped. */
export async function dispatchedMessage(stage: Stage): Promise<Buffer> {
  const [node] = await stage.startNodes(1);
  await register(node!.api, loadLines({ to: 1, schedule: '{"in":0}' }));
  const message = await awaitValue('one message in the queue', () => stage.redis.rpopBuffer(QUEUE));
  await node!.child.stop(10_000);
  return message;
}

export const limit: Scenario = {
  name: 'limit',
  doc: 'raw pipelined LPUSH of the bytes that beat nodes dispatch: what one Redis can take',
  defaults: { schedules: 150_000, every: 10, seconds: 0, nodes: 1 },
  targets: [],
  shown: ['rate_per_s', 'batched_rate_per_s', 'message_bytes'],
  rate: 'rate_per_s',
  async run({ schedules }, aof) {
    const limit = await takeLimit(schedules, aof);
    return {
      figures: {
        rate_per_s: limit.perSecond,
        batched_rate_per_s: limit.batchedPerSecond,
        message_bytes: limit.messageBytes,
      },
      percentiles: {},
      limit,
    };
  },
};
