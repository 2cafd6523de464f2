import { isUtf8 } from 'node:buffer';
import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import {
  type DeadLetter,
  entryOf,
  type LetterKind,
  letterStreams,
  readLetters,
  readLettersUp,
} from '../lua/dead-letters.ts';
import { type NamespaceKeys, queueList, shardKeys } from '../lua/keys.ts';
import { replayMessage } from '../lua/replay-message.ts';
import { replayRun } from '../lua/replay-run.ts';
import { type Json, parseJson, toPythonJson } from '../protocol/json.ts';
import { isObject } from '../schedule/fields.ts';
import type { Namespace } from './namespace.ts';

/** Letters read, or replayed, in one go: a message may be large. */
const STEP = 20;

/** A page looks at so many letters at most, however few of them match, and holds about so much of what they keep. */
const MOST_LOOKED_AT = 2_000;
const PAGE_BYTES = 4_194_304;

/** Failures that are told of a replay of all. */
const MOST_FAILURES = 1_000;

export interface DeadLettersOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  /** Throws NAMESPACE_GONE while there is none. */
  namespace(): Namespace;
}

/** Where a page ended. */
export interface LetterPosition {
  readonly stream: string;
  readonly entry: string;
}

export interface LetterPage {
  readonly letters: readonly DeadLetter[];
  /** Where the next page begins; null: there is none. */
  readonly next: LetterPosition | null;
}

export interface ReplaySummary {
  readonly replayed: number;
  /** What is still there, and why; of all letters the first 1,000. */
  readonly failed: readonly { readonly id: string; readonly reason: string }[];
}

/** What was given up: to be looked at, sent again, or forgotten. All methods throw NAMESPACE_GONE. */
export class DeadLetters {
  readonly #options: DeadLettersOptions;

  constructor(options: DeadLettersOptions) {
    this.#options = options;
  }

  /** A page, newest first, behind `after`; `kind` null: of all kinds. A page may be short while there is a next one. */
  async list(limit: number, kind: LetterKind | null, after: LetterPosition | null): Promise<LetterPage> {
    const streams = [...this.#streams()].map((stream, at) => {
      const isBefore = after === null || at > this.#indexOf(after.stream);
      return new LetterReader(this.#options.redis, stream, after === null ? '+' : (isBefore ? '' : '(') + after.entry);
    });
    const letters: DeadLetter[] = [];
    let last: DeadLetter | null = null;
    let bytes = 0;
    for (let lookedAt = 0; lookedAt < MOST_LOOKED_AT && letters.length < limit && bytes < PAGE_BYTES; lookedAt++) {
      const heads = await Promise.all(streams.map((stream) => stream.head()));
      const at = newest(heads);
      const letter = at === null ? null : heads[at];
      if (at === null || letter == null) return { letters, next: null };
      streams[at]!.pass();
      last = letter;
      if (kind !== null && letter.kind !== kind) continue;
      letters.push(letter);
      bytes += letter.data.length;
    }
    return { letters, next: last === null ? after : positionOf(last.id) };
  }

