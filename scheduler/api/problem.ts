import { STATUS_CODES } from 'node:http';
import { z } from 'zod';
import { messageOf, RingbeatError } from '../../protocol/errors.ts';
import type { FieldError } from '../../schedule/field-errors.ts';

export const PROBLEM_TYPE = 'application/problem+json';

/** An error answer as RFC 9457 has it; `errors` names the fields that are to blame. */
export const problemSchema = z.strictObject({
  type: z.string().describe('about:blank: the status says what kind of problem it is.'),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  errors: z.array(z.strictObject({ path: z.string(), message: z.string() })),
});

export interface ProblemOptions {
  readonly errors?: readonly FieldError[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** Thrown by whatever cannot answer a request; becomes a problem document. */
export class Problem extends Error {
  readonly status: number;
  readonly errors: readonly FieldError[];
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, detail: string, options: ProblemOptions = {}) {
    super(detail, { cause: options.cause });
    this.name = 'Problem';
    this.status = status;
    this.errors = options.errors ?? [];
    this.headers = options.headers ?? {};
  }
}

/** A request that names a field wrongly. */
export function invalid(what: string, errors: readonly FieldError[]): Problem {
  return new Problem(400, `${what} is not valid.`, { errors });
}

export function problemBody(problem: Problem): string {
  const { status, message, errors } = problem;
  return JSON.stringify({
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    detail: message,
    errors,
  });
}

/** What Redis refuses for the moment, not because of the command (https://redis.io/docs/latest/develop/reference/protocol-spec/). */
const REDIS_UNAVAILABLE =
  /^(OOM|LOADING|MISCONF|READONLY|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS|NOAUTH|WRONGPASS|NOPERM)\b/;

/** What ioredis rejects commands with when there was no answer. */
const NO_ANSWER =
  /^(Command timed out|Connection is closed|Stream isn't writeable|Reached the max retries per request limit)/;

const NETWORK_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOENT',
  'ENOTFOUND',
  'EHOSTUNREACH',
  'EAI_AGAIN',
]);

/** The problem that anything thrown while answering stands for. What nobody foresaw is a 500 that tells nothing. */
export function problemOf(thrown: unknown): Problem {
  if (thrown instanceof Problem) return thrown;
  const text = messageOf(thrown);
  if (thrown instanceof RingbeatError && thrown.code === 'NAMESPACE_GONE')
    return new Problem(503, text, { cause: thrown });
  if (isUnavailable(thrown, text)) {
    return new Problem(
      503,
      `Redis did not answer: ${text}. What was asked for may or may not have been done; try again.`,
      { cause: thrown },
    );
  }
  const status = statusOf(thrown);
  if (status !== null && status >= 400 && status < 500) return new Problem(status, text, { cause: thrown });
  return new Problem(500, 'The request failed inside Ringbeat; its log tells why.', { cause: thrown });
}

function isUnavailable(thrown: unknown, text: string): boolean {
  const code = thrown instanceof Error && 'code' in thrown ? thrown.code : null;
  return REDIS_UNAVAILABLE.test(text) || NO_ANSWER.test(text) || (typeof code === 'string' && NETWORK_CODES.has(code));
}

/** Status of an error that fastify raised. */
function statusOf(thrown: unknown): number | null {
  return thrown instanceof Error && 'statusCode' in thrown && typeof thrown.statusCode === 'number'
    ? thrown.statusCode
    : null;
}
