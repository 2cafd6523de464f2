import type { Redis } from 'ioredis';
import type { LoopWish } from '../protocol/loop.ts';
import { type Action, actionArgs } from './actions.ts';
import { KOMBU, namespaceKeys, resultKey, workerKeys } from './keys.ts';
import { WORKER_DEAD_LETTERS } from './reserve.ts';
import { defineScript, integerReply, listReply } from './script.ts';

const script = defineScript('settle');

/** How one message ends. */
export interface Settlement {
  readonly tag: string;
  /**
   * - `acked`: it was acknowledged before it ran.
   * - `held`: it is acknowledged now; nothing happens if it was restored meanwhile.
   */
  readonly mode: 'acked' | 'held';
  /** The result to store and publish. */
  readonly result: { readonly taskId: string; readonly record: string } | null;
  /** Why it is kept as a dead letter, and which queue it came from; only of one that is held. */
  readonly letter: { readonly queue: string; readonly reason: string } | null;
  /** The run that ends with it, where a schedule waits for that. */
  readonly run: SettledRun | null;
  /** What else happens in the same step. */
  readonly actions: readonly EntryAction[];
}

/** How a run in flight (lua/keys.ts, `journal`) ends, or that it goes on as another message. */
export interface SettledRun {
  /** What the keys of its shard begin with. */
  readonly shard: string;
  readonly schedule: string;
  readonly outcome: 'success' | 'failure' | 'retry';
  /** How its loop is to go on; of a retry, the message in which it does. */
  readonly wish: LoopWish | { readonly tag: string; readonly etaMs: number; readonly list: string } | null;
}

export type EntryAction =
  | Action
  /**
   * Its process died of the message: it is put back, or given up when it was the `max`th time. Only then the actions behind this
   * one happen, and the run ends.
   */
  | { readonly kind: 'crashed'; readonly list: string; readonly envelope: string; readonly max: number };

export interface SettleRequest {
  readonly workerId: string;
  /** Larger than that of the last answered call; a call that is repeated keeps its counter. */
  readonly counter: number;
  /** Seconds for which results are kept; 0: for ever. */
  readonly resultExpiresSec: number;
  /** How many shards the namespace has; 0: no beat node lives, so that nothing can be parked. */
  readonly shards: number;
  /** 1 to 1,000. */
  readonly settlements: readonly Settlement[];
}

export interface SettleReply {
  readonly nowMs: number;
  /** How many came too late: their messages had been restored meanwhile, so nothing was stored. */
  readonly late: number;
  /** Indexes of the settlements whose parts completed their chords. */
  readonly chords: readonly number[];
}

/** Finishes a batch of messages and stores their results as Celery's Redis backend does. */
export async function settle(redis: Redis, namespace: string, request: SettleRequest): Promise<SettleReply> {
  const { settlements, shards } = request;
  const worker = workerKeys(namespace, request.workerId);
  const names = namespaceKeys(namespace);
  const keys = [
    worker.settled,
    worker.reserved,
    worker.waiting,
    KOMBU.unacked,
    KOMBU.unackedIndex,
    names.workerDeadLetters,
    names.crashes,
    names.meta,
    names.chords,
  ];
  // Nearly all have a record or nothing to store, and that is all: each text less tells on both sides.
  const bare: Result[] = [];
  const held: Result[] = [];
  const heldTags: string[] = [];
  const plainTags: string[] = [];
  const others: number[] = [];
  for (const [index, settlement] of settlements.entries()) {
    const { tag, mode, result } = settlement;
    if (!isSimple(settlement)) others.push(index);
    else if (result === null) plainTags.push(tag);
    else if (mode === 'acked') bare.push(result);
    else {
      held.push(result);
      heldTags.push(tag);
    }
  }
  const results = [...bare, ...held];
  keys.push(...results.map(({ taskId }) => resultKey(taskId)));
  const entries: string[] = [];
  for (const index of others) {
    const settlement = settlements[index]!;
    if (settlement.result !== null) keys.push(resultKey(settlement.result.taskId));
    entries.push(...entryTexts(settlement, namespace, shards));
  }
  const reply = await script.run(redis, keys, [
    request.counter,
    request.resultExpiresSec,
    WORKER_DEAD_LETTERS,
    shards,
    worker.state,
    bare.length,
    held.length,
    plainTags.length,
    ...heldTags,
    ...plainTags,
    ...results.map(({ record }) => record),
    ...entries,
  ]);
  const [nowMs, late, ...chords] = listReply(script, reply);
  return {
    nowMs: integerReply(script, nowMs),
    late: integerReply(script, late),
    chords: chords.map((position) => others[integerReply(script, position) - 1]!),
  };
}

type Result = NonNullable<Settlement['result']>;

/** Whether there is nothing to do but to store a result, to acknowledge, or both. */
function isSimple({ mode, result, letter, run, actions }: Settlement): boolean {
  return (mode === 'held' || result !== null) && letter === null && run === null && actions.length === 0;
}

/** An entry of the script. */
function entryTexts(settlement: Settlement, namespace: string, shards: number): string[] {
  const { tag, mode, result, letter, run, actions } = settlement;
  let kinds: string = mode;
  const parts: string[] = [];
  if (result !== null) {
    kinds += ',record';
    parts.push(result.record);
  }
  if (letter !== null) {
    kinds += ',letter';
    parts.push(`${letter.queue}\n${letter.reason}`);
  }
  if (run !== null) {
    kinds += ',run';
    parts.push([run.shard, run.outcome, wishText(run.wish), run.schedule].join('\x1f'));
  }
  for (const action of actions) parts.push(...entryActionArgs(action, namespace, shards));
  return [`${actions.length} ${kinds} ${tag}`, ...parts];
}

function wishText(wish: SettledRun['wish']): string | number {
  if (wish === null) return '';
  return typeof wish === 'object' ? [wish.tag, wish.etaMs, wish.list].join('\x1e') : wish;
}

function entryActionArgs(action: EntryAction, namespace: string, shards: number): readonly string[] {
  if (action.kind !== 'crashed') return actionArgs(action, namespace, shards);
  return ['crashed', String(action.max), action.list, action.envelope, ''];
}