  /** Sends these again, each once; what cannot be sent stays where it is. */
  async replay(ids: readonly string[]): Promise<ReplaySummary> {
    const summary = { replayed: 0, failed: [] as { id: string; reason: string }[] };
    for (const page of pages([...new Set(ids)])) {
      const letters = await Promise.all(page.map((id) => this.#read(id)));
      await this.#replayAll(
        letters.filter((letter) => letter !== null),
        summary,
      );
      letters.forEach((letter, at) => {
        if (letter === null) summary.failed.push({ id: page[at]!, reason: GONE });
      });
    }
    return summary;
  }

  /** Sends all of a kind again (null: of every kind), those of one shard oldest first. What comes meanwhile is left out. */
  async replayAll(kind: LetterKind | null): Promise<ReplaySummary> {
    const summary = { replayed: 0, failed: [] as { id: string; reason: string }[] };
    for await (const letters of this.#all(kind)) await this.#replayAll(letters, summary);
    return { ...summary, failed: summary.failed.filter(({ reason }) => reason !== GONE).slice(0, MOST_FAILURES) };
  }

  /** Forgets these; how many there were. */
  async remove(ids: readonly string[]): Promise<number> {
    const { redis } = this.#options;
    const streams = this.#streams();
    const byStream = new Map<string, string[]>();
    for (const { stream, entry } of ids.flatMap((id) => positionOf(id) ?? [])) {
      const key = streams.get(stream);
      if (key === undefined) continue;
      const entries = byStream.get(key) ?? [];
      byStream.set(key, entries);
      entries.push(entry);
    }
    const removed = await Promise.all([...byStream].map(([key, entries]) => redis.xdel(key, ...entries)));
    return removed.reduce((sum, count) => sum + count, 0);
  }

  /** Forgets all of a kind (null: of every kind) that are there now; how many there were. */
  async removeAll(kind: LetterKind | null): Promise<number> {
    let removed = 0;
    for await (const letters of this.#all(kind)) removed += await this.remove(letters.map(({ id }) => id));
    return removed;
  }

  #streams(): Map<string, string> {
    const { name, shards } = this.#options.namespace();
    return letterStreams(name, this.#options.names, shards);
  }

  #indexOf(stream: string): number {
    return [...this.#streams().keys()].indexOf(stream);
  }

  async #read(id: string): Promise<DeadLetter | null> {
    const position = positionOf(id);
    const key = position === null ? undefined : this.#streams().get(position.stream);
    if (position === null || key === undefined) return null;
    const { stream, entry } = position;
    const [letter] = await readLettersUp(this.#options.redis, [stream, key], entry, entry, 1);
    return letter ?? null;
  }

  /** All that are there at the beginning, stream by stream, oldest first, in steps. */
  async *#all(kind: LetterKind | null): AsyncGenerator<readonly DeadLetter[], void> {
    const { redis } = this.#options;
    for (const stream of this.#streams()) {
      const [end] = await readLetters(redis, stream, '+', 1);
      if (end === undefined) continue;
      for (let from = '-'; ; ) {
        const letters = await readLettersUp(redis, stream, from, entryOf(end), STEP);
        yield letters.filter((letter) => kind === null || letter.kind === kind);
        const last = letters.at(-1);
        if (last === undefined || letters.length < STEP) break;
        from = `(${entryOf(last)}`;
      }
    }
  }

  async #replayAll(
    letters: readonly DeadLetter[],
    summary: { replayed: number; failed: { id: string; reason: string }[] },
  ): Promise<void> {
    // In flight at once, and in their order: Redis takes what one connection sends one after the other.
    const reasons = await Promise.all(letters.map((letter) => this.#replayOne(letter)));
    reasons.forEach((reason, at) => {
      if (reason === null) summary.replayed += 1;
      else summary.failed.push({ id: letters[at]!.id, reason });
    });
  }

  /** Null when it was sent again, else why it was not. */
  #replayOne(letter: DeadLetter): Promise<string | null> {
    return letter.kind === 'schedule' ? this.#replayRun(letter) : this.#replayMessage(letter);
  }

  async #replayRun(letter: DeadLetter): Promise<string | null> {
    const { redis, names } = this.#options;
    const { name, epoch } = this.#options.namespace();
    const shard = Number(letter.id.slice(0, letter.id.indexOf(':')));
    switch (await replayRun(redis, names, shardKeys(name, shard), { epoch, shard, entry: entryOf(letter) })) {
      case 'replayed':
        return null;
      case 'gone':
        return GONE;
      case 'missing':
        return `there is no schedule "${letter.schedule}"`;
      case 'unreadable':
        return `the schedule "${letter.schedule}" cannot be read; put it again`;
      case 'paused':
        return `the loop "${letter.schedule}" is paused; it goes on when it is resumed`;
      case 'full':
        return `too many extra runs of the schedule "${letter.schedule}" are waiting`;
    }
  }

  async #replayMessage(letter: DeadLetter): Promise<string | null> {
    const { redis, names } = this.#options;
    const { epoch, queueCap } = this.#options.namespace();
    const message = messageOf(letter.data);
    const queue = letter.queue ?? message?.routingKey ?? '';
    if (message === null || queue === '') return 'it is no message that could be sent';
    const { stream } = positionOf(letter.id) ?? { stream: '' };
    const outcome = await replayMessage(redis, names, {
      epoch,
      stream: this.#streams().get(stream) ?? '',
      entry: entryOf(letter),
      queue,
      list: queueList(queue, message.priority),
      queueCap,
      envelope: sentAnew(message.envelope),
    });
    switch (outcome) {
      case 'replayed':
        return null;
      case 'gone':
        return GONE;
      case 'full':
        return `the queue ${queue} is at its cap of ${queueCap}`;
      case 'wrong':
        return `the queue ${queue} is a key of another type`;
    }
  }
}

