import { createHash, timingSafeEqual } from 'node:crypto';
import { RingbeatError } from '../../protocol/errors.ts';
import { Problem } from './problem.ts';

export interface ApiToken {
  readonly token: string;
  /** `read`: GET only. */
  readonly scope: 'read' | 'write';
}

/** Throws INSECURE_API for a host that others can reach, unless there is a token or `insecure` says that it is meant. */
export function requireSafeListener(host: string, tokens: readonly ApiToken[], insecure: boolean): void {
  if (tokens.length > 0 || insecure || isLoopback(host)) return;
  throw new RingbeatError('INSECURE_API', { host });
}

function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[(.*)\]$/, '$1');
  return name === 'localhost' || name === '::1' || /^(::ffff:)?127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(name);
}

/** Checks the `Authorization` header of a request; without tokens everybody may do everything. Throws a Problem. */
export function authorize(tokens: readonly ApiToken[], header: string | undefined, needs: 'read' | 'write'): void {
  if (tokens.length === 0) return;
  const given = /^Bearer +(\S+) *$/i.exec(header ?? '')?.[1];
  if (given === undefined) throw unauthorized('This API needs a token: send Authorization: Bearer <token>.');
  const granted = tokens.filter(({ token }) => isSame(token, given));
  if (granted.length === 0) throw unauthorized('The token is not known.');
  if (needs === 'write' && granted.every(({ scope }) => scope === 'read'))
    throw new Problem(403, 'The token may only read.');
}

function unauthorized(detail: string): Problem {
  return new Problem(401, detail, { headers: { 'www-authenticate': 'Bearer' } });
}

/** Compares in a time that does not tell how much of a token was right. */
function isSame(token: string, given: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(token), digest(given));
}
