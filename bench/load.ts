import { request } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { scheduleId } from './occurrence.ts';

export interface Registered {
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  readonly failed: number;
  /** From the first byte sent to the answer read. */
  readonly seconds: number;
}

export interface LoadOptions {
  /** Indexes `from` (inclusive) to `to` (exclusive). */
  readonly from?: number;
  readonly to: number;
  /** The `schedule` field, as JSON: the same for all, or each schedule's own. */
  readonly schedule: string | ((index: number) => string);
  /** Default: `bench.check`. */
  readonly task?: string;
  /** Further fields, as JSON members with a leading comma. Default: none. */
  readonly more?: (index: number) => string;
  /** The `args` field, as JSON. Default: the index, so that nothing is shared that a real load would not share. */
  readonly args?: (index: number) => string;
  /** Which schedule a line is of. Default: the index. */
  readonly pick?: (index: number) => number;
}

/** NDJSON, a thousand lines a chunk. */
export function* loadLines(options: LoadOptions): Generator<Buffer> {
  const LINES_A_CHUNK = 1_000;
  const pick = options.pick ?? ((index) => index);
  const args = options.args ?? ((index) => `[${index}]`);
  let lines: string[] = [];
  for (let at = options.from ?? 0; at < options.to; at++) {
    const index = pick(at);
    const schedule = typeof options.schedule === 'string' ? options.schedule : options.schedule(index);
    lines.push(`${loadSpec(index, schedule, args(index), options.more?.(index), options.task)}\n`);
    if (lines.length < LINES_A_CHUNK) continue;
    yield Buffer.from(lines.join(''));
    lines = [];
  }
  if (lines.length > 0) yield Buffer.from(lines.join(''));
}

/** One spec of the load; `more` are further fields, as JSON members with a leading comma. */
export function loadSpec(
  index: number,
  schedule: string,
  args = `[${index}]`,
  more = '',
  task = 'bench.check',
): string {
  return `{"id":"${scheduleId(index)}","task":"${task}","args":${args},"schedule":${schedule}${more}}`;
}

/** Registers NDJSON through the HTTP API; throws when the API refuses it or any line. */
export async function register(api: string, chunks: Iterable<Buffer>): Promise<Registered> {
  const startedAtMs = performance.now();
  const post = request(`${api}/v1/schedules`, { method: 'POST', headers: { 'content-type': 'application/x-ndjson' } });
  const answered = new Promise<{ status: number; text: string }>((resolve, reject) => {
    post.on('error', reject);
    post.on('response', async (response) => {
      let text = '';
      for await (const part of response.setEncoding('utf8')) text += part;
      resolve({ status: response.statusCode ?? 0, text });
    });
  });
  const sent = pipeline(Readable.from(chunks), post);
  sent.catch(() => {});
  const { status, text } = await answered;
  const seconds = (performance.now() - startedAtMs) / 1_000;
  const counts = status === 200 ? JSON.parse(text) : null;
  if (counts === null || counts.failed > 0)
    throw new Error(`POST ${api}/v1/schedules: ${status} ${text.slice(0, 500)}`);
  await sent;
  return {
    created: counts.created,
    updated: counts.updated,
    unchanged: counts.unchanged,
    failed: counts.failed,
    seconds,
  };
}
