import { Command } from 'commander';
import { LETTER_KINDS } from '../lua/dead-letters.ts';
import { addOptions, flag, integer, optionValues } from '../runtime/options.ts';
import { API_OPTIONS, apiClient, isList, member } from './api-client.ts';
import { complain, first, JSON_OPTION, print, printList, shown } from './output.ts';
import { choice } from './spec-options.ts';

const KIND_OPTION = {
  kind: choice(
    LETTER_KINDS,
    'only runs that schedules could not send, parked messages, or messages that no worker could use',
  ),
};

const LIST_OPTIONS = {
  ...API_OPTIONS,
  ...KIND_OPTION,
  limit: integer<number | null>({ min: 1, max: 1e9, default: null, doc: 'show at most so many' }),
  ...JSON_OPTION,
};

const SELECTION_OPTIONS = { ...API_OPTIONS, ...KIND_OPTION, all: flag({ doc: 'all there are, or all of the --kind' }) };

const PAGE = 500;

/** `ringbeat dead-letters`: what was given up, with why. */
export function deadLettersCommand(): Command {
  return new Command('dead-letters')
    .description('look at runs and messages that were given up, and send them again')
    .addCommand(listCommand())
    .addCommand(replayCommand())
    .addCommand(deleteCommand());
}

function listCommand(): Command {
  const command = new Command('list').description(
    'list what was given up, newest first; --json tells the contents too',
  );
  return addOptions(command, LIST_OPTIONS).action(async () => {
    const { kind, limit, json } = optionValues(command, LIST_OPTIONS);
    const most = limit ?? Number.POSITIVE_INFINITY;
    const query = { kind, limit: Math.min(most, PAGE) };
    await printList(first(most, apiClient(command).pages('/v1/dead-letters', 'dead_letters', query)), {
      json,
      columns: ['id', 'at', 'kind', 'schedule', 'queue', 'task', 'task_id', 'reason'],
    });
  });
}

function replayCommand(): Command {
  const command = new Command('replay')
    .description('send again what was given up, each once; what cannot be sent stays')
    .argument('[ID...]', 'their ids');
  return addOptions(command, SELECTION_OPTIONS).action(async (ids: readonly string[]) => {
    const answer = await apiClient(command).post('/v1/dead-letters/replay', selectionOf(command, ids));
    await print(`replayed ${shown(member(answer, 'replayed'))}\n`);
    const failed = member(answer, 'failed');
    for (const failure of isList(failed) ? failed : []) {
      complain(`${shown(member(failure, 'id'))}: ${shown(member(failure, 'reason'))}`);
      process.exitCode = 1;
    }
  });
}

function deleteCommand(): Command {
  const command = new Command('delete').description('forget what was given up').argument('[ID...]', 'their ids');
  return addOptions(command, SELECTION_OPTIONS).action(async (ids: readonly string[]) => {
    const answer = await apiClient(command).post('/v1/dead-letters/delete', selectionOf(command, ids));
    await print(`deleted ${shown(member(answer, 'deleted'))}\n`);
  });
}

/** Which letters are meant: those with the ids, or all. */
function selectionOf(command: Command, ids: readonly string[]) {
  const { kind, all } = optionValues(command, SELECTION_OPTIONS);
  if (all === ids.length > 0) command.error('error: give either IDs or --all');
  if (!all && kind !== null) command.error('error: --kind goes with --all');
  return all ? { all, ...(kind === null ? {} : { kind }) } : { ids };
}
