import type { Applied } from '../protocol/canvas-apply.ts';
import { toPythonJson } from '../protocol/json.ts';
import { queueList, resultKey, shardKeys, shardOf } from './keys.ts';
import { parkedId } from './parked.ts';

/** What a script does beside its own work (lua/include/actions.lua, chord-part.lua). */
export type Action =
  /** A message goes into a list, to be taken last. */
  | { readonly kind: 'push'; readonly list: string; readonly envelope: string }
  /** A message waits in its shard until its eta; where no beat node lives it goes into its list, with its eta. */
  | {
      readonly kind: 'park';
      readonly list: string;
      readonly envelope: string;
      readonly taskId: string;
      readonly tag: string;
      /** ms since epoch, by Redis's clock. */
      readonly etaMs: number;
    }
  /** A message is kept as a dead letter. */
  | { readonly kind: 'dead'; readonly list: string; readonly envelope: string; readonly reason: string }
  /** The result of another task, unless that has succeeded. */
  | { readonly kind: 'record'; readonly taskId: string; readonly record: string }
  /** A group that is kept and published like a result: GroupResult.save(). */
  | { readonly kind: 'group'; readonly groupId: string; readonly record: string }
  /** How many parts a chord has, of which none has been counted. */
  | { readonly kind: 'size'; readonly groupId: string; readonly size: number }
  /** One more part is added to a chord whose size is known. */
  | { readonly kind: 'grow'; readonly groupId: string }
  | PartAction;

/** A part of a chord. */
export interface PartAction {
  readonly kind: 'chord';
  readonly groupId: string;
  /** Its place in the group, null when it has none. */
  readonly index: number | null;
  readonly taskId: string;
  readonly part: string;
  /** What follows the chord (worker/chords.ts), kept until its body is sent. */
  readonly follow: string;
}

export type ActionTexts = readonly [string, string, string, string];

/** What the keys of a group and its chord begin with, in Celery's Redis backend. */
export function groupKey(groupId: string): string {
  return `celery-taskset-meta-${groupId}`;
}

/** What a script does so that signatures are applied. */
export function actionsOf({ chordSizes, savedGroups, messages }: Applied): Action[] {
  return [
    ...chordSizes.map(({ groupId, size }): Action => ({ kind: 'size', groupId, size })),
    ...savedGroups.map(({ groupId, result }): Action => ({ kind: 'group', groupId, record: toPythonJson({ result }) })),
    ...messages.map(({ queue, priority, envelope, etaMs, taskId, deliveryTag }): Action => {
      const list = queueList(queue, priority);
      if (etaMs === null) return { kind: 'push', list, envelope };
      return { kind: 'park', list, envelope, etaMs, taskId, tag: deliveryTag };
    }),
  ];
}

/** The kind of an action, and its four texts, as scripts get them. */
export function actionArgs(action: Action, namespace: string, shards: number): readonly [string, ...ActionTexts] {
  switch (action.kind) {
    case 'push':
      return ['push', action.list, action.envelope, '', ''];
    case 'park': {
      const id = parkedId(action.taskId);
      const due = shards === 0 ? '' : shardKeys(namespace, shardOf(id, shards)).due;
      return ['park', `${Math.ceil(action.etaMs)}:${due}`, `${id}\x1f${action.tag}`, action.list, action.envelope];
    }
    case 'dead':
      return ['dead', action.list, action.reason, action.envelope, ''];
    case 'record':
      return ['record', resultKey(action.taskId), action.record, '', ''];
    case 'group':
      return ['set', groupKey(action.groupId), action.record, '', ''];
    case 'chord': {
      const { groupId, index, taskId, part, follow } = action;
      return ['chord', groupId, `${index ?? '+inf'}\x1f${taskId}`, part, follow];
    }
    case 'grow':
      return ['grow', groupKey(action.groupId), '', '', ''];
    case 'size':
      return ['size', groupKey(action.groupId), String(action.size), '', ''];
  }
}
