import { Command } from 'commander';
import { parseRedisUrl } from '../lua/connection.ts';
import { COMMON_OPTIONS } from '../runtime/common-options.ts';
import { addOptions, integer, number, type OptionValues, optionValues, text } from '../runtime/options.ts';
import { runDev } from './dev-run.ts';

export const DEV_OPTIONS = {
  beats: integer({ default: 3, min: 1, max: 64, doc: 'beat nodes, each a process of its own' }),
  schedules: integer({
    default: 0,
    min: 0,
    max: 10_000_000,
    doc: 'register so many schedules first, through the HTTP API',
  }),
  every: number({ default: 10, min: 0.1, max: 315_576_000, placeholder: 'S', doc: 'interval of those schedules, s' }),
  for: number<number | null>({
    default: null,
    min: 1,
    max: 31_557_600,
    placeholder: 'S',
    doc: 'end after so many seconds (default: at Ctrl-C)',
  }),
  redis: text<string | null>({
    placeholder: 'URL',
    default: null,
    doc: 'use this Redis (default: an embedded one of its own)',
  }),
  dataDir: text<string | null>({
    placeholder: 'DIR',
    default: null,
    doc: 'where the embedded Redis keeps its data (default: a new folder, removed at the end)',
  }),
  apiPort: integer({
    default: 7380,
    min: 1,
    max: 65_535,
    doc: 'port of the first beat node; the others and the worker take the next free ones',
  }),
  namespace: COMMON_OPTIONS.namespace,
  logLevel: { ...COMMON_OPTIONS.logLevel, default: 'warn' },
};

export type DevOptions = OptionValues<typeof DEV_OPTIONS>;

export function devCommand(): Command {
  const command = new Command('dev').description(
    'Run everything in one go: an embedded Redis, beat nodes with their API, and a worker with sample tasks.',
  );
  return addOptions(command, DEV_OPTIONS).action(async () => {
    const options = optionValues(command, DEV_OPTIONS);
    if (options.redis !== null && options.dataDir !== null) {
      command.error('error: --data-dir is for the embedded Redis: leave it out, or leave --redis out', { exitCode: 2 });
    }
    if (options.redis !== null) parseRedisUrl(options.redis, '--redis');
    process.exitCode = await runDev(options);
  });
}
