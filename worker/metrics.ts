import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Counter, Histogram, Registry } from 'prom-client';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import type { EventCounts } from './events.ts';

/** How a message ended, as `ringbeat_tasks_total{state}` counts it. */
export const STATES = [
  'success',
  'failure',
  'retry',
  'ignored',
  'rejected',
  'revoked',
  'lost',
  'unknown',
  'dead',
  'refused',
  'abandoned',
] as const;

export type State = (typeof STATES)[number];

const LATENESS_BUCKETS = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300];
const RUNTIME_BUCKETS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600];

/** What a worker counts. Counters are plain numbers until somebody asks: a task costs two observations. */
export class WorkerMetrics {
  readonly registry = new Registry();
  readonly counts = Object.fromEntries(STATES.map((state) => [state, 0])) as Record<State, number>;
  /** Events of tasks, as monitors get them. */
  readonly events: EventCounts = { sent: 0, unheard: 0, dropped: 0 };
  readonly startLateness = new Histogram({
    name: 'ringbeat_start_lateness_seconds',
    help: 'From the due time of an occurrence to the moment its task function is entered.',
    buckets: LATENESS_BUCKETS,
    registers: [this.registry],
  });
  readonly runtime = new Histogram({
    name: 'ringbeat_task_runtime_seconds',
    help: 'How long task functions ran.',
    buckets: RUNTIME_BUCKETS,
    registers: [this.registry],
  });

  constructor() {
    const { counts, events } = this;
    new Counter({
      name: 'ringbeat_tasks_total',
      help: 'Messages by how they ended; refused: restored to another worker before they could start; abandoned: outcomes of tasks that had been given up.',
      labelNames: ['state'],
      registers: [this.registry],
      collect() {
        this.reset();
        for (const state of STATES) this.inc({ state }, counts[state]);
      },
    });
    new Counter({
      name: 'ringbeat_events_total',
      help: 'Events of tasks for monitors: sent, unheard because nobody listened, or dropped because Redis was away or slower than the tasks.',
      labelNames: ['state'],
      registers: [this.registry],
      collect() {
        this.reset();
        this.inc({ state: 'sent' }, events.sent);
        this.inc({ state: 'unheard' }, events.unheard);
        this.inc({ state: 'dropped' }, events.dropped);
      },
    });
  }
}

/** Serves `/metrics` until it is closed. */
export async function serveMetrics(
  registry: Registry,
  host: string,
  port: number,
): Promise<{ server: Server; port: number }> {
  const server = createServer((request, response) => {
    if (request.url !== '/metrics' || (request.method !== 'GET' && request.method !== 'HEAD')) {
      response.writeHead(404, { 'content-type': 'text/plain' }).end('Not found: this port serves /metrics.\n');
      return;
    }
    registry.metrics().then(
      (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
      () => response.writeHead(500, { 'content-type': 'text/plain' }).end('Metrics could not be collected.\n'),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  }).catch((error: unknown) => {
    throw new RingbeatError(
      'PORT_TAKEN',
      { host, port, reason: messageOf(error), option: '--metrics-port' },
      { cause: error },
    );
  });
  const address: string | AddressInfo | null = server.address();
  return { server, port: typeof address === 'object' && address !== null ? address.port : port };
}
