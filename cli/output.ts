import { once } from 'node:events';
import { stringify } from 'lossless-json';
import { type Json, toJson } from '../protocol/json.ts';
import { flag } from '../runtime/options.ts';
import { isObject } from '../schedule/fields.ts';
import { member } from './api-client.ts';

export const JSON_OPTION = { json: flag({ doc: 'print JSON, one document a line' }) };

/** Writes to standard output, waiting while its reader is slow. A reader that has gone (`| head`) ends the process well. */
export async function print(text: string | Buffer): Promise<void> {
  if (!isListening) {
    isListening = true;
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(0);
      throw error;
    });
  }
  if (!process.stdout.write(text)) await once(process.stdout, 'drain');
}

let isListening = false;

/** Writes one line that tells what went wrong to standard error. */
export function complain(line: string): void {
  process.stderr.write(`ringbeat: ${line}\n`);
}

/** Rows under headings, in columns that grow with what is in them; rows may come in several parts. */
export class Table {
  readonly #headings: readonly string[];
  #widths: readonly number[];
  #hasBegun = false;

  constructor(headings: readonly string[]) {
    this.#headings = headings;
    this.#widths = headings.map((heading) => heading.length);
  }

  /** The lines of these rows, under the headings if they are the first. */
  lines(rows: readonly (readonly string[])[]): string {
    const texts = rows.map((row) => row.map((cell) => plain(cell)));
    this.#widths = this.#widths.map((width, column) =>
      Math.max(width, ...texts.map((row) => (row[column] ?? '').length)),
    );
    const all = this.#hasBegun ? texts : [this.#headings, ...texts];
    this.#hasBegun = true;
    return all
      .map(
        (row) =>
          `${row
            .map((cell, column) => cell.padEnd(this.#widths[column]!))
            .join('  ')
            .trimEnd()}\n`,
      )
      .join('');
  }
}

/** Names may hold whatever their users put in; on a terminal only what prints. */
function plain(text: string): string {
  return text.replace(/\p{Cc}/gu, (unit) => `\\x${unit.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** A value of the API's as it stands in a table or a sentence. */
export function shown(value: Json): string {
  if (value === null) return '-';
  return typeof value === 'string' ? value : toJson(value);
}

export function jsonLine(value: Json): string {
  return `${toJson(value)}\n`;
}

/** Over several lines, for people. */
export function prettyJson(value: Json): string {
  return `${stringify(value, undefined, 2)}\n`;
}

/** Prints lists of objects as they come: one table with a column for each member, or lines of JSON. */
export async function printList(
  pages: AsyncIterable<readonly Json[]>,
  options: { readonly json: boolean; readonly columns?: readonly string[]; cell?(item: Json, column: string): string },
): Promise<void> {
  const cell = options.cell ?? ((item: Json, column: string) => shown(member(item, column)));
  let columns = options.columns ?? null;
  let table: Table | null = null;
  for await (const items of pages) {
    if (options.json) await print(items.map(jsonLine).join(''));
    if (options.json || items.length === 0) continue;
    columns ??= Object.keys(isObject(items[0]) ? items[0] : {});
    table ??= new Table(columns.map((column) => column.toUpperCase().replaceAll('_', ' ')));
    const shownColumns = columns;
    await print(table.lines(items.map((item) => shownColumns.map((column) => cell(item, column)))));
  }
}

/** So many items of the pages. */
export async function* first(
  count: number,
  pages: AsyncIterable<readonly Json[]>,
): AsyncGenerator<readonly Json[], void> {
  let left = count;
  for await (const page of pages) {
    yield page.slice(0, left);
    left -= page.length;
    if (left <= 0) return;
  }
}
