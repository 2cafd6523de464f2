import { readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';
import { messageOf, RingbeatError } from '../protocol/errors.ts';

/** What Redis answers to a script: integers, strings, arrays of them, or null. */
export type Reply = number | string | null | readonly Reply[];

export type ScriptArgument = string | number | Buffer;

export interface Script {
  readonly name: string;
  readonly source: string;
  /** Runs the script by its SHA1, sending its text only where Redis does not know it yet. */
  run(redis: Redis, keys: readonly string[], args: readonly ScriptArgument[]): Promise<Reply>;
}

const scripts = new Map<string, Script>();

/** The script `lua/<name>.lua`, with its `--- @include "<file>"` lines replaced by those of `lua/include/`. */
export function defineScript(name: string): Script {
  const source = readScript(name);
  const command = `ringbeat-${name}`;
  const script: Script = {
    name,
    source,
    async run(redis, keys, args) {
      // ioredis keeps the SHA1, falls back from EVALSHA to EVAL on NOSCRIPT, and answers in order of sending.
      const client = redis as Redis & Record<string, (...args: unknown[]) => Promise<Reply>>;
      if (!(command in client)) client.defineCommand(command, { lua: source });
      try {
        const reply = await client[command]!(keys.length, ...keys, ...args);
        // What a finished command of ioredis names stays in memory until the next full garbage collection: a batch of messages.
        return isList(reply) ? reply.splice(0) : reply;
      } catch (error) {
        if (!messageOf(error).includes('NAMESPACE_GONE')) throw error;
        throw new RingbeatError('NAMESPACE_GONE', { namespace: keys[0]!.replace(/:meta$/, '') }, { cause: error });
      }
    },
  };
  scripts.set(name, script);
  return script;
}

/** Every script defined so far, for the test that holds headers and bodies together. */
export function definedScripts(): readonly Script[] {
  return [...scripts.values()];
}

function isList(reply: Reply): reply is Reply[] {
  return Array.isArray(reply);
}

function readScript(name: string): string {
  const text = readFileSync(new URL(`./${name}.lua`, import.meta.url), 'utf8');
  return text.replace(/^--- @include "([\w-]+)"$/gm, (_, file: string) =>
    readFileSync(new URL(`./include/${file}.lua`, import.meta.url), 'utf8').trimEnd(),
  );
}

/** A reply that must be a flat list; anything else means that script and binding disagree. */
export function listReply(script: Script, reply: Reply): readonly Reply[] {
  if (Array.isArray(reply)) return reply;
  throw unexpected(script, reply);
}

export function textReply(script: Script, reply: Reply): string {
  if (typeof reply === 'string') return reply;
  throw unexpected(script, reply);
}

export function integerReply(script: Script, reply: Reply | undefined): number {
  if (typeof reply === 'number') return reply;
  throw unexpected(script, reply ?? null);
}

function unexpected(script: Script, reply: Reply): RingbeatError {
  return new RingbeatError('SCRIPT_REPLY', { script: script.name, reply: JSON.stringify(reply).slice(0, 200) });
}
