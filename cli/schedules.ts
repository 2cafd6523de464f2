import { Command } from 'commander';
import { messageOf } from '../protocol/errors.ts';
import type { Json } from '../protocol/json.ts';
import { addOptions, flag, integer, optionValues, text } from '../runtime/options.ts';
import { isObject } from '../schedule/fields.ts';
import { API_OPTIONS, type ApiClient, apiClient, isList, isRefusal, member, schedulePath } from './api-client.ts';
import { complain, first, JSON_OPTION, jsonLine, prettyJson, print, printList, shown } from './output.ts';
import { applyCommand } from './schedules-apply.ts';
import { PREVIEW_OPTIONS, present, previewOf, SPEC_OPTIONS, specOf } from './spec-options.ts';
import { exportCommand, importCommand } from './transfer.ts';

const optional = (placeholder: string, doc: string) => text<string | null>({ placeholder, default: null, doc });

/** Which schedules an action is for, where no ids are given. */
const SELECTION_OPTIONS = {
  tag: optional('TAG', 'all schedules with this tag'),
  prefix: optional('TEXT', 'all schedules whose id begins so'),
};

const ADD_OPTIONS = {
  ...API_OPTIONS,
  ...SPEC_OPTIONS,
  replace: flag({ doc: 'replace the schedule if there is one with this id' }),
  ...JSON_OPTION,
};

const LIST_OPTIONS = {
  ...API_OPTIONS,
  tag: optional('TAG', 'only those with this tag'),
  task: optional('NAME', 'only those of this task'),
  queue: optional('NAME', 'only those for this queue'),
  prefix: optional('TEXT', 'only those whose id begins so'),
  state: optional('STATE', 'only those that are scheduled, running, paused or completed'),
  limit: integer<number | null>({ min: 1, max: 1e9, default: null, doc: 'show at most so many' }),
  ...JSON_OPTION,
};

const NEXT_OPTIONS = {
  ...API_OPTIONS,
  count: integer({ min: 1, max: 1_000, default: 10, doc: 'how many' }),
  after: optional('TIME', 'strictly after this ISO 8601 time (default: now)'),
  ...PREVIEW_OPTIONS,
};

const BACKFILL_OPTIONS = {
  ...API_OPTIONS,
  from: optional('TIME', 'the first time that is run, ISO 8601'),
  to: optional('TIME', 'only what is before this time is run'),
};

/** Schedules on a page of a list. */
const PAGE = 500;

export function schedulesCommand(): Command {
  return new Command('schedules')
    .description('manage schedules through the HTTP API')
    .addCommand(addCommand())
    .addCommand(getCommand())
    .addCommand(listCommand())
    .addCommand(nextCommand())
    .addCommand(runsCommand())
    .addCommand(enabledCommand('pause', 'paused'))
    .addCommand(enabledCommand('resume', 'resumed'))
    .addCommand(triggerCommand())
    .addCommand(backfillCommand())
    .addCommand(removeCommand())
    .addCommand(exportCommand())
    .addCommand(importCommand())
    .addCommand(applyCommand());
}

function addCommand(): Command {
  const command = new Command('add').description('create a schedule').argument('[ID]', 'its id (default: a UUID)');
  return addOptions(command, ADD_OPTIONS).action(async (given: string | undefined) => {
    const { replace, json } = optionValues(command, ADD_OPTIONS);
    const spec = specOf(command);
    const id = given ?? member(spec, 'id');
    if (replace && typeof id !== 'string') command.error('error: --replace needs the ID of a schedule');
    const body = id === null ? spec : { ...spec, id };
    const { status, body: schedule } = replace
      ? await apiClient(command).send('PUT', schedulePath(String(id)), body)
      : await apiClient(command).send('POST', '/v1/schedules', body);
    const verb = status === 201 ? 'created' : 'updated';
    await print(json ? jsonLine(schedule) : `${verb} ${shown(member(schedule, 'id'))}${nextRun(schedule)}\n`);
  });
}

function getCommand(): Command {
  const command = new Command('get').description('print schedules as JSON').argument('<ID...>', 'their ids');
  const options = { ...API_OPTIONS, ...JSON_OPTION };
  return addOptions(command, options).action(async (ids: readonly string[]) => {
    const { json } = optionValues(command, options);
    await forEach(ids, async (id) => {
      const schedule = await apiClient(command).get(schedulePath(id));
      await print(json ? jsonLine(schedule) : prettyJson(schedule));
    });
  });
}

function listCommand(): Command {
  const command = new Command('list').description('list schedules, in no particular order');
  return addOptions(command, LIST_OPTIONS).action(async () => {
    const { tag, task, queue, prefix, state, limit, json } = optionValues(command, LIST_OPTIONS);
    const query = { tag, task, queue, prefix, state, limit: Math.min(limit ?? PAGE, PAGE) };
    const pages = apiClient(command).pages('/v1/schedules', 'schedules', query);
    await printList(first(limit ?? Number.POSITIVE_INFINITY, pages), {
      json,
      columns: ['id', 'task', 'schedule', 'queue', 'state', 'next_run_at', 'last_run_at'],
      cell: (schedule, column) =>
        column === 'schedule' ? timingText(member(schedule, column)) : shown(member(schedule, column)),
    });
  });
}

