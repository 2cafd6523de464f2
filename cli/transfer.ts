import { createReadStream, realpathSync, statSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { Command } from 'commander';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import type { Json } from '../protocol/json.ts';
import { addOptions, optionValues } from '../runtime/options.ts';
import { API_OPTIONS, type ApiClient, apiClient, isList, member } from './api-client.ts';
import { complain, JSON_OPTION, jsonLine, print, shown } from './output.ts';

const IMPORT_OPTIONS = { ...API_OPTIONS, ...JSON_OPTION };

/** Writes every schedule as a line of JSON; `ringbeat export` and `ringbeat schedules export`. */
export function exportCommand(): Command {
  const command = new Command('export')
    .description('write all schedules as lines of JSON, with their next runs')
    .argument('[FILE]', 'where to, replaced once everything is written (default: standard output)');
  return addOptions(command, API_OPTIONS).action(async (file: string | undefined) => {
    const api = apiClient(command);
    if (file === undefined || file === '-') {
      for await (const chunk of api.download(EXPORT_PATH)) await print(chunk);
    } else {
      await print(`exported ${await exportTo(file, api)} schedules to ${file}\n`);
    }
  });
}

const EXPORT_PATH = '/v1/export';

const LINE_FEED = 0x0a;

/** Streams the schedules to the file, which is left as it was unless all came; how many there were. Throws BAD_FILE. */
async function exportTo(file: string, api: ApiClient): Promise<number> {
  const target = targetOf(file);
  const part = `${target}.part-${process.pid}`;
  const handle = await open(part, 'wx').catch(failed(file));
  try {
    let lines = 0;
    for await (const chunk of api.download(EXPORT_PATH)) {
      await handle.writeFile(chunk).catch(failed(file));
      for (const byte of chunk) if (byte === LINE_FEED) lines += 1;
    }
    await handle.sync().catch(failed(file));
    await rename(part, target).catch(failed(file));
    return lines;
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
}

/** The regular file that this names, or may name. Renaming onto a device or a link would put a file in its place. */
function targetOf(file: string): string {
  if (statSync(file, { throwIfNoEntry: false }) === undefined) return file;
  const target = realpathSync(file);
  if (statSync(target).isFile()) return target;
  throw new RingbeatError('BAD_FILE', { file, reason: 'it is no regular file' });
}

/** Creates and updates schedules from lines of JSON; `ringbeat import` and `ringbeat schedules import`. */
export function importCommand(): Command {
  const command = new Command('import')
    .description('create and update schedules from lines of JSON, such as export writes')
    .argument('[FILE]', 'where from (default: standard input)');
  return addOptions(command, IMPORT_OPTIONS).action(async (given: string | undefined) => {
    const { json } = optionValues(command, IMPORT_OPTIONS);
    const file = given ?? '-';
    if (file === '-' && process.stdin.isTTY) command.error('error: give a FILE, or schedules on standard input');
    const summary = await apiClient(command).upload('/v1/schedules', readChunks(file));
    await print(json ? jsonLine(summary) : `${countsOf(summary)}\n`);
    if (reportFailures(file, summary)) process.exitCode = 1;
  });
}

/** A file as it is read; `-` is standard input. Throws BAD_FILE. */
export async function* readChunks(file: string): AsyncGenerator<Buffer, void> {
  try {
    yield* file === '-' ? process.stdin : createReadStream(file);
  } catch (error) {
    throw new RingbeatError('BAD_FILE', { file, reason: messageOf(error) }, { cause: error });
  }
}

/** `created 2, updated 0, …`: the numbers of a summary. */
export function countsOf(summary: Json): string {
  return Object.entries(summary ?? {})
    .filter(([, count]) => typeof count === 'number')
    .map(([name, count]) => `${name} ${count}`)
    .join(', ');
}

/** Names the lines that failed on standard error; whether there are any. */
export function reportFailures(file: string, summary: Json): boolean {
  const failed = Number(member(summary, 'failed'));
  const errors = member(summary, 'errors');
  const told = isList(errors) ? errors : [];
  for (const error of told) {
    const id = member(error, 'id');
    const where = `${file}:${shown(member(error, 'line'))}${id === null ? '' : ` (${shown(id)})`}`;
    complain(`${where}: ${shown(member(error, 'message'))}`);
  }
  if (failed > told.length) complain(`and ${failed - told.length} more lines that failed`);
  return failed > 0;
}

function failed(file: string): (error: unknown) => never {
  return (error) => {
    throw new RingbeatError('BAD_FILE', { file, reason: messageOf(error) }, { cause: error });
  };
}
