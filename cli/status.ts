import { Command } from 'commander';
import type { Json } from '../protocol/json.ts';
import { addOptions, optionValues } from '../runtime/options.ts';
import { isObject } from '../schedule/fields.ts';
import { API_OPTIONS, apiClient, isList, member } from './api-client.ts';
import { JSON_OPTION, jsonLine, print, printList, shown } from './output.ts';

const STATUS_OPTIONS = { ...API_OPTIONS, ...JSON_OPTION };

/** `ringbeat nodes`: who is alive. */
export function nodesCommand(): Command {
  return listCommand('nodes', 'list the live beat nodes', [
    'id',
    'hostname',
    'pid',
    'version',
    'started_at',
    'last_seen_at',
    'shards',
    'rate',
  ]);
}

/** `ringbeat shards`: who serves what. */
export function shardsCommand(): Command {
  return listCommand('shards', 'list the shards', ['id', 'owner', 'schedules', 'next_due_at', 'overdue']);
}

function listCommand(noun: string, description: string, columns: readonly string[]): Command {
  const command = new Command(noun).description(description);
  return addOptions(command, STATUS_OPTIONS).action(async () => {
    const { json } = optionValues(command, STATUS_OPTIONS);
    await printList(apiClient(command).pages(`/v1/${noun}`, noun), {
      json,
      columns,
      cell: (item, column) => listed(member(item, column)),
    });
  });
}

function listed(value: Json): string {
  return isList(value) ? value.map(shown).join(',') || '-' : shown(value);
}

/** `ringbeat stats`: figures of the whole system. */
export function statsCommand(): Command {
  const command = new Command('stats').description('show the figures of the whole system');
  return addOptions(command, STATUS_OPTIONS).action(async () => {
    const { json } = optionValues(command, STATUS_OPTIONS);
    const stats = await apiClient(command).get('/v1/stats');
    await print(json ? jsonLine(stats) : figures('', stats));
  });
}

/** One figure a line; what is within another has both names. */
function figures(name: string, value: Json): string {
  if (!isObject(value)) return `${name.padEnd(20)} ${shown(value)}\n`;
  return Object.entries(value)
    .map(([inner, member]) => figures(name === '' ? inner : `${name}.${inner}`, member))
    .join('');
}
