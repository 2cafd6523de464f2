import { Command } from 'commander';
import { connect, withoutPassword } from '../lua/connection.ts';
import { type ControlReplies, PidboxClient } from '../lua/pidbox-client.ts';
import { argumentsOf, CONTROL_COMMANDS, type ControlCommandSpec } from '../protocol/control-commands.ts';
import { LogicalClock } from '../protocol/control-message.ts';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { asciiJsonString, type Json, pythonRepr, toPythonJson } from '../protocol/json.ts';
import { RedisClock } from '../runtime/clock.ts';
import { COMMON_OPTIONS } from '../runtime/common-options.ts';
import { addOptions, flag, list, number, optionValues } from '../runtime/options.ts';
import { isObject } from '../schedule/fields.ts';
import { isList } from './api-client.ts';
import { complain, print } from './output.ts';

/** Options of every command that asks workers. */
export const REMOTE_OPTIONS = {
  redis: COMMON_OPTIONS.redis,
  destination: {
    ...list({ default: [], placeholder: 'NODE,…', doc: 'names of the workers that are meant (default: all)' }),
    short: '-d',
  },
  timeout: {
    ...number({
      placeholder: 'S',
      default: 1,
      min: 0.001,
      max: 86_400,
      doc: 'seconds to wait for each further answer',
    }),
    short: '-t',
  },
  json: { ...flag({ doc: 'print JSON' }), short: '-j' },
};

/** sysexits' EX_UNAVAILABLE, as Celery's command line. */
const UNAVAILABLE = 69;

const LIST_OPTION = { list: flag({ doc: 'list the commands and exit' }) };

/** `ringbeat inspect` or `ringbeat control`: Celery's commands, to its workers and ours, shown as Celery's command line does. */
export function remoteCommand(
  kind: ControlCommandSpec['kind'],
  description: string,
  show: (command: Command, replies: ControlReplies) => Promise<void>,
): Command {
  const command = new Command(kind)
    .description(description)
    .argument('[COMMAND]', 'see --list')
    .argument('[ARGS...]', 'its arguments');
  addOptions(command, { ...REMOTE_OPTIONS, ...LIST_OPTION });
  return command.action(async (method: string | undefined, words: readonly string[]) => {
    if (optionValues(command, LIST_OPTION).list) {
      await print(commandList(kind));
      return;
    }
    const known = commandsOf(kind).map(([name]) => name);
    if (method === undefined) return command.error(`error: give a command: ${known.join(', ')}`);
    if (!known.includes(method)) return command.error(`error: ${method} is none of ${known.join(', ')}`);
    const args = readArguments(command, method, words);
    const replies = await ask(command, method, args, true);
    if (replies.length > 0) await show(command, replies);
  });
}

/**
 * Asks the workers that the command's options mean and answers their replies. Each is printed as it comes, with its body
 * where that is wanted, unless JSON is. When nobody answers, that is said, and the exit code is 69.
 */
export async function ask(
  command: Command,
  method: string,
  args: { readonly [name: string]: Json },
  isWithBody: boolean,
): Promise<ControlReplies> {
  const { redis: url, destination, timeout, json } = optionValues(command, REMOTE_OPTIONS);
  const redis = connect(url, { option: '--redis', name: 'ringbeat-control' });
  const local = new RedisClock();
  const client = new PidboxClient({ redis, clock: new LogicalClock(), nowMs: () => local.nowMs() });
  const printing: Promise<void>[] = [];
  try {
    const replies = await client.call({
      method,
      arguments: args,
      destination: destination.length === 0 ? null : destination,
      timeoutMs: timeout * 1_000,
      onReply: (node, reply) => {
        if (!json) printing.push(print(answerText(node, reply, isWithBody)));
      },
    });
    await Promise.all(printing);
    warnOfNamesakes(replies);
    if (replies.length === 0) {
      process.stderr.write('Error: No nodes replied within time constraint\n');
      process.exitCode = UNAVAILABLE;
    }
    return replies;
  } catch (error) {
    if (error instanceof RingbeatError) throw error;
    throw new RingbeatError(
      'REDIS_UNREACHABLE',
      { url: withoutPassword(url), reason: messageOf(error) },
      { cause: error },
    );
  } finally {
    redis.disconnect();
  }
}

