import type { Json } from '../../protocol/json.ts';

/** What a route says to a request. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Media type of `text`; null when there is no body. */
  readonly type: string | null;
  readonly text: string;
}

/** An answer of any length, made as it is read. Breaking off tells the client that it is not whole. */
export interface Stream {
  readonly status: number;
  readonly type: string;
  readonly chunks: AsyncIterable<string>;
}

export const JSON_TYPE = 'application/json; charset=utf-8';

export function jsonAnswer(status: number, text: string, headers: Readonly<Record<string, string>> = {}): Answer {
  return { status, headers, type: JSON_TYPE, text };
}

/** An answer of plain JSON values; for what may hold numbers as their user wrote them, see `resourceJson`. */
export function ok(body: Exclude<Json, string>): Answer {
  return jsonAnswer(200, JSON.stringify(body));
}

export function noContent(): Answer {
  return { status: 204, headers: {}, type: null, text: '' };
}
