import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import { messageOf, RingbeatError } from '../protocol/errors.ts';
import { type Json, parseJson, toJson } from '../protocol/json.ts';
import { type OptionSpec, optionValues, text } from '../runtime/options.ts';
import { isObject } from '../schedule/fields.ts';

const apiToken: OptionSpec<string | null> = {
  placeholder: 'TOKEN',
  default: null,
  doc: 'bearer token for the API, where beat nodes ask for one',
  parse: writeToken,
};

/** Options of every command that talks to the HTTP API. */
export const API_OPTIONS = {
  api: text({ placeholder: 'URL', default: 'http://127.0.0.1:7380', doc: "base URL of a beat node's HTTP API" }),
  apiToken,
};

/**
 * Beat nodes and commands may share an environment: of a list of `TOKEN[:read|:write]` the first that may write is
 * taken, else the first.
 */
function writeToken(text: string): string | null {
  const tokens = text.split(',').filter((part) => part !== '');
  const chosen = tokens.find((token) => !token.endsWith(':read')) ?? tokens[0];
  return chosen === undefined ? null : chosen.replace(/:(read|write)$/, '');
}

/** Silence on a connection for this long counts as no answer; changing very many schedules at once takes a while, ms. */
const SILENCE_MS = 300_000;

const NDJSON = 'application/x-ndjson';

export interface ApiAnswer {
  readonly status: number;
  /** null where there is none. Numbers in args and kwargs are as they were written. */
  readonly body: Json;
}

/**
 * A client of the HTTP API. All its methods throw RingbeatError: API_UNREACHABLE when there was no answer, API_REFUSED
 * (whose `values.status` is the HTTP status) when it was a problem document.
 */
export class ApiClient {
  readonly #base: URL;
  readonly #token: string | null;
  readonly #agent: HttpAgent;

  /** `base` is the API's URL. Throws BAD_API_URL. */
  constructor(base: string, token: string | null) {
    const url = URL.canParse(base) ? new URL(base) : null;
    if (url === null || !/^https?:$/.test(url.protocol)) throw new RingbeatError('BAD_API_URL', { url: base });
    this.#base = url;
    this.#token = token;
    this.#agent = url.protocol === 'https:' ? new HttpsAgent({ keepAlive: true }) : new HttpAgent({ keepAlive: true });
  }

  async get(path: string, query: Query = {}): Promise<Json> {
    return (await this.send('GET', `${path}${queryText(query)}`)).body;
  }

  async post(path: string, body?: Json): Promise<Json> {
    return (await this.send('POST', path, body)).body;
  }

