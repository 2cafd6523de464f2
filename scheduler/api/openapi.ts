import { STATUS_CODES } from 'node:http';
import { z } from 'zod';
import type { Json } from '../../protocol/json.ts';
import { VERSION } from '../../runtime/version.ts';
import { PROBLEM_TYPE, problemSchema } from './problem.ts';
import type { Named, Route } from './route.ts';

type JsonObject = { readonly [key: string]: Json };

/** The OpenAPI 3.1 description of these routes. */
export function describeApi(routes: readonly Route[]): JsonObject {
  const paths: Record<string, Record<string, Json>> = {};
  for (const route of routes) {
    paths[route.path] ??= {};
    paths[route.path]![route.method.toLowerCase()] = describeRoute(route);
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Ringbeat',
      version: VERSION,
      description: 'Schedules for Celery tasks, dispatched from Redis.',
      license: { name: 'MIT' },
    },
    security: [{ token: [] }, {}],
    paths,
    components: {
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer', description: 'Needed where the node was started with --api-token.' },
      },
      schemas: describeSchemas(routes),
    },
  };
}

function describeRoute(route: Route): Json {
  return {
    summary: route.summary,
    operationId: operationId(route),
    ...(route.access === 'open' ? { security: [] } : {}),
    parameters: [...pathParameters(route), ...queryParameters(route), ...headerParameters(route)],
    ...(route.bodies === undefined ? {} : { requestBody: { required: true, content: contentOf(route.bodies) } }),
    responses: {
      ...Object.fromEntries(
        Object.entries(route.answers).map(([status, answer]) => [status, describeAnswer(Number(status), answer)]),
      ),
      ...Object.fromEntries(
        problemsOf(route).map((status) => [status, problemAnswer(STATUS_CODES[status] ?? 'Problem')]),
      ),
      default: problemAnswer('Any other problem: no or a wrong token, Redis away, a fault'),
    },
  };
}

/** Any POST may be refused for the sake of its `Idempotency-Key`. */
function problemsOf({ method, problems }: Route): readonly number[] {
  return method === 'POST' ? [...new Set([...problems, 400, 409, 422])] : problems;
}

/** `GET /v1/schedules/{id}/next` -> `getSchedulesIdNext`. */
function operationId({ method, path }: Route): string {
  const words = path
    .replace(/^\/v1/, '')
    .split(/[^a-z]+/)
    .filter((word) => word !== '');
  return method.toLowerCase() + words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join('');
}

function pathParameters({ path }: Route): Json[] {
  if (!path.includes('{id}')) return [];
  const description = 'Its id, percent-encoded as one segment (/ as %2F).';
  return [{ name: 'id', in: 'path', required: true, description, schema: { type: 'string' } }];
}

function queryParameters({ query }: Route): Json[] {
  if (query === undefined) return [];
  const { properties = {} } = jsonSchema(query);
  return Object.entries(properties).map(([name, schema]) => ({ name, in: 'query', schema: schema as Json }));
}

function headerParameters({ method }: Route): Json[] {
  if (method !== 'POST') return [];
  const description =
    'The same request with the same key within 10 minutes is answered as the first was, without being done again.';
  return [
    { name: 'Idempotency-Key', in: 'header', description, schema: { type: 'string', minLength: 1, maxLength: 200 } },
  ];
}

function describeAnswer(status: number, answer: Route['answers'][number]): Json {
  const description = STATUS_CODES[status] ?? 'Answer';
  if (answer == null) return { description };
  if ('type' in answer) return { description, content: { [answer.type]: { schema: { type: 'string' } } } };
  return { description, content: contentOf({ 'application/json': answer }) };
}

function problemAnswer(description: string): Json {
  return { description, content: contentOf({ [PROBLEM_TYPE]: PROBLEM }) };
}

function contentOf(schemas: Readonly<Record<string, Named>>): Json {
  return Object.fromEntries(
    Object.entries(schemas).map(([type, { name }]) => [type, { schema: { $ref: reference(name) } }]),
  );
}

const PROBLEM: Named = { name: 'Problem', schema: problemSchema };

function reference(name: string): string {
  return `#/components/schemas/${name}`;
}

/** What is sent to us may leave out what has a default; what we send never does. */
function describeSchemas(routes: readonly Route[]): JsonObject {
  const bodies = routes.flatMap(({ bodies = {} }) => Object.values(bodies));
  const answers = routes.flatMap(({ answers }) =>
    Object.values(answers).filter((answer) => answer !== null && 'schema' in answer),
  );
  return { ...componentsOf(bodies, 'input'), ...componentsOf([...answers, PROBLEM], 'output') };
}

function componentsOf(named: readonly Named[], io: 'input' | 'output'): JsonObject {
  const registry = z.registry<{ id: string }>();
  for (const { name, schema } of named) registry.add(schema, { id: name });
  const { schemas } = z.toJSONSchema(registry, { io, unrepresentable: 'any', uri: reference });
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, withoutIdentity(schema)]));
}

function jsonSchema(schema: z.ZodType): { readonly properties?: Readonly<Record<string, unknown>> } {
  return z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
}

function withoutIdentity({ $schema, $id, ...schema }: Readonly<Record<string, unknown>>): Json {
  return schema as JsonObject;
}