const GONE = 'there is no such dead letter';

/** Reads one stream from its newest letter back, as far as it is asked for. */
class LetterReader {
  readonly #redis: Redis;
  readonly #stream: readonly [string, string];
  #newest: string;
  #letters: DeadLetter[] = [];
  #hasEnded = false;

  constructor(redis: Redis, stream: readonly [string, string], newest: string) {
    this.#redis = redis;
    this.#stream = stream;
    this.#newest = newest;
  }

  async head(): Promise<DeadLetter | null> {
    if (this.#letters.length === 0 && !this.#hasEnded) {
      this.#letters = await readLetters(this.#redis, this.#stream, this.#newest, STEP);
      this.#hasEnded = this.#letters.length < STEP;
      const oldest = this.#letters.at(-1);
      if (oldest !== undefined) this.#newest = `(${entryOf(oldest)}`;
    }
    return this.#letters[0] ?? null;
  }

  pass(): void {
    this.#letters.shift();
  }
}

/** Which of them is the newest; of several, the first. */
function newest(letters: readonly (DeadLetter | null)[]): number | null {
  let best: number | null = null;
  letters.forEach((letter, at) => {
    if (letter === null) return;
    const other = best === null ? null : letters[best];
    if (other == null || isNewer(entryOf(letter), entryOf(other))) best = at;
  });
  return best;
}

function isNewer(one: string, other: string): boolean {
  const [ms, sequence] = one.split('-').map(Number);
  const [otherMs, otherSequence] = other.split('-').map(Number);
  return ms === otherMs ? Number(sequence) > Number(otherSequence) : Number(ms) > Number(otherMs);
}

/** Where the letter with this id lies; null for what is no such id. */
export function positionOf(id: string): LetterPosition | null {
  const match = /^(w|0|[1-9]\d{0,4}):(\d{1,15}-\d{1,15})$/.exec(id);
  return match === null ? null : { stream: match[1]!, entry: match[2]! };
}

interface ReadMessage {
  readonly envelope: JsonObject & { readonly headers?: Json; readonly properties: JsonObject };
  readonly routingKey: string;
  readonly priority: number;
  readonly task: string | null;
  readonly taskId: string | null;
}

type JsonObject = { readonly [key: string]: Json };

/** What a message tells of itself; null when it is none that kombu could have written. */
export function messageOf(data: Buffer): ReadMessage | null {
  const found = isUtf8(data) ? parsed(data.toString()) : null;
  // As it lay in kombu's `unacked`, where its end could not be told apart.
  const envelope = Array.isArray(found) ? (found[0] as Json) : found;
  if (!isObject(envelope) || !isObject(envelope.properties)) return null;
  const { properties, headers } = envelope;
  const { delivery_info: info } = properties;
  if (!isObject(info) || typeof info.exchange !== 'string' || typeof info.routing_key !== 'string') return null;
  const priority = Number(properties.priority ?? 0);
  const header = (name: string) => {
    const value = isObject(headers) ? headers[name] : undefined;
    return typeof value === 'string' ? value : null;
  };
  return {
    envelope: { ...envelope, properties },
    routingKey: info.routing_key,
    priority: Number.isInteger(priority) ? Math.min(Math.max(priority, 0), 9) : 0,
    task: header('task'),
    taskId: header('id'),
  };
}

/** The message under a delivery tag of its own. Nobody waits for the end of its run any more. */
function sentAnew({ headers, ...envelope }: ReadMessage['envelope']): string {
  const { ringbeat, ...others } = isObject(headers) ? headers : {};
  const { journal: _, ...schedule } = isObject(ringbeat) ? ringbeat : {};
  return toPythonJson({
    ...envelope,
    headers: { ...others, ...(isObject(ringbeat) ? { ringbeat: schedule } : {}) },
    properties: { ...envelope.properties, delivery_tag: randomUUID() },
  });
}

function parsed(text: string): Json {
  try {
    return parseJson(text);
  } catch {
    // It is no JSON, so no message.
    return null;
  }
}

function pages<Item>(items: readonly Item[]): Item[][] {
  return Array.from({ length: Math.ceil(items.length / STEP) }, (_, page) =>
    items.slice(page * STEP, (page + 1) * STEP),
  );
}
