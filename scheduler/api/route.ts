import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify';
import { z } from 'zod';
import type { Json } from '../../protocol/json.ts';
import { fieldErrors, READABLE } from '../../schedule/field-errors.ts';
import type { Answer, Stream } from './answer.ts';
import { type ApiToken, authorize } from './auth.ts';
import { chunksOf, hasBody, mediaType, readJson } from './body.ts';
import { type Idempotency, type IdempotentRequest, idempotentRequest } from './idempotency.ts';
import { invalid, Problem } from './problem.ts';

/** A schema under the name that it has in the API description. */
export interface Named {
  readonly name: string;
  readonly schema: z.ZodType;
}

/** One method on one path: what it is for, what it takes, what it answers. `/openapi.json` is made of these. */
export interface Route<Query = unknown> {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** With parameters in braces; the only one there is is `{id}`. */
  readonly path: string;
  readonly summary: string;
  /** `open` needs no token. Default: a `read` token for GET, a `write` token for the rest. */
  readonly access?: 'open';
  /** Answers without Redis. Default false. */
  readonly local?: boolean;
  readonly query?: z.ZodType<Query>;
  /** By media type; a request needs one of them. */
  readonly bodies?: Readonly<Record<string, Named>>;
  /** By status; null where there is no body. */
  readonly answers: Readonly<Record<number, Named | { readonly type: string } | null>>;
  /** Statuses of the problems that are this route's own. */
  readonly problems: readonly number[];
  /** Only a GET may answer with a stream: the answer to a POST may have to be kept. */
  answer(call: Call<Query>): Promise<Answer | Stream> | Answer | Stream;
}

/** One request to a route. */
export interface Call<Query> {
  /** The `{id}` of the path; empty where it has none. */
  readonly id: string;
  readonly query: Query;
  /** Media type of the body, one of the route's. */
  readonly mediaType: string | null;
  /** The same for every repetition of this request; null without `Idempotency-Key`. */
  readonly requestId: string | null;
  /** The JSON body; undefined where there is none. */
  readJson(): Promise<Json | undefined>;
  readChunks(): AsyncGenerator<Buffer, void>;
}

/** Gives a route's handler the type of its own query. */
export function route<Query>(route: Route<Query>): Route {
  return route as Route;
}

export interface RouteContext {
  readonly tokens: readonly ApiToken[];
  readonly idempotency: Idempotency;
  redisIsReachable(): boolean;
}

/** Serves the routes, and answers 405 for the other methods of their paths. */
export function serveRoutes(app: FastifyInstance, routes: readonly Route[], context: RouteContext): void {
  for (const route of routes) {
    app.route({
      method: route.method,
      url: fastifyPath(route.path),
      handler: async (request, reply) => send(reply, await answerTo(route, request, context)),
    });
  }
  for (const path of new Set(routes.map(({ path }) => path))) refuseOtherMethods(app, path, routes);
}

export function send(reply: FastifyReply, answer: Answer | Stream): FastifyReply {
  if ('chunks' in answer) {
    const chunks = Readable.from(answer.chunks, { objectMode: false });
    return reply.code(answer.status).type(answer.type).send(chunks);
  }
  reply.code(answer.status).headers(answer.headers);
  if (answer.type === null) return reply.send();
  return reply.type(answer.type).send(answer.text);
}

async function answerTo(route: Route, request: FastifyRequest, context: RouteContext): Promise<Answer | Stream> {
  if (route.access !== 'open')
    authorize(context.tokens, request.headers.authorization, route.method === 'GET' ? 'read' : 'write');
  const query = route.query === undefined ? undefined : parseQuery(route.query, request.query);
  if (route.bodies !== undefined) requireBody(route.bodies, request);
  if (route.local !== true && !context.redisIsReachable()) {
    throw new Problem(503, 'Redis cannot be reached; nothing was changed.', { headers: { 'retry-after': '1' } });
  }
  const repeatable = route.method === 'POST' ? idempotentRequest(request) : null;
  const call = callOf(request, query, repeatable);
  if (repeatable === null) return route.answer(call);
  return context.idempotency.once(
    repeatable,
    async () => {
      for await (const _ of call.readChunks());
    },
    async () => {
      const answer = await route.answer(call);
      if ('chunks' in answer) throw new TypeError(`${route.method} ${route.path} must not answer with a stream`);
      // A body that the route has no use for is part of the request all the same.
      if (!request.raw.readableEnded) for await (const _ of call.readChunks());
      return answer;
    },
  );
}

function callOf(request: FastifyRequest, query: unknown, repeatable: IdempotentRequest | null): Call<unknown> {
  const { id } = request.params as { readonly id?: string };
  const digest = repeatable?.digest ?? null;
  return {
    id: id ?? '',
    query,
    mediaType: mediaType(request),
    requestId: repeatable?.id ?? null,
    readJson: () => readJson(request, digest),
    readChunks: () => chunksOf(request, digest),
  };
}

function parseQuery(schema: z.ZodType, given: unknown): unknown {
  const result = schema.safeParse(given, READABLE);
  if (result.success) return result.data;
  throw invalid('The query', fieldErrors(result.error.issues));
}

function requireBody(bodies: Readonly<Record<string, Named>>, request: FastifyRequest): void {
  const types = Object.keys(bodies).join(' or ');
  const encoding = request.headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity') throw new Problem(415, `A body encoded as ${encoding} cannot be read; send it plain.`);
  const given = mediaType(request);
  if (given !== null && given in bodies) return;
  if (given !== null) throw new Problem(415, `This takes ${types}, not ${given}.`);
  if (hasBody(request)) throw new Problem(415, `This takes ${types}: name it in Content-Type.`);
  throw invalid('The request', [{ path: '', message: `needs a body of ${types}` }]);
}

function fastifyPath(path: string): string {
  return path.replaceAll('{id}', ':id');
}

/** Also of TRACE, which fastify would answer with 404. */
function refuseOtherMethods(app: FastifyInstance, path: string, routes: readonly Route[]): void {
  // `/v1/schedules/pause` is also `/v1/schedules/{id}` for a schedule of that name.
  const served = routes.filter((route) => patternOf(route.path).test(path)).map(({ method }) => method);
  const methods = served.includes('GET') ? [...served, 'HEAD'] : served;
  const allow = [...new Set(methods)].join(', ');
  const others = app.supportedMethods.filter((method) => !methods.includes(method)) as HTTPMethods[];
  app.route({
    method: others,
    url: fastifyPath(path),
    handler: async (request) => {
      throw new Problem(405, `${request.method} is not possible here; ${allow} are.`, { headers: { allow } });
    },
  });
}

function patternOf(path: string): RegExp {
  return new RegExp(`^${path.replaceAll(/[.]/g, '\\.').replaceAll('{id}', '[^/]+')}$`);
}

/** A whole number in a query. */
export function integerParameter(
  description: string,
  range: { readonly min: number; readonly max: number; readonly default: number },
) {
  const { min, max } = range;
  return z
    .string()
    .optional()
    .transform((text, context) => {
      const value = text === undefined ? range.default : Number(text);
      const isWhole = text === undefined || /^\d{1,15}$/.test(text);
      if (isWhole && value >= min && value <= max) return value;
      context.addIssue(`must be a whole number from ${min} to ${max}`);
      return z.NEVER;
    })
    .meta({ description, type: 'integer', minimum: min, maximum: max, default: range.default });
}
