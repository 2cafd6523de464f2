import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type { Json } from '../protocol/json.ts';
import { addOptions, number, optionValues, text } from '../runtime/options.ts';
import { API_OPTIONS, type ApiClient, apiClient, member } from './api-client.ts';
import { JSON_OPTION, jsonLine, prettyJson, print, shown } from './output.ts';
import { json, MESSAGE_OPTIONS, messageOptionsOf, present } from './spec-options.ts';
import { countsOf, readChunks, reportFailures } from './transfer.ts';

const SEND_OPTIONS = {
  ...API_OPTIONS,
  ...MESSAGE_OPTIONS,
  args: json('array', 'positional arguments, such as [42]', '-a'),
  kwargs: json('object', 'keyword arguments', '-k'),
  queue: {
    ...text<string | null>({ placeholder: 'NAME', default: null, doc: 'queue to send to (default: celery)' }),
    short: '-Q',
  },
  countdown: number<number | null>({
    placeholder: 'S',
    min: 0,
    max: 1e12,
    default: null,
    doc: 'run it this many s from now',
  }),
  eta: text<string | null>({ placeholder: 'TIME', default: null, doc: 'run it at this ISO 8601 time' }),
  taskId: text<string | null>({ placeholder: 'ID', default: null, doc: 'its id (default: a UUID)' }),
  file: {
    ...text<string | null>({
      placeholder: 'FILE',
      default: null,
      doc: 'send the tasks of this file, one JSON object a line (-: standard input)',
    }),
    short: '-f',
  },
  ...JSON_OPTION,
};

const RESULT_OPTIONS = {
  ...API_OPTIONS,
  wait: number<number | null>({
    placeholder: 'S',
    min: 0,
    max: 31_557_600,
    default: null,
    doc: 'wait up to this many s for it to end',
  }),
  ...JSON_OPTION,
};

/** States in which a task has ended, as Celery names them. */
const ENDED = new Set(['SUCCESS', 'FAILURE', 'REVOKED']);

const LOOK_EVERY_MS = 200;

export function tasksCommand(): Command {
  return new Command('tasks')
    .description('send single tasks, now or later')
    .addCommand(sendCommand())
    .addCommand(resultCommand())
    .addCommand(revokeCommand());
}

function sendCommand(): Command {
  const command = new Command('send')
    .description('send a task, now or later, and print its id')
    .argument('[TASK]', 'its name');
  return addOptions(command, SEND_OPTIONS).action(async (task: string | undefined) => {
    const { args, kwargs, queue, countdown, eta, taskId, file, json } = optionValues(command, SEND_OPTIONS);
    if ((task === undefined) === (file === null)) command.error('error: give either the name of a TASK or --file');
    if (countdown !== null && eta !== null) command.error('error: give --countdown or --eta, not both');
    const api = apiClient(command);
    if (file !== null) return sendMany(api, file, json);
    const options = { ...messageOptionsOf(command), ...present({ task_id: taskId }) };
    const body = present({ task: task ?? null, args, kwargs, queue, countdown, eta });
    const answer = await api.post('/v1/tasks', Object.keys(options).length === 0 ? body : { ...body, options });
    await print(json ? jsonLine(answer) : `${shown(member(answer, 'task_id'))}\n`);
  });
}

async function sendMany(api: ApiClient, file: string, json: boolean): Promise<void> {
  const summary = await api.upload('/v1/tasks', readChunks(file));
  await print(json ? jsonLine(summary) : `${countsOf(summary)}\n`);
  if (reportFailures(file, summary)) process.exitCode = 1;
}

function resultCommand(): Command {
  const command = new Command('result')
    .description(
      'print the state and result of a task; fails when it failed or was revoked, or has not ended after --wait',
    )
    .argument('<ID>', 'its id');
  return addOptions(command, RESULT_OPTIONS).action(async (id: string) => {
    const { wait, json } = optionValues(command, RESULT_OPTIONS);
    const api = apiClient(command);
    const giveUpAtMs = performance.now() + (wait ?? 0) * 1_000;
    let task = await api.get(taskPath(id));
    while (!hasEnded(task) && performance.now() < giveUpAtMs) {
      await sleep(Math.min(LOOK_EVERY_MS, Math.max(1, giveUpAtMs - performance.now())));
      task = await api.get(taskPath(id));
    }
    await print(json ? jsonLine(task) : prettyJson(task));
    const state = member(task, 'state');
    const isGood = state === 'SUCCESS' || (!hasEnded(task) && wait === null);
    if (!isGood) process.exitCode = 1;
  });
}

function revokeCommand(): Command {
  const command = new Command('revoke')
    .description('revoke tasks: those that have not begun will not run')
    .argument('<ID...>', 'their ids');
  return addOptions(command, API_OPTIONS).action(async (ids: readonly string[]) => {
    const api = apiClient(command);
    for (const id of ids) {
      await api.send('DELETE', taskPath(id));
      await print(`revoked ${id}\n`);
    }
  });
}

function hasEnded(task: Json): boolean {
  return ENDED.has(shown(member(task, 'state')));
}

function taskPath(id: string): string {
  return `/v1/tasks/${encodeURIComponent(id)}`;
}
