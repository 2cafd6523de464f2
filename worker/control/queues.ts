import type { Redis } from 'ioredis';
import { KOMBU } from '../../lua/keys.ts';
import { bindingKey, PythonError } from '../../lua/pidbox.ts';
import { messageOf } from '../../protocol/errors.ts';
import { type Json, pythonRepr } from '../../protocol/json.ts';
import type { Log } from '../../runtime/log.ts';
import { whyNotAQueue } from '../options.ts';
import type { Arguments } from './arguments.ts';
import type { WorkerView } from './view.ts';

/** By what messages come into a queue. */
interface Binding {
  readonly exchange: string;
  readonly routingKey: string;
}

/** The queues that a worker takes messages from, and how they change. */
export class Consumers {
  readonly #redis: Redis;
  readonly #view: WorkerView;
  readonly #log: Log;
  /** Of queues that are bound by something else than their name. */
  readonly #bindings = new Map<string, Binding>();

  constructor({ redis, view, log }: { readonly redis: Redis; readonly view: WorkerView; readonly log: Log }) {
    this.#redis = redis;
    this.#view = view;
    this.#log = log;
  }

  list(): Json {
    return this.#view.queues().map((name) => queueInfo(name, this.#bindings.get(name) ?? boundByName(name)));
  }

  /** Takes messages from one more queue, and binds it. */
  async add(args: Arguments): Promise<Json> {
    const queue = queueOf(args);
    const exchange = textOr(args.exchange, queue);
    const binding = { exchange, routingKey: textOr(args.routing_key, exchange) };
    const type = textOr(args.exchange_type, 'direct');
    if (type !== 'direct') {
      throw new PythonError('NotImplementedError', `Only direct exchanges can be bound here, not ${type}`);
    }
    this.#bindings.set(queue, binding);
    if (!this.#view.queues().includes(queue)) this.#view.addQueue(queue);
    this.#log.info({ event: 'consumer_added', queue, ...binding });
    try {
      const member = [binding.routingKey, '', queue].join(KOMBU.separator);
      await this.#redis.sadd(bindingKey(binding.exchange), member);
    } catch (error) {
      // A Redis that is out of memory refuses it, and its messages are taken all the same.
      this.#log.warn({ event: 'queues_not_shown', reason: messageOf(error) });
    }
    return { ok: `add consumer ${queue}` };
  }

  /** Takes no more messages from a queue; those that it holds are still run. */
  cancel(args: Arguments): Json {
    const queue = queueOf(args);
    if (this.#view.queues().includes(queue)) this.#view.cancelQueue(queue);
    this.#log.info({ event: 'consumer_cancelled', queue });
    return { ok: `no longer consuming from ${queue}` };
  }
}

function boundByName(queue: string): Binding {
  return { exchange: queue, routingKey: queue };
}

function queueOf({ queue }: Arguments): string {
  const reason = typeof queue === 'string' ? whyNotAQueue(queue) : 'it is no text';
  if (typeof queue === 'string' && reason === null) return queue;
  throw new PythonError('ValueError', `${pythonRepr(queue ?? null)} is no queue name: ${reason}`);
}

function textOr(value: Json | undefined, fallback: string): string {
  return typeof value === 'string' && value !== '' ? value : fallback;
}

/** A queue as kombu describes it (kombu/entity.py, Queue.as_dict). */
function queueInfo(name: string, { exchange, routingKey }: Binding): Json {
  return {
    name,
    exchange: {
      name: exchange,
      type: 'direct',
      arguments: null,
      durable: true,
      passive: false,
      auto_delete: false,
      delivery_mode: null,
      no_declare: false,
    },
    routing_key: routingKey,
    queue_arguments: null,
    binding_arguments: null,
    consumer_arguments: null,
    durable: true,
    exclusive: false,
    auto_delete: false,
    no_ack: false,
    alias: null,
    bindings: [],
    no_declare: null,
    expires: null,
    message_ttl: null,
    max_length: null,
    max_length_bytes: null,
    max_priority: null,
  };
}
