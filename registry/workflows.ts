import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { actionsOf } from '../lua/actions.ts';
import { type ApplyOutcome, applyCanvas } from '../lua/apply-canvas.ts';
import type { NamespaceKeys } from '../lua/keys.ts';
import { type Applied, applySignature } from '../protocol/canvas-apply.ts';
import type { Json } from '../protocol/json.ts';
import { uuidOf } from '../protocol/message.ts';
import type { Signature } from '../protocol/signature.ts';
import { QueueBindings } from './bindings.ts';
import type { Namespace } from './namespace.ts';

/** s that the sizes of chords are kept: Celery's default for all results. */
const RESULT_EXPIRES_SEC = 86_400;

/** Where tasks go that name no queue: Celery's default. */
const DEFAULT_QUEUE = 'celery';

/** Most actions that one script call takes: more would keep Redis from everything else for too long. */
const BATCH = 1_000;

export interface WorkflowsOptions {
  readonly redis: Redis;
  readonly names: NamespaceKeys;
  /** Throws NAMESPACE_GONE while there is none. */
  namespace(): Namespace;
  /** Told of the kombu envelopes that were sent, and of Redis's time then, ms since epoch; waited for. */
  onSent?(envelopes: readonly string[], nowMs: number): Promise<void>;
}

/** The task within which something is sent. */
export interface ParentTask {
  readonly id: string;
  /** The first task of its workflow. */
  readonly rootId: string;
}

export interface AppliedWorkflow {
  readonly applied: Applied;
  readonly outcome: ApplyOutcome;
}

/** Sends signatures: single tasks, chains, groups and chords. */
export class Workflows {
  readonly #options: WorkflowsOptions;
  readonly #bindings: QueueBindings;

  constructor(options: WorkflowsOptions) {
    this.#options = options;
    this.#bindings = new QueueBindings(options.redis);
  }

  /**
   * Sends a signature with these args before its own: all of its messages in one step, or none; beyond 1,000 messages in
   * several, the sizes of chords with the first. Throws BadSignature and NAMESPACE_GONE.
   */
  async apply(signature: Signature, args: readonly Json[], parent: ParentTask | null): Promise<AppliedWorkflow> {
    const { redis, names, onSent } = this.#options;
    const { name, epoch, shards, queueCap } = this.#options.namespace();
    const [seconds, micros] = await redis.time();
    const nowMs = Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
    const applied = applySignature(
      signature,
      { args },
      {
        origin: `ringbeat@${name}`,
        replyTo: uuidOf(`ringbeat:${name}`),
        defaultQueue: DEFAULT_QUEUE,
        newId: randomUUID,
        nowMs,
        parent,
      },
    );
    await this.#bindings.bind(
      applied.messages.map(({ queue }) => queue),
      epoch,
    );
    const actions = actionsOf(applied);
    const common = { namespace: name, epoch, queueCap, shards, resultExpiresSec: RESULT_EXPIRES_SEC };
    for (let from = 0; from < actions.length; from += BATCH) {
      const batch = { ...common, requestId: randomUUID(), actions: actions.slice(from, from + BATCH) };
      const outcome = await applyCanvas(redis, names, batch);
      if (outcome !== 'taken') return { applied, outcome };
    }
    await onSent?.(
      applied.messages.map(({ envelope }) => envelope),
      nowMs,
    );
    return { applied, outcome: 'taken' };
  }
}
