import type { Command } from 'commander';
import { toPythonJson } from '../protocol/json.ts';
import { optionValues } from '../runtime/options.ts';
import { print } from './output.ts';
import { REMOTE_OPTIONS, remoteCommand } from './remote-control.ts';

/** `ringbeat control`: tells workers, Celery's and ours, what to do. */
export function controlCommand(): Command {
  return remoteCommand(
    'control',
    "tell all workers, Celery's too, as `celery control` does",
    async (command, replies) => {
      const { json } = optionValues(command, REMOTE_OPTIONS);
      if (json) await print(`${toPythonJson(replies.map(([node, reply]) => ({ [node]: reply })))}\n`);
    },
  );
}
