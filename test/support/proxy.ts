import { createHash } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

/** Whether a command, its words joined by blanks, is meant. */
export type CommandMatcher = (command: string) => boolean;

export interface Cut {
  /** How often it has cut so far. */
  readonly count: number;
}

/**
 * A TCP proxy in front of Redis that fails as networks do. It reads the commands of each connection and the replies
 * to them, so that it can cut a connection exactly between a command's execution and its reply.
 */
export interface RedisProxy {
  readonly url: string;
  readonly port: number;
  /**
   * Lets Redis execute the next `times` commands that match, swallows each one's reply, and closes the client's
   * connection instead. NOSCRIPT is passed on and not counted: nothing was executed.
   */
  cutAfter(matcher: CommandMatcher, times?: number): Cut;
  /** Closes the connection of the next `times` commands that match before Redis has seen them. */
  cutBefore(matcher: CommandMatcher, times?: number): Cut;
  /** Closes all connections and accepts no new ones, until `accept`. */
  refuse(): void;
  accept(): void;
  /** Holds every reply back for so long, ms; 0 ends it. */
  delay(ms: number): void;
  /** How many connections it has now. */
  readonly connections: number;
  close(): Promise<void>;
}

/** Matches a script by its text, however it is called (EVALSHA or EVAL). */
export function runsScript(script: { readonly source: string }): CommandMatcher {
  const source = Buffer.from(script.source).toString('latin1');
  const sha = createHash('sha1').update(script.source).digest('hex');
  return (command) =>
    command.toLowerCase().startsWith(`evalsha ${sha}`) ||
    (/^eval /i.test(command.slice(0, 5)) && command.includes(source));
}

