import { readFileSync } from 'node:fs';
import { type Json, parseJson, toPythonJson } from '../protocol/json.ts';

const SAMPLES = new URL('../../test/fixtures/celery-samples/', import.meta.url);
/** A message of Celery 5.2 and one of the newest Celery. */
const NAMES = ['task-eta-aware', 'head-task-plain'];

/** A worker parks only what it could run. */
const TASK = 'bench.noop';

/** What each message has of its own. */
export interface MessageFields {
  readonly id: string;
  readonly tag: string;
  readonly etaMs: number;
  /** First of its two args. */
  readonly arg: number;
}

type JsonObject = { readonly [key: string]: Json };

/** Messages with an eta as Celery writes them; one function for each version of which a message was recorded. */
export function etaMessages(): ((fields: MessageFields) => string)[] {
  return NAMES.map((name) => etaMessage(recordedMessage(name)));
}

/** The message as kombu wrote it into the list. */
function recordedMessage(name: string): string {
  const file: { readonly lists: Readonly<Record<string, readonly { readonly raw: string }[]>> } = JSON.parse(
    readFileSync(new URL(`${name}.json`, SAMPLES), 'utf8'),
  );
  const raw = Object.values(file.lists).flat()[0]?.raw;
  if (raw === undefined) throw new Error(`${name} holds no message`);
  return raw;
}

/** Writes messages that are like the recorded one but for these fields, byte for byte. */
export function etaMessage(raw: string): (fields: MessageFields) => string {
  const message = parseJson(raw) as {
    readonly body: string;
    readonly headers: JsonObject;
    readonly properties: JsonObject;
  };
  const [, ...tail] = parseJson(Buffer.from(message.body, 'base64').toString()) as readonly Json[];
  const pattern = toPythonJson({
    ...message,
    body: '@body@',
    headers: { ...message.headers, task: TASK, id: '@id@', root_id: '@id@', eta: '@eta@', argsrepr: '@args@' },
    properties: { ...message.properties, correlation_id: '@id@', delivery_tag: '@tag@' },
  });
  const parts = pattern.split(/(@[a-z]+@)/);
  return ({ id, tag, etaMs, arg }) => {
    const values: Readonly<Record<string, string>> = {
      '@body@': Buffer.from(toPythonJson([[arg, 3], ...tail])).toString('base64'),
      '@id@': id,
      '@tag@': tag,
      '@eta@': new Date(etaMs).toISOString().replace('Z', '000+00:00'),
      '@args@': `(${arg}, 3)`,
    };
    return parts.map((part) => values[part] ?? part).join('');
  };
}
