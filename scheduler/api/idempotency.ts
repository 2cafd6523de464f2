import { createHash, type Hash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { Redis } from 'ioredis';
import { requestKey } from '../../lua/keys.ts';
import type { Answer } from './answer.ts';
import { invalid, Problem } from './problem.ts';

const KEPT_MS = 600_000;

/** A node that dies while it answers blocks the key for this long at most. */
const LEASE_MS = 30_000;

const KEY = /^[\x21-\x7e]{1,200}$/;

/** What is kept under a key: `answer` is null while the first request is still being answered. */
interface Kept {
  readonly target: string;
  readonly body: string;
  readonly answer: Answer | null;
}

export interface IdempotentRequest {
  readonly id: string;
  /** Method and URL. */
  readonly target: string;
  /** Takes in the body as it is read. */
  readonly digest: Hash;
}

/** The request's `Idempotency-Key`, checked; null when it has none. Throws a Problem. */
export function idempotentRequest(request: FastifyRequest): IdempotentRequest | null {
  const key = request.headers['idempotency-key'];
  if (key === undefined) return null;
  if (typeof key !== 'string' || !KEY.test(key)) {
    throw invalid('The header', [{ path: 'Idempotency-Key', message: 'must be 1 to 200 visible ASCII characters' }]);
  }
  const id = createHash('sha256').update(key).digest('hex');
  return { id, target: `${request.method} ${request.url}`, digest: createHash('sha256') };
}

/** Answers of requests that carried an `Idempotency-Key`, kept in Redis for 10 minutes. */
export class Idempotency {
  readonly #redis: Redis;
  readonly #namespace: string;

  constructor(redis: Redis, namespace: string) {
    this.#redis = redis;
    this.#namespace = namespace;
  }

  /**
   * Runs `answer` unless a request with this key was answered before: then its answer is given again. `readBody` reads
   * the body of such a repetition into its digest. Throws a Problem: 409 while the first one is still being answered,
   * 422 when the key was used for something else.
   *
   * The lock is a courtesy to clients, not a safeguard: everything that can be asked for may run twice without harm.
   */
  async once(
    request: IdempotentRequest,
    readBody: () => Promise<void>,
    answer: () => Promise<Answer>,
  ): Promise<Answer> {
    const key = requestKey(this.#namespace, request.id);
    const started: Kept = { target: request.target, body: '', answer: null };
    if ((await this.#redis.set(key, JSON.stringify(started), 'PX', LEASE_MS, 'NX')) === null) {
      return this.#repeat(key, request, readBody);
    }
    const renewal = setInterval(() => {
      this.#redis.pexpire(key, LEASE_MS).catch(() => {
        // The lease may lapse then, which lets a repetition run beside us.
      });
    }, LEASE_MS / 3);
    try {
      const given = await answer();
      const kept: Kept = { target: request.target, body: request.digest.digest('hex'), answer: given };
      await this.#redis.set(key, JSON.stringify(kept), 'PX', KEPT_MS);
      return given;
    } catch (error) {
      // Nothing worth repeating: the client may try again at once with the same key.
      await this.#redis.del(key).catch(() => {});
      throw error;
    } finally {
      clearInterval(renewal);
    }
  }

  async #repeat(key: string, request: IdempotentRequest, readBody: () => Promise<void>): Promise<Answer> {
    const text = await this.#redis.get(key);
    const kept = text === null ? null : (JSON.parse(text) as Kept);
    if (kept !== null && kept.target !== request.target) throw reused();
    if (kept === null || kept.answer === null) {
      throw new Problem(409, 'A request with this Idempotency-Key is still being answered.', {
        headers: { 'retry-after': '1' },
      });
    }
    await readBody();
    if (kept.body !== request.digest.digest('hex')) throw reused();
    return { ...kept.answer, headers: { ...kept.answer.headers, 'idempotency-replayed': 'true' } };
  }
}

function reused(): Problem {
  return new Problem(422, 'This Idempotency-Key was used for another request.');
}