/** A proxy to the Redis on this port of 127.0.0.1; ends with the test. */
export async function startProxy(t: Test, redisPort: number): Promise<RedisProxy> {
  const links = new Set<Link>();
  const cuts: PlannedCut[] = [];
  const weather: Weather = { cuts, delayMs: 0 };
  let refusing = false;
  const server = createServer({ noDelay: true }, (client) => {
    if (refusing) {
      client.destroy();
      return;
    }
    const link = new Link(client, redisPort, weather);
    links.add(link);
    client.once('close', () => links.delete(link));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;

  const plan = (when: 'before' | 'after', matches: CommandMatcher, times: number): Cut => {
    const cut = { when, matches, left: times, count: 0 };
    cuts.push(cut);
    return cut;
  };
  const close = async () => {
    for (const link of links) link.close();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  t.teardown(close);
  return {
    url: `redis://127.0.0.1:${port}/0`,
    port,
    cutAfter: (matcher, times = 1) => plan('after', matcher, times),
    cutBefore: (matcher, times = 1) => plan('before', matcher, times),
    refuse() {
      refusing = true;
      for (const link of links) link.close();
    },
    accept() {
      refusing = false;
    },
    delay(ms) {
      weather.delayMs = ms;
    },
    get connections() {
      return links.size;
    },
    close,
  };
}

interface PlannedCut {
  readonly when: 'before' | 'after';
  readonly matches: CommandMatcher;
  left: number;
  count: number;
}

interface Weather {
  readonly cuts: readonly PlannedCut[];
  delayMs: number;
}

/** One client's connection and ours to Redis for it. */
class Link {
  readonly #client: Socket;
  readonly #redis: Socket;
  readonly #weather: Weather;
  readonly #fromClient = new RespReader();
  readonly #fromRedis = new RespReader();
  /** For each command that waits for its reply: the cut to make when it comes, if any. */
  readonly #awaited: (PlannedCut | null)[] = [];
  #relayed: Promise<void> = Promise.resolve();

  constructor(client: Socket, redisPort: number, weather: Weather) {
    this.#client = client;
    this.#weather = weather;
    this.#redis = connect({ port: redisPort, host: '127.0.0.1', noDelay: true });
    for (const socket of [this.#client, this.#redis]) socket.on('error', () => {}).on('close', () => this.close());
    this.#client.on('data', (bytes) => this.#onCommands(bytes));
    this.#redis.on('data', (bytes) => this.#onReplies(bytes));
  }

  close(): void {
    this.#client.destroy();
    this.#redis.destroy();
  }

  #onCommands(bytes: Buffer): void {
    for (const command of this.#fromClient.push(bytes)) {
      const words = wordsOf(command);
      const cut = this.#weather.cuts.find((cut) => cut.left > 0 && cut.matches(words)) ?? null;
      if (cut?.when === 'before') {
        cut.left -= 1;
        cut.count += 1;
        this.close();
        return;
      }
      this.#awaited.push(cut);
      this.#redis.write(command);
    }
  }

  #onReplies(bytes: Buffer): void {
    for (const reply of this.#fromRedis.push(bytes)) {
      const cut = this.#awaited.shift() ?? null;
      if (cut !== null && cut.left > 0 && !reply.toString('latin1', 0, 9).startsWith('-NOSCRIPT')) {
        cut.left -= 1;
        cut.count += 1;
        this.close();
        return;
      }
      this.#relay(reply);
    }
  }

  #relay(reply: Buffer): void {
    if (this.#weather.delayMs === 0) {
      // In step with replies that are still held back, if any.
      this.#relayed = this.#relayed.then(() => this.#answer(reply));
      return;
    }
    const held = sleep(this.#weather.delayMs);
    this.#relayed = this.#relayed.then(() => held).then(() => this.#answer(reply));
  }

  #answer(reply: Buffer): void {
    if (!this.#client.destroyed) this.#client.write(reply);
  }
}

/** Cuts a stream of bytes into whole RESP values (https://redis.io/docs/latest/develop/reference/protocol-spec/). */
class RespReader {
  #bytes: Buffer = Buffer.alloc(0);

  push(bytes: Buffer): Buffer[] {
    this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes]);
    const values: Buffer[] = [];
    let start = 0;
    for (;;) {
      const end = endOfValue(this.#bytes, start);
      if (end === null) break;
      values.push(this.#bytes.subarray(start, end));
      start = end;
    }
    this.#bytes = this.#bytes.subarray(start);
    return values;
  }
}

/** Index after the value that begins at `start`; null while it is incomplete. */
function endOfValue(bytes: Buffer, start: number): number | null {
  const newline = bytes.indexOf('\r\n', start, 'latin1');
  if (newline === -1) return null;
  const afterLine = newline + 2;
  const type = bytes.toString('latin1', start, start + 1);
  const length = Number(bytes.toString('latin1', start + 1, newline));
  switch (type) {
    case '$':
    case '=':
    case '!': {
      if (length < 0) return afterLine;
      const end = afterLine + length + 2;
      return end <= bytes.length ? end : null;
    }
    case '*':
    case '~':
    case '>':
      return endOfMany(bytes, afterLine, length);
    case '%':
      return endOfMany(bytes, afterLine, 2 * length);
    default:
      return afterLine;
  }
}

function endOfMany(bytes: Buffer, start: number, count: number): number | null {
  let end = start;
  for (let i = 0; i < count; i++) {
    const next = endOfValue(bytes, end);
    if (next === null) return null;
    end = next;
  }
  return end;
}

/** The words of a command: `*2\r\n$3\r\nGET\r\n$1\r\na\r\n` -> `GET a`. */
function wordsOf(command: Buffer): string {
  const words: string[] = [];
  let at = command.indexOf('\r\n') + 2;
  while (at < command.length && command[at] === 0x24) {
    const newline = command.indexOf('\r\n', at);
    const length = Number(command.toString('latin1', at + 1, newline));
    words.push(command.toString('latin1', newline + 2, newline + 2 + length));
    at = newline + 2 + length + 2;
  }
  return words.join(' ');
}