  async send(method: string, path: string, body?: Json): Promise<ApiAnswer> {
    const request = this.#request(method, path, body === undefined ? null : 'application/json');
    const answered = this.#answerTo(request);
    request.end(body === undefined ? undefined : toJson(body));
    const response = await this.#accept(await answered);
    return { status: response.statusCode ?? 0, body: await this.#read(response) };
  }

  /** Sends lines of JSON as they come. What `lines` throws is thrown on, and the API gets no end of the body to see. */
  async upload(path: string, lines: AsyncIterable<Buffer>): Promise<Json> {
    let failure: unknown = null;
    async function* watched(): AsyncGenerator<Buffer, void> {
      try {
        yield* lines;
      } catch (error) {
        failure = error;
        throw error;
      }
    }
    const request = this.#request('POST', path, NDJSON);
    const answered = this.#answerTo(request);
    // An answer that comes before everything was sent is what counts, and so is the request's own error.
    const sent = pipeline(watched, request).catch(() => {});
    const response = await answered.catch((error: unknown) => {
      throw failure ?? error;
    });
    try {
      return await this.#read(await this.#accept(response));
    } finally {
      request.destroy();
      await sent;
    }
  }

  /** The body as it comes; throws API_UNREACHABLE when it breaks off. */
  async *download(path: string): AsyncGenerator<Buffer, void> {
    const request = this.#request('GET', path, null);
    const answered = this.#answerTo(request);
    request.end();
    const response = await this.#accept(await answered);
    try {
      for await (const chunk of response) yield chunk;
    } catch (error) {
      throw this.#unreachable(error);
    }
  }

  /** Everything in a list, page by page; `noun` names its member. */
  async *pages(path: string, noun: string, query: Query = {}): AsyncGenerator<readonly Json[], void> {
    for (let cursor: Json = null; ; ) {
      const page: Json = await this.get(path, { ...query, cursor: typeof cursor === 'string' ? cursor : null });
      const items = member(page, noun);
      if (!isList(items)) throw this.#unreachable(new Error(`it answered ${path} without ${noun}`));
      yield items;
      cursor = member(page, 'cursor');
      if (cursor === null) return;
    }
  }

  #request(method: string, path: string, type: string | null): ClientRequest {
    const { protocol, hostname, port, pathname } = this.#base;
    const request = (protocol === 'https:' ? httpsRequest : httpRequest)({
      agent: this.#agent,
      method,
      hostname: hostname.replace(/^\[(.*)\]$/, '$1'),
      port,
      // As it is: `fetch` would resolve the id `..`, even encoded.
      path: `${pathname.replace(/\/$/, '')}${path}`,
      headers: {
        ...(type === null ? {} : { 'content-type': type }),
        ...(this.#token === null ? {} : { authorization: `Bearer ${this.#token}` }),
      },
    });
    return request.setTimeout(SILENCE_MS, () =>
      request.destroy(new Error(`it was silent for ${SILENCE_MS / 1_000} s`)),
    );
  }

  #answerTo(request: ClientRequest): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      request.on('response', resolve);
      request.on('error', (error) => reject(this.#unreachable(error)));
    });
  }

  async #accept(response: IncomingMessage): Promise<IncomingMessage> {
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 300) return response;
    const body = await this.#read(response);
    throw new RingbeatError('API_REFUSED', { status, detail: problemText(body) });
  }

  async #read(response: IncomingMessage): Promise<Json> {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of response) chunks.push(chunk);
      const body = Buffer.concat(chunks).toString('utf8');
      return body === '' ? null : parseJson(body);
    } catch (error) {
      throw this.#unreachable(error);
    }
  }

  #unreachable(error: unknown): RingbeatError {
    return new RingbeatError('API_UNREACHABLE', { url: this.#base.href, reason: messageOf(error) }, { cause: error });
  }
}

/** The client that a command's options describe. */
export function apiClient(command: Command): ApiClient {
  const { api, apiToken } = optionValues(command, API_OPTIONS);
  return new ApiClient(api, apiToken);
}

/** Null and undefined are left out. */
export type Query = Readonly<Record<string, string | number | null | undefined>>;

function queryText(query: Query): string {
  const given = Object.entries(query).flatMap(([key, value]) =>
    value == null ? [] : [[key, String(value)] as [string, string]],
  );
  return given.length === 0 ? '' : `?${new URLSearchParams(given)}`;
}

/** A path with an id in it. */
export function schedulePath(id: string, action = ''): string {
  return `/v1/schedules/${encodeURIComponent(id)}${action === '' ? '' : `/${action}`}`;
}

/** What a problem document says, with the fields that are to blame. */
function problemText(body: Json): string {
  const detail = member(body, 'detail');
  const errors = member(body, 'errors');
  const lines = (isList(errors) ? errors : []).map((error) => {
    const path = member(error, 'path');
    return `${path === '' ? 'it' : String(path)} ${member(error, 'message')}`;
  });
  return [typeof detail === 'string' ? detail : toJson(body), ...lines].join('\n  ');
}

export function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

/** A member of a JSON object; null where there is none. */
export function member(value: Json, name: string): Json {
  return isObject(value) && Object.hasOwn(value, name) ? (value[name] ?? null) : null;
}

/** Whether this is the API's problem document of that status. */
export function isRefusal(error: unknown, status: number): boolean {
  return error instanceof RingbeatError && error.code === 'API_REFUSED' && error.values.status === status;
}
