import { randomUUID } from 'node:crypto';
import type { Action } from '../lua/actions.ts';
import type { FlowSource } from '../lua/flow-source.ts';
import { listQueue, queueList } from '../lua/keys.ts';
import { redelivered } from '../lua/restore.ts';
import type { EntryAction, Settlement } from '../lua/settle.ts';
import { followFailure, givenUp } from '../lua/task-failure.ts';
import { resultTuple } from '../protocol/canvas-freeze.ts';
import type { Json } from '../protocol/json.ts';
import { uuidOf } from '../protocol/message.ts';
import { NO_WORKFLOW, type TaskMessage } from '../protocol/message-reader.ts';
import {
  exceptionOf,
  extendedFields,
  failureRecord,
  jsonValue,
  type RecordDetails,
  retryRecord,
  revokedRecord,
  successRecord,
} from '../protocol/result.ts';
import { retryEnvelope } from '../protocol/retry-message.ts';
import { Reject, TaskRevokedError, WorkerLostError } from '../protocol/task-errors.ts';
import type { WorkerConfig } from './config.ts';
import { type Delivery, endedRun } from './delivery.ts';
import { failureOf, type Outcome } from './outcome.ts';
import { type Follow, followReplacement, followRevoked, followSuccess, sendSignature } from './workflow.ts';

type RetryOutcome = Extract<Outcome, { readonly state: 'retry' }>;
type Park = Extract<Action, { readonly kind: 'park' }>;

/** The same for all tasks of a worker. */
export interface EndingOptions {
  /** Crashes after which a message is given up. */
  readonly maxCrashes: number;
  /** Who stores more with results (result_extended): the worker's name; null: nothing more is stored. */
  readonly extendedAs: string | null;
  /** Who sends what follows a task. */
  readonly source: FlowSource;
}

export function endingOptions(config: WorkerConfig): EndingOptions {
  return {
    maxCrashes: config.maxCrashes,
    extendedAs: config.resultExtended ? config.hostname : null,
    source: flowSource(config),
  };
}

export function flowSource({ hostname, namespace, defaultQueue }: WorkerConfig): FlowSource {
  return { origin: hostname, replyTo: uuidOf(`ringbeat:${namespace}`), defaultQueue, newId: randomUUID };
}

export interface Ending {
  /** What it came to: a success whose value cannot be stored, or whose callbacks are none, is a failure. */
  readonly outcome: Outcome;
  /** Null when there is nothing left to say to Redis. */
  readonly settlement: Settlement | null;
}

interface Moment {
  readonly nowMs: number;
  /** Whether the message was acknowledged before the task was entered. */
  readonly isAcked: boolean;
}

/** How a delivery is settled after this outcome. */
export function endingOf(delivery: Delivery, outcome: Outcome, moment: Moment, options: EndingOptions): Ending {
  try {
    return { outcome, settlement: settlementOf(delivery, outcome, moment, options) };
  } catch (error) {
    if (outcome.state !== 'success' && outcome.state !== 'ignored') throw error;
    const sent = outcome.state === 'success' && outcome.children !== undefined ? { children: outcome.children } : {};
    const failure = { ...failureOf(error), ...sent };
    return { outcome: failure, settlement: settlementOf(delivery, failure, moment, options) };
  }
}

function settlementOf(delivery: Delivery, outcome: Outcome, moment: Moment, options: EndingOptions): Settlement | null {
  const { message, tag } = delivery;
  const { isAcked, nowMs } = moment;
  const hasResult = hasRecord(delivery, outcome);
  const follow = isAlone(message, outcome) ? NO_FOLLOW : followOf(delivery, outcome, nowMs, options.source);
  const children = childrenOf(message, outcome, follow);
  const record = hasResult ? recordOf(message, outcome, nowMs, detailsOf(message, children, options)) : null;
  const again = outcome.state === 'retry' ? retryOf(delivery, outcome, options.source) : null;
  const actions = again === null ? actionsOf(delivery, outcome, moment, options, follow) : [again];
  if (record === null && isAcked && actions.length === 0) return null;
  return {
    tag,
    mode: isAcked ? 'acked' : 'held',
    result: record === null ? null : { taskId: message.id, record },
    letter: null,
    run: again === null ? runOf(delivery, outcome) : endedRun(message, 'retry', again),
    actions,
  };
}

const NO_FOLLOW: Follow = { actions: [], children: [] };

/** Whether nothing follows it: true of nearly all. */
function isAlone({ workflow }: TaskMessage, outcome: Outcome): boolean {
  if (workflow !== NO_WORKFLOW) return false;
  if (outcome.state === 'ignored') return outcome.replacement === undefined;
  return outcome.state !== 'success' || outcome.sends === undefined;
}