/** `3 nodes online.` */
export function onlineText(replies: ControlReplies): string {
  const nodes = new Set(replies.map(([node]) => node)).size;
  return `\n${nodes} ${nodes === 1 ? 'node' : 'nodes'} online.\n`;
}

function warnOfNamesakes(replies: ControlReplies): void {
  const names = replies.map(([node]) => node);
  const twice = new Set(names.filter((name, i) => names.indexOf(name) !== i));
  if (twice.size === 0) return;
  complain(
    `several workers are called ${[...twice].join(', ')}: give each a name of its own with -n, or not all answers are seen`,
  );
}

function readArguments(command: Command, method: string, words: readonly string[]): { readonly [name: string]: Json } {
  try {
    return argumentsOf(method, words);
  } catch (error) {
    return command.error(`error: ${messageOf(error)}`);
  }
}

function commandsOf(kind: ControlCommandSpec['kind']): [string, ControlCommandSpec][] {
  return Object.entries<ControlCommandSpec>(CONTROL_COMMANDS).filter(
    ([, spec]) => spec.kind === kind && spec.isHidden !== true,
  );
}

function commandList(kind: ControlCommandSpec['kind']): string {
  const rows = commandsOf(kind).map(([name, { signature, help }]) => [`${name} ${signature ?? ''}`.trim(), help]);
  const width = Math.max(...rows.map(([usage = '']) => usage.length));
  return rows.map(([usage = '', help]) => `  ${usage.padEnd(width)}  ${help}\n`).join('');
}

function answerText(node: string, reply: Json, isWithBody: boolean): string {
  const { status, body } = pretty(reply);
  const head = `->  ${node}: ${status}\n`;
  return isWithBody && body !== '' ? `${head}${indented(body)}\n` : head;
}

/** As Celery's command line shows a reply (celery/bin/base.py, pretty). */
function pretty(reply: Json): { readonly status: 'OK' | 'ERROR'; readonly body: string } {
  if (isList(reply)) {
    const items = reply.map((item) => `* ${typeof item === 'string' ? item : pythonRepr(item)}`);
    return { status: 'OK', body: items.length === 0 ? '- empty -' : items.join('\n') };
  }
  if (typeof reply === 'string') return { status: 'OK', body: reply };
  if (!isObject(reply)) return { status: 'OK', body: pythonRepr(reply) };
  const { ok, error } = reply;
  if (ok !== undefined) return { status: 'OK', body: indented(pretty(ok).body) };
  if (error !== undefined) return { status: 'ERROR', body: indented(pretty(error).body) };
  return { status: 'OK', body: sortedJson(reply, '') };
}

function indented(text: string): string {
  return text
    .split('\n')
    .map((line) => `    ${line}`)
    .join('\n');
}

/** Python's `json.dumps(value, sort_keys=True, indent=4)`. */
function sortedJson(value: Json, indent: string): string {
  const inner = `${indent}    `;
  if (isList(value)) {
    if (value.length === 0) return '[]';
    return `[\n${value.map((item) => inner + sortedJson(item, inner)).join(',\n')}\n${indent}]`;
  }
  if (!isObject(value)) return toPythonJson(value);
  const members = Object.entries(value).sort(([one], [other]) => (one < other ? -1 : 1));
  if (members.length === 0) return '{}';
  const lines = members.map(([key, member]) => `${inner}${asciiJsonString(key)}: ${sortedJson(member, inner)}`);
  return `{\n${lines.join(',\n')}\n${indent}}`;
}
