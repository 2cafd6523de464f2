import { Command } from 'commander';
import { addOptions, flag, integer, optionValues } from '../runtime/options.ts';
import { API_OPTIONS, apiClient } from './api-client.ts';
import { first, JSON_OPTION, jsonLine, print, printList } from './output.ts';

const LIST_OPTIONS = {
  ...API_OPTIONS,
  limit: integer<number | null>({ min: 1, max: 1e9, default: null, doc: 'show at most so many' }),
  ...JSON_OPTION,
};

const REPLAY_OPTIONS = { ...API_OPTIONS, all: flag({ doc: 'all that can be replayed' }) };

const PAGE = 500;

/** `ringbeat dead-letters`: what was given up, with why. */
export function deadLettersCommand(): Command {
  return new Command('dead-letters')
    .description('look at runs and messages that were given up, and send them again')
    .addCommand(listCommand())
    .addCommand(replayCommand());
}

function listCommand(): Command {
  const command = new Command('list').description('list what was given up, with why');
  return addOptions(command, LIST_OPTIONS).action(async () => {
    const { limit, json } = optionValues(command, LIST_OPTIONS);
    const most = limit ?? Number.POSITIVE_INFINITY;
    const pages = apiClient(command).pages('/v1/dead-letters', 'dead_letters', { limit: Math.min(most, PAGE) });
    await printList(first(most, pages), { json });
  });
}

function replayCommand(): Command {
  const command = new Command('replay').description('send again what was given up').argument('[ID...]', 'their ids');
  return addOptions(command, REPLAY_OPTIONS).action(async (ids: readonly string[]) => {
    const { all } = optionValues(command, REPLAY_OPTIONS);
    if (all === ids.length > 0) command.error('error: give either IDs or --all');
    await print(jsonLine(await apiClient(command).post('/v1/dead-letters/replay', all ? { all } : { ids })));
  });
}