/** What follows it in its workflow. Throws BadSignature and EncodeError for a success. */
function followOf(delivery: Delivery, outcome: Outcome, nowMs: number, source: FlowSource): Follow {
  const { message } = delivery;
  switch (outcome.state) {
    case 'success': {
      const sent = (outcome.sends ?? []).map((sending) => sendSignature(message, sending, nowMs, source));
      const next = followSuccess(message, jsonValue(outcome.value, message.isTyped), nowMs, source);
      const all = [...sent, next];
      return {
        actions: all.flatMap(({ actions }) => actions),
        children: all.flatMap(({ children }) => children),
      };
    }
    case 'ignored':
      return outcome.replacement === undefined
        ? NO_FOLLOW
        : followReplacement(message, outcome.replacement, nowMs, source);
    case 'failure':
      return failed(followFailure(message, outcome, { nowMs, isStored: hasRecord(delivery, outcome) }, source));
    case 'rejected': {
      if (outcome.requeue) return NO_FOLLOW;
      const moment = { nowMs, isStored: hasRecord(delivery, outcome) };
      return failed(followFailure(message, rejection(outcome.reason), moment, source));
    }
    case 'revoked':
      return followRevoked(message, exceptionOf(new TaskRevokedError(outcome.reason)));
    default:
      return NO_FOLLOW;
  }
}

function failed(actions: readonly Action[]): Follow {
  return { actions, children: [] };
}

/** A task that refused its message never runs again, and has failed therefore: as of Celery 5.7 (celery/worker/request.py). */
function rejection(reason: string): Extract<Outcome, { readonly state: 'failure' }> {
  return { state: 'failure', exception: exceptionOf(new Reject(reason)), traceback: null };
}

/** Tuple forms of all that a task sent, and that was sent as it ended; a retry sends the task itself. */
function childrenOf({ id }: TaskMessage, outcome: Outcome, follow: Follow): readonly Json[] {
  switch (outcome.state) {
    case 'success':
      return outcome.children === undefined ? follow.children : [...outcome.children, ...follow.children];
    case 'failure':
      return outcome.children ?? NO_FOLLOW.children;
    case 'retry':
      return [...(outcome.children ?? []), resultTuple({ id, parent: null, members: null })];
    default:
      return NO_FOLLOW.children;
  }
}

function detailsOf(
  message: TaskMessage,
  children: readonly Json[],
  { extendedAs }: EndingOptions,
): RecordDetails | null {
  if (children.length === 0 && extendedAs === null) return null;
  return { children, extended: extendedAs === null ? null : extendedFields(message, extendedAs) };
}

/** The message in which a task runs again: parked until then. */
function retryOf(
  { message, envelope, list, tag }: Delivery,
  outcome: RetryOutcome,
  { newId: newTag }: FlowSource,
): Park {
  const { etaMs, changes } = outcome;
  const { queue = listQueue(list), priority = message.deliveryInfo.priority } = changes;
  // The tag of a run in flight tells its attempt (lua/restore.ts), which stays the same.
  const next = message.schedule?.journal == null ? newTag() : newTag().slice(0, 8) + tag.slice(8);
  const retry = { retries: message.retries + 1, etaMs, parentId: message.id, tag: next, changes };
  return {
    kind: 'park',
    list: queueList(queue, priority),
    envelope: retryEnvelope(envelope, retry),
    taskId: message.id,
    tag: next,
    etaMs,
  };
}

/** What else happens: what follows, or a message that is put back. */
function actionsOf(
  delivery: Delivery,
  outcome: Outcome,
  { isAcked, nowMs }: Moment,
  { maxCrashes, source }: EndingOptions,
  follow: Follow,
): readonly EntryAction[] {
  const { envelope, list, message } = delivery;
  switch (outcome.state) {
    case 'rejected':
      // What was acknowledged before it ran is no longer there to be put back.
      return outcome.requeue && !isAcked ? [{ kind: 'push', list, envelope: redelivered(envelope) }] : follow.actions;
    case 'lost': {
      const crashed = { kind: 'crashed', list, envelope: redelivered(envelope), max: maxCrashes } as const;
      const lost = exceptionOf(new WorkerLostError(outcome.reason));
      return [crashed, ...givenUp(message, lost, { nowMs, isStored: wantsResult(delivery) }, source)];
    }
    default:
      return follow.actions;
  }
}

function runOf(delivery: Delivery, outcome: Outcome): Settlement['run'] {
  if (outcome.state === 'retry') return null;
  if (outcome.state === 'rejected' && outcome.requeue) return null;
  return outcome.state === 'success'
    ? endedRun(delivery.message, 'success', outcome.wish)
    : endedRun(delivery.message, 'failure', null);
}

function hasRecord(delivery: Delivery, outcome: Outcome): boolean {
  if (outcome.state === 'ignored' || outcome.state === 'lost') return false;
  if (outcome.state === 'rejected' && outcome.requeue) return false;
  return wantsResult(delivery);
}

function wantsResult({ message, task }: Delivery): boolean {
  return !message.ignoreResult && task.options.ignoreResult !== true;
}

function recordOf(message: TaskMessage, outcome: Outcome, nowMs: number, details: RecordDetails | null): string | null {
  switch (outcome.state) {
    case 'success':
      return successRecord(message, outcome.value, nowMs, details);
    case 'failure':
      return failureRecord(message, outcome.exception, outcome.traceback, nowMs, details);
    case 'rejected': {
      const { exception, traceback } = rejection(outcome.reason);
      return failureRecord(message, exception, traceback, nowMs, details);
    }
    case 'retry':
      return retryRecord(message, outcome.exception, outcome.traceback, details);
    case 'revoked':
      return revokedRecord(message, outcome.reason, nowMs, details);
    default:
      return null;
  }
}
