import type { Socket } from 'node:net';
import { type FastifyInstance, type FastifyReply, fastify } from 'fastify';
import type { Redis } from 'ioredis';
import { z } from 'zod';
import type { DeadLetters } from '../../registry/dead-letters.ts';
import type { Registry } from '../../registry/registry.ts';
import type { Tasks } from '../../registry/tasks.ts';
import type { Log } from '../../runtime/log.ts';
import { createSpecSchema } from '../../schedule/spec.ts';
import { jsonAnswer } from './answer.ts';
import type { ApiToken } from './auth.ts';
import { deadLetterRoutes } from './dead-letters.ts';
import { healthRoutes } from './health.ts';
import { Idempotency } from './idempotency.ts';
import { describeApi } from './openapi.ts';
import { PROBLEM_TYPE, Problem, problemBody, problemOf } from './problem.ts';
import { createResourceSchema } from './resource.ts';
import { type Route, route, serveRoutes } from './route.ts';
import { scheduleActionRoutes } from './schedule-actions.ts';
import { scheduleExportRoutes } from './schedule-export.ts';
import { scheduleListRoutes } from './schedule-list.ts';
import { scheduleNextRoutes } from './schedule-next.ts';
import { scheduleRunsRoutes } from './schedule-runs.ts';
import { type ScheduleContext, scheduleRoutes } from './schedules.ts';
import { statusRoutes } from './status.ts';
import type { System } from './system.ts';
import { taskRoutes } from './tasks.ts';

export interface ApiOptions {
  readonly registry: Registry;
  readonly tasks: Tasks;
  readonly deadLetters: DeadLetters;
  readonly system: System;
  /** Where answers are kept for requests that are repeated. */
  readonly redis: Redis;
  readonly namespace: string;
  /** Empty: everybody may do everything. */
  readonly tokens: readonly ApiToken[];
  readonly log: Log;
}

/** Percent-encoding triples an id of 200 bytes. */
const MAX_ID_CHARACTERS = 600;

/** How long requests may take to end once the API is closed; an upload that trickles in might never end, ms. */
const CLOSE_GRACE_MS = 3_000;

/** The HTTP API, not yet listening. */
export function createApi(options: ApiOptions): FastifyInstance {
  const { registry, tasks, deadLetters, system, redis, namespace, tokens, log } = options;
  const app = fastify({
    logger: false,
    routerOptions: {
      maxParamLength: MAX_ID_CHARACTERS,
      onBadUrl: (_path, _request, response) => {
        response
          .writeHead(400, { 'content-type': PROBLEM_TYPE })
          .end(problemBody(new Problem(400, 'The path is not valid percent-encoded UTF-8.')));
      },
    },
    // Requests that arrive while the node shuts down are answered as long as their connection is open.
    return503OnClosing: false,
    frameworkErrors: (error, _request, reply) => refuse(reply, problemOf(error)),
    clientErrorHandler,
  });
  // Every route reads its own body, by rules of its own.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  app.addHook('preClose', async () => {
    setTimeout(() => app.server.closeAllConnections(), CLOSE_GRACE_MS).unref();
  });
  app.setNotFoundHandler((request, reply) => refuse(reply, new Problem(404, `There is nothing at ${request.url}.`)));
  app.setErrorHandler((error, request, reply) => {
    const problem = problemOf(error);
    if (problem.status >= 500 && !(error instanceof Problem)) {
      log.warn({
        event: 'request_failed',
        method: request.method,
        url: request.url,
        status: problem.status,
        err: error,
      });
    }
    return refuse(reply, problem);
  });
  const spec = createSpecSchema(namespace);
  const resource = { name: 'Schedule', schema: createResourceSchema(namespace) };
  const context: ScheduleContext = { registry, system, namespace, spec, resource };
  const routes: Route[] = [
    ...scheduleRoutes(context),
    ...scheduleListRoutes(context),
    ...scheduleActionRoutes(context),
    ...scheduleNextRoutes(context),
    ...scheduleRunsRoutes(context, redis),
    ...scheduleExportRoutes(context),
    ...taskRoutes(tasks, namespace),
    ...deadLetterRoutes(deadLetters),
    ...statusRoutes(system),
    ...healthRoutes(system),
    descriptionRoute(() => describeApi(routes)),
  ];
  serveRoutes(app, routes, {
    tokens,
    idempotency: new Idempotency(redis, namespace),
    redisIsReachable: () => system.redisIsReachable(),
  });
  return app;
}

function descriptionRoute(describe: () => ReturnType<typeof describeApi>): Route {
  let text: string | null = null;
  return route({
    method: 'GET',
    path: '/openapi.json',
    summary: 'This description',
    local: true,
    answers: { 200: { name: 'Description', schema: z.record(z.string(), z.unknown()) } },
    problems: [],
    answer() {
      text ??= JSON.stringify(describe());
      return jsonAnswer(200, text);
    },
  });
}

function refuse(reply: FastifyReply, problem: Problem): FastifyReply {
  return reply.code(problem.status).headers(problem.headers).type(PROBLEM_TYPE).send(problemBody(problem));
}

/** What is not HTTP at all gets an answer too, where the sender still listens. */
function clientErrorHandler(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400;
  const body = problemBody(new Problem(status, `This is no valid HTTP request (${error.code ?? error.message}).`));
  socket.end(
    `HTTP/1.1 ${status} \r\ncontent-type: ${PROBLEM_TYPE}\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}
