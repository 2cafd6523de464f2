import { Command } from 'commander';
import { toPythonJson } from '../protocol/json.ts';
import { addOptions, optionValues } from '../runtime/options.ts';
import { print } from './output.ts';
import { ask, onlineText, REMOTE_OPTIONS, remoteCommand } from './remote-control.ts';

/** `ringbeat inspect`: asks workers, Celery's and ours, what they do. */
export function inspectCommand(): Command {
  return remoteCommand(
    'inspect',
    "ask all workers, Celery's too, as `celery inspect` does",
    async (command, replies) => {
      const { json } = optionValues(command, REMOTE_OPTIONS);
      await print(json ? `${toPythonJson(Object.fromEntries(replies))}\n` : onlineText(replies));
    },
  );
}

/** `ringbeat status`: which workers are online. */
export function statusCommand(): Command {
  const command = new Command('status').description("show which workers are online, Celery's too");
  return addOptions(command, REMOTE_OPTIONS).action(async () => {
    const { json } = optionValues(command, REMOTE_OPTIONS);
    const replies = await ask(command, 'ping', {}, false);
    if (replies.length === 0) return;
    await print(json ? `${toPythonJson(Object.fromEntries(replies))}\n` : onlineText(replies));
  });
}
