import { setTimeout as sleep } from 'node:timers/promises';
import { awaitEmptyQueue } from '../drain.ts';
import { median } from '../median.ts';
import { residentBytes } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { openStage, QUEUE } from '../stage.ts';
import { fillList } from '../task-messages.ts';
import { startWorker } from '../worker-process.ts';
import { dispatchedMessage } from './limit.ts';

/** So many messages lie in the queue at once at most, that Redis stays small; many more than a worker holds. */
const FILL = 50_000;
const CONCURRENCY = 1_000;
/** Pause between two looks at the worker's memory, ms. */
const SAMPLE_MS = 1_000;
const MIB = 2 ** 20;

export const workerMemory: Scenario = {
  name: 'worker-memory',
  doc: 'resident memory of one bundled worker with 1,000 slots that runs messages of a task that does nothing',
  defaults: { schedules: 10_000_000, every: 10, seconds: 0, nodes: 1 },
  // Each message is written into the append-only file when it is reserved: 10 GB of it would say nothing of the worker.
  aof: 'off',
  targets: [
    { figure: 'rss_max_mib', atMost: 150e6 / MIB },
    { figure: 'growth_share', atMost: 0.03 },
  ],
  shown: ['rss_median_mib', 'rate_per_s'],
  rate: 'rate_per_s',
  async run({ schedules: messages }, aof, say) {
    const stage = await openStage(aof);
    try {
      const sample = (await dispatchedMessage(stage)).toString();
      const fill = Math.min(FILL, messages);
      await fillList(stage, 'pattern', { sample, task: 'bench.noop', results: false, messages: fill });
      const worker = await startWorker(stage, ['-c', String(CONCURRENCY)]);
      const watch = watchMemory(worker.pid);
      const startedAtMs = performance.now();
      for (let sent = 0; sent < messages; sent += fill) {
        await stage.redis.copy('pattern', 'ahead');
        if (messages - sent < fill) await stage.redis.ltrim('ahead', 0, messages - sent - 1);
        await awaitEmptyQueue(stage);
        await stage.redis.rename('ahead', QUEUE);
        if (sent > 0 && sent % (20 * fill) === 0) say(`${sent.toLocaleString('en')} messages`);
      }
      await awaitEmptyQueue(stage);
      const seconds = (performance.now() - startedAtMs) / 1_000;
      const samples = await watch.stop();
      const second = median(third(samples, 1));
      const last = median(third(samples, 2));
      return {
        figures: {
          rss_max_mib: Math.max(...samples) / MIB,
          rss_median_mib: median(samples) / MIB,
          rss_second_third_mib: second / MIB,
          rss_last_third_mib: last / MIB,
          growth_share: last / second - 1,
          rate_per_s: messages / seconds,
        },
        percentiles: {},
      };
    } finally {
      await stage.close();
    }
  },
};

/** Looks at a process's resident memory now, each second, and at the end, bytes. */
function watchMemory(pid: number): { stop(): Promise<number[]> } {
  const samples = [residentBytes(pid)];
  const stopping = new AbortController();
  const watching = (async () => {
    while (!stopping.signal.aborted) {
      await sleep(SAMPLE_MS, undefined, { signal: stopping.signal }).catch(() => {});
      samples.push(residentBytes(pid));
    }
  })();
  return {
    async stop() {
      stopping.abort();
      await watching;
      return samples;
    },
  };
}

/** The first (0), second (1) or last third (2) of two or more samples. */
function third(samples: readonly number[], which: number): readonly number[] {
  const at = (part: number) => Math.floor((samples.length * part) / 3);
  return samples.slice(at(which), at(which + 1));
}
