import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { queueList } from '../../lua/keys.ts';
import { type Json, toPythonJson } from '../../protocol/json.ts';

export interface MessageParts {
  readonly task?: string;
  readonly id?: string;
  readonly tag?: string;
  readonly queue?: string;
  readonly exchange?: string;
  readonly args?: readonly Json[];
  readonly kwargs?: { readonly [key: string]: Json };
  readonly embed?: { readonly [key: string]: Json };
  readonly headers?: { readonly [key: string]: Json };
  readonly priority?: number;
}

/** An envelope as kombu writes it, of a task message as Celery 5.2 writes it. */
export function envelope(parts: MessageParts = {}): string {
  const id = parts.id ?? randomUUID();
  const embed = { callbacks: null, errbacks: null, chain: null, chord: null, ...parts.embed };
  const body = toPythonJson([parts.args ?? [], parts.kwargs ?? {}, embed]);
  return toPythonJson({
    body: Buffer.from(body).toString('base64'),
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers: {
      lang: 'py',
      task: parts.task ?? 'note',
      id,
      shadow: null,
      eta: null,
      expires: null,
      group: null,
      group_index: null,
      retries: 0,
      timelimit: [null, null],
      root_id: id,
      parent_id: null,
      argsrepr: '()',
      kwargsrepr: '{}',
      origin: 'gen1@host1',
      ignore_result: false,
      ...parts.headers,
    },
    properties: {
      correlation_id: id,
      reply_to: '636f7045-9636-3255-be5f-e1d3af97466d',
      delivery_mode: 2,
      delivery_info: { exchange: parts.exchange ?? '', routing_key: parts.queue ?? 'celery' },
      priority: parts.priority ?? 0,
      body_encoding: 'base64',
      delivery_tag: parts.tag ?? randomUUID(),
    },
  });
}

/** Puts messages into their queues as a producer does, the first to be taken first. */
export async function send(redis: Redis, ...messages: readonly MessageParts[]): Promise<void> {
  for (const parts of messages)
    await redis.lpush(queueList(parts.queue ?? 'celery', parts.priority ?? 0), envelope(parts));
}

/** An instant as Celery writes it. */
export function iso(atMs: number): string {
  return `${new Date(atMs).toISOString().slice(0, -1)}000+00:00`;
}

/** Redis's own time, ms since epoch. */
export async function redisNow(redis: Redis): Promise<number> {
  const [seconds, micros] = await redis.time();
  return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
}

/** Where a message can be: how many lie in queues, in unacked, in its index, and in the worker dead letters. */
export async function whereabouts(redis: Redis, ...lists: readonly string[]): Promise<Record<string, number>> {
  const lengths = await Promise.all((lists.length > 0 ? lists : ['celery']).map((list) => redis.llen(list)));
  return {
    queued: lengths.reduce((sum, length) => sum + length, 0),
    unacked: await redis.hlen('unacked'),
    index: await redis.zcard('unacked_index'),
    dead: await redis.xlen('rb:dead-letters'),
  };
}
