import { pino } from 'pino';

export type Log = pino.Logger;

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

/** One JSON line per event on standard error; standard output is for what a command prints. */
export function createLog(level: string, process: string): Log {
  return pino({ level, base: { process } }, pino.destination({ dest: 2, sync: false }));
}
