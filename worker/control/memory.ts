import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeHeapSnapshot } from 'node:v8';
import type { Json } from '../../protocol/json.ts';

/** Most samples that are kept between two dumps. */
const MAX_SAMPLES = 1_000;

/** What this process takes of memory, and took when it was asked before. */
export class MemorySamples {
  #samples: string[] = [];

  /** The resident set now, such as `52.543MB`, which the next dump shows. */
  sample(): string {
    const size = humanBytes(process.memoryUsage.rss());
    this.#samples = [...this.#samples.slice(1 - MAX_SAMPLES), size];
    return size;
  }

  /** Samples since the last dump, thinned out to `most` of them, and the resident set now (celery/utils/debug.py). */
  dump(most: number): string {
    const samples = thinned(this.#samples, most);
    this.#samples = [];
    const end = `- rss (end): ${humanBytes(process.memoryUsage.rss())}.\n`;
    if (samples.length === 0) return end;
    return `- rss (sample):\n${samples.map((size) => `-    > ${size},\n`).join('')}${end}`;
  }
}

/**
 * What V8 has in place of Celery's graph of objects that are not collected: a heap snapshot, for the memory tab of Chrome's
 * developer tools, in a folder that only this user can read. The process stands still while it is written.
 */
export function snapshotHeap(): Json {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-heap-'));
  return { filename: writeHeapSnapshot(join(folder, `${process.pid}.heapsnapshot`)) };
}

/** As Celery writes sizes (celery/utils/debug.py, humanbytes): five digits at most. */
export function humanBytes(bytes: number): string {
  const units = [
    [2 ** 40, 'TB'],
    [2 ** 30, 'GB'],
    [2 ** 20, 'MB'],
    [2 ** 10, 'KB'],
  ] as const;
  const [size, unit] = units.find(([size]) => bytes >= size) ?? [1, 'b'];
  return `${Number((bytes / size).toPrecision(5))}${unit}`;
}

function thinned(samples: readonly string[], most: number): readonly string[] {
  if (samples.length <= most) return samples;
  const step = samples.length / Math.max(1, most);
  return Array.from({ length: Math.max(1, most) }, (_, i) => samples[Math.floor(i * step)] ?? '');
}
