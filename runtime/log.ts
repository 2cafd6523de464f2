import { createRequire } from 'node:module';
import { isatty } from 'node:tty';
import { type DestinationStream, pino } from 'pino';
import type PinoPretty from 'pino-pretty';

export type Log = pino.Logger;

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

export const LOG_FORMATS = ['json', 'pretty'] as const;

export type LogFormat = (typeof LOG_FORMATS)[number];

const STANDARD_ERROR = 2;

/** One line per event on standard error, as JSON or as people read it; standard output is for what a command prints. */
export function createLog(level: string, process: string, format: LogFormat = 'json'): Log {
  const stream = format === 'pretty' ? prettyStream() : pino.destination({ dest: STANDARD_ERROR, sync: false });
  return pino({ level, base: { process } }, stream);
}

function prettyStream(): DestinationStream {
  // Most processes have no use for it.
  const pretty: typeof PinoPretty = createRequire(import.meta.url)('pino-pretty');
  return pretty({
    destination: STANDARD_ERROR,
    sync: true,
    colorize: isatty(STANDARD_ERROR),
    singleLine: true,
    translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l',
    // What happened goes first, then what a task said of it.
    messageFormat: ({ event, msg }) => [event, msg].filter((part) => part !== undefined).join(': '),
    ignore: 'process,event',
  });
}
