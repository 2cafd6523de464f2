import type { Hash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { Json } from '../../protocol/json.ts';
import { decodeUtf8, MAX_SPEC_BYTES, parseJsonText } from '../../schedule/spec.ts';
import { invalid, Problem } from './problem.ts';

/** A body that is too large is read on up to here, so that its sender is still listening when the answer comes. */
const READ_ON_BYTES = 67_108_864;

/** Media type of a request's body, without parameters; null when it has none. */
export function mediaType(request: FastifyRequest): string | null {
  const type = request.headers['content-type'];
  return type === undefined ? null : type.replace(/;.*$/s, '').trim().toLowerCase();
}

export function hasBody(request: FastifyRequest): boolean {
  const length = request.headers['content-length'];
  return request.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0');
}

/**
 * The chunks of a request's body, each added to `digest`. Leaving early keeps the connection, so that an answer can be
 * sent. Throws a Problem when the sender breaks off.
 */
export async function* chunksOf(request: FastifyRequest, digest: Hash | null): AsyncGenerator<Buffer, void> {
  try {
    for await (const chunk of request.raw.iterator({ destroyOnReturn: false })) {
      digest?.update(chunk);
      yield chunk;
    }
  } catch (error) {
    if (request.raw.destroyed && !request.raw.complete)
      throw new Problem(400, 'The body was cut off.', { cause: error });
    throw error;
  }
}

/** A JSON body of at most 64 KiB; undefined where there is none. Throws a Problem: 400 or 413. */
export async function readJson(request: FastifyRequest, digest: Hash | null): Promise<Json | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of chunksOf(request, digest)) {
    length += chunk.length;
    if (length <= MAX_SPEC_BYTES) chunks.push(chunk);
    else chunks.length = 0;
    if (length > READ_ON_BYTES) break;
  }
  if (length > MAX_SPEC_BYTES) {
    const headers = length > READ_ON_BYTES ? { connection: 'close' } : {};
    throw new Problem(413, `The body is larger than ${MAX_SPEC_BYTES} bytes.`, { headers });
  }
  if (length === 0) return undefined;
  const text = decodeUtf8(Buffer.concat(chunks));
  if (text === null) throw invalid('The body', [{ path: '', message: 'is not valid UTF-8' }]);
  const parsed = parseJsonText(text);
  if ('message' in parsed) throw invalid('The body', [{ path: '', message: parsed.message }]);
  return parsed.value;
}
