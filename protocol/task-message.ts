import { argsRepr, type Json, kwargsRepr, toPythonJson } from './json.ts';

/** A task to be sent once, now or later. */
export interface TaskToSend {
  readonly id: string;
  /** The task that sends it, and the first one of its workflow; null: none. */
  readonly parent: { readonly id: string; readonly rootId: string } | null;
  readonly task: string;
  readonly args: readonly Json[];
  readonly kwargs: { readonly [key: string]: Json };
  readonly queue: string;
  /** Not to be run before; null: at once. ms since epoch. */
  readonly etaMs: number | null;
  /** Not to be started after, and how long from now that is. ms since epoch, ms. */
  readonly expires: { readonly atMs: number; readonly inMs: number } | null;
  /** 0 (most urgent) to 9. */
  readonly priority: number;
  /** Hard and soft limit of the run time, s. */
  readonly timeLimit: number | null;
  readonly softTimeLimit: number | null;
  readonly ignoreResult: boolean;
  /** Name that logs and monitors show instead of the task's; null: none. */
  readonly shadow: string | null;
  /** Headers of the sender's own. */
  readonly headers: { readonly [key: string]: Json };
  readonly deliveryTag: string;
  /** What Celery calls the sending node. */
  readonly origin: string;
  /** Celery's "thread oid" of the producer, UUID-shaped; the Redis result backend does not read it. */
  readonly replyTo: string;
}

/** The kombu envelope that Celery's `apply_async` writes for this task (celery/app/amqp.py as_task_v2). */
export function taskEnvelope(task: TaskToSend): string {
  const { id, parent, args, kwargs, expires } = task;
  const embed = { callbacks: null, errbacks: null, chain: null, chord: null };
  return toPythonJson({
    body: Buffer.from(toPythonJson([args, kwargs, embed])).toString('base64'),
    'content-encoding': 'utf-8',
    'content-type': 'application/json',
    headers: {
      lang: 'py',
      task: task.task,
      id,
      shadow: task.shadow,
      eta: task.etaMs === null ? null : celeryTime(task.etaMs),
      expires: expires === null ? null : celeryTime(expires.atMs),
      group: null,
      group_index: null,
      retries: 0,
      timelimit: [task.timeLimit, task.softTimeLimit],
      root_id: parent?.rootId ?? id,
      parent_id: parent?.id ?? null,
      argsrepr: argsRepr(args),
      kwargsrepr: kwargsRepr(kwargs),
      origin: task.origin,
      ignore_result: task.ignoreResult,
      ...task.headers,
    },
    properties: {
      correlation_id: id,
      reply_to: task.replyTo,
      delivery_mode: 2,
      ...(expires === null ? {} : { expiration: String(Math.max(0, expires.inMs)) }),
      delivery_info: { exchange: '', routing_key: task.queue },
      priority: task.priority,
      body_encoding: 'base64',
      delivery_tag: task.deliveryTag,
    },
  });
}

/** Six fraction digits and `+00:00`: the one form of a time that Celery 5.2 and newer read alike. */
export function celeryTime(atMs: number): string {
  return `${new Date(atMs).toISOString().slice(0, -1)}000+00:00`;
}
