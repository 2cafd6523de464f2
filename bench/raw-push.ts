import { connect, type Socket } from 'node:net';
import type { EmbeddedRedis } from '../runtime/embedded-redis.ts';

const KEY = 'bench:limit';
const CHUNK = 1_000;
/** So many chunks are under way at once that Redis never waits for this process. */
const CHUNKS_UNDER_WAY = 4;

/**
 * How many messages per second this Redis takes when nothing else is asked of it: the same bytes over and over, on one
 * connection, written to the socket ready-made. `perCommand` messages go into each LPUSH.
 */
export async function rawPushRate(
  server: EmbeddedRedis,
  message: Buffer,
  messages: number,
  perCommand: number,
): Promise<number> {
  const commands = Math.ceil(CHUNK / perCommand);
  const chunk = Buffer.concat(Array.from({ length: commands }, () => lpush(message, perCommand)));
  const chunks = Math.ceil(messages / (commands * perCommand));
  const socket = connect(server.port, '127.0.0.1');
  socket.setNoDelay(true);
  try {
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    const startedAtMs = performance.now();
    await push(socket, chunk, chunks, commands);
    const seconds = (performance.now() - startedAtMs) / 1_000;
    return (chunks * commands * perCommand) / seconds;
  } finally {
    socket.destroy();
  }
}

function lpush(message: Buffer, times: number): Buffer {
  const argument = (bytes: Buffer) => Buffer.concat([Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n')]);
  return Buffer.concat([
    Buffer.from(`*${times + 2}\r\n`),
    argument(Buffer.from('LPUSH')),
    argument(Buffer.from(KEY)),
    ...Array.from({ length: times }, () => argument(message)),
  ]);
}

/** Writes `chunk` so many times; settles when Redis has answered every command. */
function push(socket: Socket, chunk: Buffer, chunks: number, commandsPerChunk: number): Promise<void> {
  const NEWLINE = 10;
  let written = 0;
  let answered = 0;
  return new Promise((resolve, reject) => {
    const write = () => {
      while (written < chunks && written - answered / commandsPerChunk < CHUNKS_UNDER_WAY) {
        written += 1;
        socket.write(chunk);
      }
    };
    socket.on('error', reject);
    socket.on('data', (replies) => {
      if (replies.includes('-')) reject(new Error(`LPUSH: ${replies.toString('latin1').slice(0, 200)}`));
      for (let at = replies.indexOf(NEWLINE); at >= 0; at = replies.indexOf(NEWLINE, at + 1)) answered += 1;
      if (answered >= chunks * commandsPerChunk) resolve();
      else write();
    });
    write();
  });
}
