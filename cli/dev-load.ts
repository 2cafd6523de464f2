import { request } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';

/** So many schedules, all with this interval, s. */
export interface Load {
  readonly schedules: number;
  readonly every: number;
}

export interface Registration {
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly failed: number;
  readonly errors: readonly { readonly line: number; readonly message: string }[];
}

const registration = z.object({
  created: z.number(),
  updated: z.number(),
  unchanged: z.number(),
  failed: z.number(),
  errors: z.array(z.object({ line: z.number(), message: z.string() })),
});

const LINES_PER_CHUNK = 500;
const METRICS_PER_TENANT = 100;

/**
 * Registers the load through the HTTP API at `api`, as one streamed NDJSON request. Rejects with the API's answer
 * when that is an error, and with an AbortError when `signal` says so.
 */
export async function registerLoad(api: string, load: Load, signal: AbortSignal): Promise<Registration> {
  const post = request(`${api}/v1/schedules`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-ndjson' },
    signal,
  });
  const answered = new Promise<string>((resolve, reject) => {
    post.on('error', reject);
    post.on('response', async (response) => {
      try {
        const body = Buffer.concat(await response.toArray()).toString();
        if (response.statusCode === 200) resolve(body);
        else reject(new Error(`the API answered ${response.statusCode}: ${body}`));
      } catch (error) {
        reject(error);
      }
    });
  });
  // The answer may be an error that comes before everything was sent; then it is what counts.
  const [answer] = await Promise.all([answered, pipeline(Readable.from(specLines(load)), post).catch(() => {})]);
  return registration.parse(JSON.parse(answer));
}

function* specLines({ schedules, every }: Load): Generator<Buffer> {
  let lines = '';
  for (let n = 1; n <= schedules; n++) {
    const tenant = Math.ceil(n / METRICS_PER_TENANT);
    lines += `{"id":"tenant-${tenant}/metric-${n}","task":"monitor.check","args":[${n}],"schedule":{"every":${every}}}\n`;
    if (n % LINES_PER_CHUNK === 0 || n === schedules) {
      yield Buffer.from(lines);
      lines = '';
    }
  }
}
