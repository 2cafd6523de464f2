import { readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';

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
    run(redis, keys, args) {
      // ioredis keeps the SHA1, falls back from EVALSHA to EVAL on NOSCRIPT, and answers in order of sending.
      const client = redis as Redis & Record<string, (...args: unknown[]) => Promise<Reply>>;
      if (!(command in client)) client.defineCommand(command, { lua: source });
      return client[command]!(keys.length, ...keys, ...args);
    },
  };
  scripts.set(name, script);
  return script;
}

/** Every script defined so far, for the test that holds headers and bodies together. */
export function definedScripts(): readonly Script[] {
  return [...scripts.values()];
}

function readScript(name: string): string {
  const text = readFileSync(new URL(`./${name}.lua`, import.meta.url), 'utf8');
  return text.replace(/^--- @include "([\w-]+)"$/gm, (_, file: string) =>
    readFileSync(new URL(`./include/${file}.lua`, import.meta.url), 'utf8').trimEnd(),
  );
}