/** A schedule's timing in a few words, such as `cron 0 9 * * * Europe/Berlin`. */
function timingText(timing: Json): string {
  if (!isObject(timing)) return shown(timing);
  const [kind, ...others] = Object.entries(timing);
  if (kind === undefined) return '-';
  const words = others.filter(([, value]) => value !== 'spread' && value !== 'unix' && value !== null);
  return [kind[0], shown(kind[1]), ...words.map(([, value]) => shown(value))].join(' ');
}

function nextCommand(): Command {
  const command = new Command('next')
    .description('print when a schedule is due next; with --cron and the like, when one would be')
    .argument('[ID]', 'its id');
  return addOptions(command, NEXT_OPTIONS).action(async (id: string | undefined) => {
    const { count, after } = optionValues(command, NEXT_OPTIONS);
    const timing = previewOf(command);
    const api = apiClient(command);
    if (member(timing, 'schedule') === null && id === undefined)
      command.error('error: give the ID of a schedule, or --every, --cron, … for one that there is not');
    const answer =
      member(timing, 'schedule') === null && id !== undefined
        ? await api.get(schedulePath(id, 'next'), { count, after })
        : await api.post('/v1/preview', { ...timing, ...present({ id: id ?? null, after }), count });
    const times = member(answer, 'next');
    await print(isList(times) ? times.map((time) => `${shown(time)}\n`).join('') : '');
  });
}

function runsCommand(): Command {
  const command = new Command('runs').description('list the recent runs of a schedule').argument('<ID>', 'its id');
  const options = { ...API_OPTIONS, ...JSON_OPTION };
  return addOptions(command, options).action(async (id: string) => {
    const { json } = optionValues(command, options);
    await printList(apiClient(command).pages(schedulePath(id, 'runs'), 'runs'), { json });
  });
}

function enabledCommand(action: 'pause' | 'resume', done: string): Command {
  const command = new Command(action)
    .description(action === 'pause' ? 'pause schedules: what falls due meanwhile is not missed' : 'let schedules go on')
    .argument('[ID...]', 'their ids');
  return addOptions(command, { ...API_OPTIONS, ...SELECTION_OPTIONS }).action((ids: readonly string[]) =>
    actOn(command, ids, action, done, (api, id) => api.post(schedulePath(id, action))),
  );
}

function removeCommand(): Command {
  const command = new Command('remove')
    .description('delete schedules; what is in a queue already stays there')
    .argument('[ID...]', 'their ids');
  return addOptions(command, { ...API_OPTIONS, ...SELECTION_OPTIONS }).action((ids: readonly string[]) =>
    actOn(command, ids, 'delete', 'removed', (api, id) => api.send('DELETE', schedulePath(id))),
  );
}

/** Does it to each id, or to all that are selected: then it says how many matched and changed. */
async function actOn(
  command: Command,
  ids: readonly string[],
  action: string,
  done: string,
  act: (api: ApiClient, id: string) => Promise<unknown>,
): Promise<void> {
  const { tag, prefix } = optionValues(command, SELECTION_OPTIONS);
  const ways = [ids.length > 0, tag !== null, prefix !== null].filter((isGiven) => isGiven).length;
  if (ways !== 1) command.error('error: give either IDs, or --tag, or --prefix');
  const api = apiClient(command);
  if (ids.length === 0) {
    const answer = await api.post(`/v1/schedules/${action}`, tag === null ? { prefix } : { tag });
    await print(`matched ${shown(member(answer, 'matched'))}, ${done} ${shown(member(answer, 'changed'))}\n`);
    return;
  }
  await forEach(ids, async (id) => {
    await act(api, id);
    await print(`${done} ${id}\n`);
  });
}

function triggerCommand(): Command {
  const command = new Command('trigger')
    .description('run schedules now, beside their regular runs, and print the task ids')
    .argument('<ID...>', 'their ids');
  return addOptions(command, API_OPTIONS).action((ids: readonly string[]) =>
    forEach(ids, async (id) => {
      const answer = await apiClient(command).post(schedulePath(id, 'trigger'));
      await print(`${shown(member(answer, 'task_id'))}\n`);
    }),
  );
}

function backfillCommand(): Command {
  const command = new Command('backfill')
    .description('send the runs that a schedule would have had')
    .argument('<ID>', 'its id');
  return addOptions(command, BACKFILL_OPTIONS).action(async (id: string) => {
    const { from, to } = optionValues(command, BACKFILL_OPTIONS);
    if (from === null || to === null) command.error('error: give --from and --to');
    const answer = await apiClient(command).post(schedulePath(id, 'backfill'), { from, to });
    await print(`queued ${shown(member(answer, 'runs'))} runs\n`);
  });
}

/** Goes on after one that the API refuses, and fails in the end. */
async function forEach(ids: readonly string[], act: (id: string) => Promise<void>): Promise<void> {
  for (const id of ids) {
    try {
      await act(id);
    } catch (error) {
      if (ids.length === 1 || !(isRefusal(error, 404) || isRefusal(error, 409))) throw error;
      complain(messageOf(error));
      process.exitCode = 1;
    }
  }
}

function nextRun(schedule: Json): string {
  const at = member(schedule, 'next_run_at');
  return at === null ? `, ${shown(member(schedule, 'state'))}` : `, next run ${shown(at)}`;
}
