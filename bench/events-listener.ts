import { connect } from 'node:net';
import type { EmbeddedRedis } from '../runtime/embedded-redis.ts';

/** Where Celery's monitors listen, in database 0. */
const PATTERN = '/0.celeryev/*';

export interface EventsListener {
  /** Ends it; gives how many bytes came. */
  stop(): number;
}

/** Hears every event as a monitor does, but reads none of them, so that it costs as little as a listener can. */
export async function listenToEvents(server: EmbeddedRedis): Promise<EventsListener> {
  const socket = connect(server.port, '127.0.0.1');
  let bytes = 0;
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject).once('data', () => {
      socket.on('data', (data) => {
        bytes += data.length;
      });
      resolve();
    });
    socket.write(`PSUBSCRIBE ${PATTERN}\r\n`);
  });
  return {
    stop() {
      socket.destroy();
      return bytes;
    },
  };
}
