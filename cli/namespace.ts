import { Command } from 'commander';
import type { Redis } from 'ioredis';
import { connect } from '../lua/connection.ts';
import { deleteNamespace } from '../lua/delete-namespace.ts';
import { type NamespaceKeys, namespaceKeys } from '../lua/keys.ts';
import { setSettings } from '../lua/set-settings.ts';
import { finishDeletion, type Namespace, readNamespace, SETTINGS } from '../registry/namespace.ts';
import { namespaceGone } from '../registry/registry.ts';
import { COMMON_OPTIONS } from '../runtime/common-options.ts';
import { addOptions, integer, number, type OptionSpec, optionValues } from '../runtime/options.ts';
import { delayedQueues, NAMESPACE_OPTIONS } from '../scheduler/config.ts';
import { readStats } from '../scheduler/status.ts';

const CONNECTION_OPTIONS = { redis: COMMON_OPTIONS.redis, namespace: COMMON_OPTIONS.namespace };

/** The settings, each left alone unless it is given. */
const SET_OPTIONS = {
  ...CONNECTION_OPTIONS,
  queueCap: integer<number | null>({ min: 0, max: 1_000_000_000, default: null, doc: NAMESPACE_OPTIONS.queueCap.doc }),
  misfireThreshold: number<number | null>({
    placeholder: 'S',
    min: 0.001,
    max: 86_400,
    default: null,
    doc: NAMESPACE_OPTIONS.misfireThreshold.doc,
  }),
  keepCompleted: number<number | null>({
    placeholder: 'S',
    min: 0,
    max: 31_536_000,
    default: null,
    doc: NAMESPACE_OPTIONS.keepCompleted.doc,
  }),
  recoveryRate: integer<number | null>({
    placeholder: 'N',
    min: 0,
    max: 1_000_000,
    default: null,
    doc: NAMESPACE_OPTIONS.recoveryRate.doc,
  }),
  recoveryOrder: { ...NAMESPACE_OPTIONS.recoveryOrder, default: null } as OptionSpec<'current' | 'missed' | null>,
  delayedQueues: delayedQueues<readonly string[] | null>({ default: null }),
};

export function namespaceCommand(): Command {
  const show = addOptions(new Command('show').description('print the settings of the namespace'), CONNECTION_OPTIONS);
  show.action(() => withNamespace(show, async (_, __, namespace) => print(namespace)));

  const set = addOptions(
    new Command('set').description('change settings of the namespace; running nodes take them over within a second'),
    SET_OPTIONS,
  );
  set.action(() =>
    withNamespace(set, async (redis, names, namespace) => {
      const values = optionValues(set, SET_OPTIONS);
      const { queueCap, misfireThreshold, keepCompleted, recoveryRate, recoveryOrder } = values;
      const toMs = (seconds: number | null) => (seconds === null ? null : Math.round(seconds * 1_000));
      const given = {
        queueCap,
        misfireThresholdMs: toMs(misfireThreshold),
        keepCompletedMs: toMs(keepCompleted),
        recoveryRate,
        missedFirst: recoveryOrder === null ? null : Number(recoveryOrder === 'missed'),
        delayedQueues: values.delayedQueues,
      };
      const changes = Object.entries(given).flatMap(([key, value]) =>
        value === null ? [] : [[SETTINGS[key as keyof typeof SETTINGS], String(value)] as const],
      );
      if (changes.length === 0) set.error(`error: give at least one of ${settingFlags()}`);
      await setSettings(redis, names, namespace.epoch, changes);
      print((await readNamespace(redis, names, namespace.name)) ?? namespace);
    }),
  );

  const remove = addOptions(
    new Command('delete').description(
      'delete the namespace with all its schedules and parked messages; messages already in queues stay',
    ),
    CONNECTION_OPTIONS,
  );
  remove.action(() =>
    withNamespace(remove, async (redis, names, namespace) => {
      const { schedules, parked } = await readStats(redis, names, namespace, Date.now());
      await deleteNamespace(redis, names, namespace.name, namespace.epoch);
      process.stdout.write(`deleted namespace ${namespace.name}: ${schedules} schedules, ${parked} parked messages\n`);
    }),
  );
  return new Command('namespace')
    .description('show, change or delete a namespace')
    .addCommand(show)
    .addCommand(set)
    .addCommand(remove);
}

function settingFlags(): string {
  const names = Object.keys(SET_OPTIONS).filter((name) => !(name in CONNECTION_OPTIONS));
  return names.map((name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`).join(', ');
}

async function withNamespace(
  command: Command,
  run: (redis: Redis, names: NamespaceKeys, namespace: Namespace) => Promise<void>,
): Promise<void> {
  const { redis: url, namespace: name } = optionValues(command, CONNECTION_OPTIONS);
  const redis = connect(url, { option: '--redis', name: 'ringbeat-namespace' });
  try {
    const names = namespaceKeys(name);
    const namespace = await readNamespace(redis, names, name);
    if (namespace !== null) return await run(redis, names, namespace);
    // Deleting again ends a deletion that was cut off.
    if (command.name() !== 'delete' || (await finishDeletion(redis, names, name)) === null) throw namespaceGone(name);
    process.stdout.write(`namespace ${name} was deleted before; nothing of it is left now\n`);
  } finally {
    redis.disconnect();
  }
}

function print({
  name,
  epoch,
  shards,
  queueCap,
  misfireThresholdMs,
  keepCompletedMs,
  recoveryRate,
  missedFirst,
  delayedQueues,
}: Namespace): void {
  const lines = {
    namespace: name,
    epoch,
    shards,
    'queue-cap': queueCap,
    'misfire-threshold': misfireThresholdMs / 1_000,
    'keep-completed': keepCompletedMs / 1_000,
    'recovery-rate': recoveryRate,
    'recovery-order': missedFirst === 1 ? 'missed' : 'current',
    'delayed-queues': delayedQueues.length === 0 ? 'none' : delayedQueues.join(','),
  };
  for (const [key, value] of Object.entries(lines)) process.stdout.write(`${key.padEnd(18)} ${value}\n`);
}
