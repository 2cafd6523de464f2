import assert from 'node:assert/strict';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Redis } from 'ioredis';
import type { Test } from 'tap';
import { resultKey, shardKeys } from '../../lua/keys.ts';
import type { Json } from '../../protocol/json.ts';
import { eventually } from '../support/eventually.ts';
import { type MessageParts, send } from '../worker/messages.ts';

/** The module of the tasks that write into ledgers. */
export const LEDGER_TASKS = fileURLToPath(new URL('./worker-ledger-tasks.js', import.meta.url));

/** What a task of worker-ledger-tasks.ts does between its two notes; goes through JSON. */
export interface Plan {
  /** Waits until the gate of this name is open. */
  readonly gate?: string;
  /** Extends its lease by itself while it waits. */
  readonly extends?: true;
  /** Then keeps its thread busy for so many seconds. */
  readonly computes?: number;
  /** Then waits for so many seconds. */
  readonly seconds?: number;
  /** Ends its process at once, until the gate `cured` is open. */
  readonly dies?: 'exit' | 'abort' | 'kill';
  /** Then is sent again, so many times in all, each after `countdown` s. */
  readonly retries?: number;
  readonly countdown?: number;
}

export interface LedgerLine {
  readonly is: 'entered' | 'finished';
  readonly id: string;
  readonly pid: number;
  readonly retries: number;
}

/** Called by tasks: one line in the file of their process, there for good before the call returns, kill -9 or not. */
export function note(folder: string, line: LedgerLine): void {
  appendFileSync(join(folder, 'lines', String(line.pid)), `${JSON.stringify(line)}\n`);
}

export function isOpen(folder: string, gate: string): boolean {
  return existsSync(join(folder, gate));
}

/** Counts what tasks did, in files, so that nothing that happens to workers or to Redis can make it forget. */
export class Ledger {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static open(t: Test): Ledger {
    const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-ledger-'));
    mkdirSync(join(folder, 'lines'));
    t.teardown(() => rmSync(folder, { recursive: true, force: true }));
    return new Ledger(folder);
  }

  /** The args of a task that keeps to this plan. */
  args(plan: Plan = {}): Json[] {
    return [this.folder, { ...plan }];
  }

  /** Lets tasks go on that wait at this gate. */
  openGate(name: string): void {
    writeFileSync(join(this.folder, name), '');
  }

  lines(): LedgerLine[] {
    const folder = join(this.folder, 'lines');
    return readdirSync(folder).flatMap((file) =>
      readFileSync(join(folder, file), 'utf8')
        .split('\n')
        .filter((line) => line !== '')
        .map((line): LedgerLine => JSON.parse(line)),
    );
  }

  /** Lines of one task. */
  of(id: string, is: LedgerLine['is']): LedgerLine[] {
    return this.lines().filter((line) => line.id === id && line.is === is);
  }

  entered(id: string): number {
    return this.of(id, 'entered').length;
  }

  finished(id: string): number {
    return this.of(id, 'finished').length;
  }
}

/** Sends a task that keeps to a plan; the message's parts may say more. */
export async function sendPlan(
  redis: Redis,
  ledger: Ledger,
  parts: MessageParts & { readonly id: string },
  plan: Plan = {},
): Promise<void> {
  await send(redis, { task: 'effect', args: ledger.args(plan), ...parts });
}

/** The state of a task's result; null when there is none. */
export async function stateOf(redis: Redis, id: string): Promise<string | null> {
  const record = await redis.get(resultKey(id));
  return record === null ? null : JSON.parse(record).status;
}

/** Every key with its type and size, as of one instant: a message on its way is in one place or the other. */
const SIZES = `
  local size_of = { list = 'LLEN', hash = 'HLEN', set = 'SCARD', zset = 'ZCARD', stream = 'XLEN', string = 'STRLEN' }
  local found = {}
  for _, key in ipairs(redis.call('KEYS', '*')) do
    local type = redis.call('TYPE', key).ok
    found[#found + 1] = { key, type, redis.call(size_of[type], key) }
  end
  return found`;

/** What lies in Redis of messages that have not ended, by place; only places where something lies. */
export async function unsettled(redis: Redis, namespace = 'rb'): Promise<Record<string, number>> {
  const places: Record<string, number> = {};
  for (const [key, type, size] of (await redis.eval(SIZES, 0)) as [string, string, number][]) {
    // Answers to a process that asked the others something, and died.
    if (key.endsWith('.reply.celery.pidbox')) continue;
    const isHolding = key.startsWith(`${namespace}:worker:`) && /:(reserved|waiting)$/.test(key);
    const isQueue = type === 'list' && !key.includes(':');
    const isPlace =
      isHolding ||
      ['unacked', 'unacked_index', `${namespace}:crashes`, `${namespace}:dead-letters`].includes(key) ||
      /:\{\d+\}:parked$/.test(key);
    if (isQueue) places[`queue ${key.replace('\x06\x16', ' ')}`] = size;
    else if (isPlace) places[key] = size;
  }
  return Object.fromEntries(Object.entries(places).filter(([, count]) => count > 0));
}

/** Waits until no message lies anywhere any more. */
export async function allSettled(redis: Redis, deadlineMs = 30_000): Promise<void> {
  await eventually(async () => assert.deepEqual(await unsettled(redis), {}), { deadlineMs, everyMs: 100 });
}

/** How many messages are parked in the shards of a namespace. */
export async function parkedCount(redis: Redis, namespace = 'rb'): Promise<number> {
  const shards = Number((await redis.hget(`${namespace}:meta`, 'shards')) ?? 0);
  let parked = 0;
  for (let shard = 0; shard < shards; shard++) parked += await redis.hlen(shardKeys(namespace, shard).parked);
  return parked;
}
