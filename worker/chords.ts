import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { type Action, actionsOf, groupKey } from '../lua/actions.ts';
import { finishChord } from '../lua/finish-chord.ts';
import type { FlowSource } from '../lua/flow-source.ts';
import { namespaceKeys, resultKey } from '../lua/keys.ts';
import type { ChordFollow } from '../lua/task-failure.ts';
import { applySignature } from '../protocol/canvas-apply.ts';
import { messageOf } from '../protocol/errors.ts';
import { type Json, parseJson } from '../protocol/json.ts';
import { readSignature } from '../protocol/signature.ts';
import { monotonicMs } from '../runtime/clock.ts';
import type { Log } from '../runtime/log.ts';
import {
  type ChordFailure,
  chordError,
  chordFailure,
  GroupTree,
  type Member,
  readChordFollow,
  readMember,
  readMemberRecord,
  resultsOf,
} from './chord-results.ts';
import type { Events } from './events.ts';

/** How long a body waits for results that its header has not stored yet, ms: Celery's result_chord_join_timeout. */
const JOIN_MS = 3_000;
const LOOK_EVERY_MS = 50;

/** Chords that were left over by a worker that died are looked for so often, ms. */
const SWEEP_MS = 5_000;

/** So many, about, are looked at in one call. */
const SWEEP_PAGE = 100;

export interface ChordsOptions {
  readonly redis: Redis;
  readonly namespace: string;
  /** With which this worker claims the chords whose last parts it counts (lua/settle.lua: the key of its state). */
  readonly token: string;
  readonly resultExpiresSec: number;
  readonly source: FlowSource;
  readonly events: Events;
  readonly log: Log;
  /** Redis's time, ms since epoch. */
  nowMs(): number;
  /** Shards of the namespace; 0 while no beat node lives. */
  shards(): number;
}

/** Sends the bodies of chords whose parts are all there, each once, whoever counted the parts. */
export class Chords {
  readonly #options: ChordsOptions;
  readonly #finishing = new Set<Promise<void>>();

  constructor(options: ChordsOptions) {
    this.#options = options;
  }

  /** This worker has just counted the last part of a chord. */
  complete(groupId: string, follow: string): void {
    const finishing = this.#finish(groupId, follow).catch((error: unknown) => {
      // What is left over is found by whoever sweeps next.
      this.#options.log.error({ event: 'chord_not_finished', group: groupId, reason: messageOf(error) });
    });
    this.#finishing.add(finishing);
    void finishing.then(() => this.#finishing.delete(finishing));
  }

  /** Resolves when no body is about to be sent. */
  async quiet(): Promise<void> {
    await Promise.all(this.#finishing);
  }

  /** Finishes what a worker left over that died before it sent a body; answers when to do so again, ms. */
  async sweep(): Promise<number> {
    const { redis, namespace } = this.#options;
    let cursor = '0';
    do {
      const [next, found] = await redis.hscan(namespaceKeys(namespace).chords, cursor, 'COUNT', SWEEP_PAGE);
      for (let at = 0; at + 1 < found.length; at += 2) await this.#sweepOne(found[at]!, found[at + 1]!);
      cursor = next;
    } while (cursor !== '0');
    return SWEEP_MS;
  }

  /** One that cannot be finished keeps no other waiting. */
  async #sweepOne(groupId: string, follow: string): Promise<void> {
    try {
      // Otherwise somebody is at it.
      const isFree = (await this.#options.redis.exists(`${groupKey(groupId)}.c`)) === 0;
      if (isFree) await this.#finish(groupId, follow);
    } catch (error) {
      this.#options.log.error({ event: 'chord_not_finished', group: groupId, reason: messageOf(error) });
    }
  }

  async #finish(groupId: string, text: string): Promise<void> {
    const { redis, namespace, token, resultExpiresSec, events, log, shards } = this.#options;
    const follow = readChordFollow(text);
    const { outcome, actions } = await this.#ending(groupId, follow);
    const request = { groupId, token, outcome, resultExpiresSec, shards: shards(), actions };
    const { isFinished, completed } = await finishChord(redis, namespace, request);
    if (isFinished) events.sent(actions);
    else log.warn({ event: 'chord_finished_elsewhere', group: groupId });
    for (const part of completed) this.complete(part.groupId, part.follow);
  }

  async #ending(
    groupId: string,
    follow: ChordFollow,
  ): Promise<{ readonly outcome: 'sent' | 'failed'; readonly actions: readonly Action[] }> {
    const { log, source, nowMs } = this.#options;
    const found = await this.#results(groupId);
    const body = 'failure' in found ? found : this.#body(follow, found.results);
    if ('actions' in body) return { outcome: 'sent', actions: body.actions };
    log.error({ event: 'chord_failed', group: groupId, reason: String(body.failure.exception.args[0]) });
    return { outcome: 'failed', actions: chordFailure(follow, body.failure, nowMs(), source) };
  }

  #body(
    follow: ChordFollow,
    results: Json,
  ): { readonly actions: readonly Action[] } | { readonly failure: ChordFailure } {
    const { source, nowMs } = this.#options;
    const sender = { ...source, nowMs: nowMs(), parent: { id: follow.taskId, rootId: follow.rootId } };
    try {
      return { actions: actionsOf(applySignature(readSignature(follow.chord), { args: [results] }, sender)) };
    } catch (error) {
      return { failure: chordError(`Callback error: ${messageOf(error)}`) };
    }
  }

  /** What the members of the header returned, in order; or why the body cannot run. */
  async #results(groupId: string): Promise<{ readonly results: Json } | { readonly failure: ChordFailure }> {
    const { redis } = this.#options;
    const [parts, saved] = await Promise.all([this.#parts(groupId), redis.get(groupKey(groupId))]);
    if (saved === null) return resultsOf(parts);
    // Members of groups within it: the body gets lists within its list.
    const tree = new GroupTree(parseJson(saved), parts);
    const untilMs = monotonicMs() + JOIN_MS;
    for (;;) {
      const missing = tree.missing();
      if (missing.length === 0) return tree.results();
      const records = await redis.mget(missing.map(resultKey));
      missing.forEach((id, at) => {
        const member = readMemberRecord(id, records[at] ?? null);
        if (member !== null) tree.add(member);
      });
      if (tree.missing().length > 0 && monotonicMs() >= untilMs)
        return { failure: chordError("Join error: TimeoutError('The operation timed out.')") };
      if (tree.missing().length > 0) await sleep(LOOK_EVERY_MS);
    }
  }

  async #parts(groupId: string): Promise<Member[]> {
    const { redis } = this.#options;
    const key = `${groupKey(groupId)}.j`;
    const isList = (await redis.type(key)) === 'list';
    const parts = isList ? await redis.lrange(key, 0, -1) : await redis.zrange(key, '0', '-1');
    return parts.map(readMember);
  }
}
