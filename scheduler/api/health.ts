import { z } from 'zod';
import { ok } from './answer.ts';
import { Problem } from './problem.ts';
import { type Route, route } from './route.ts';
import type { System } from './system.ts';

const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

const fine = { name: 'Fine', schema: z.strictObject({ status: z.literal('ok') }) };

/** What container platforms and Prometheus ask. */
export function healthRoutes(system: System): Route[] {
  return [
    route({
      method: 'GET',
      path: '/healthz',
      summary: 'Whether the process lives: its dispatch loop is turning',
      access: 'open',
      local: true,
      answers: { 200: fine },
      problems: [503],
      answer() {
        if (!system.isLive()) throw new Problem(503, 'The dispatch loop has stopped turning.');
        return ok({ status: 'ok' });
      },
    }),
    route({
      method: 'GET',
      path: '/readyz',
      summary: 'Whether the node serves: Redis answers, its shards are known, it is not shutting down',
      access: 'open',
      local: true,
      answers: { 200: fine },
      problems: [503],
      answer() {
        const readiness = system.isReady();
        if (!readiness.ready) throw new Problem(503, readiness.reason);
        return ok({ status: 'ok' });
      },
    }),
    route({
      method: 'GET',
      path: '/metrics',
      summary: "Metrics of this process in Prometheus's text format",
      local: true,
      answers: { 200: { type: METRICS_TYPE } },
      problems: [],
      async answer() {
        return { status: 200, headers: {}, type: METRICS_TYPE, text: await system.metrics() };
      },
    }),
  ];
}
