import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describeTarget, formatFigure } from './report.ts';
import type { Result } from './result.ts';
import { SCENARIOS } from './scenarios/index.ts';

/** The repository's folder, from wherever this was compiled to. */
const ROOT = new URL('../../', import.meta.url);
/** The documents with figures, and how each shows them. */
const DOCUMENTS = [
  { path: 'bench/README.md', render: renderTable },
  { path: 'README.md', render: renderSummary },
];
const RESULTS = new URL('bench/results/', ROOT);
const BEGIN = '<!-- figures: begin -->';
const END = '<!-- figures: end -->';

/** Whether the figures in the documents are those of the result files. */
export function checkTable(): boolean {
  const results = readResults();
  return DOCUMENTS.every(({ path, render }) => {
    const text = readFileSync(new URL(path, ROOT), 'utf8');
    return text === withTable(path, text, render(results));
  });
}

export function writeTable(): void {
  const results = readResults();
  for (const { path, render } of DOCUMENTS) {
    const file = new URL(path, ROOT);
    writeFileSync(file, withTable(path, readFileSync(file, 'utf8'), render(results)));
  }
}

/** The committed results, in the order of the scenarios; with AOF before without. */
function readResults(): Result[] {
  const names = SCENARIOS.map((scenario) => scenario.name);
  const files = existsSync(RESULTS) ? readdirSync(RESULTS) : [];
  return files
    .filter((file) => file.endsWith('.json'))
    .map((file): Result => JSON.parse(readFileSync(new URL(file, RESULTS), 'utf8')))
    .sort((a, b) => names.indexOf(a.scenario) - names.indexOf(b.scenario) || Number(b.aof) - Number(a.aof));
}

function withTable(path: string, text: string, table: string): string {
  const from = text.indexOf(BEGIN);
  const to = text.indexOf(END);
  if (from < 0 || to < from) throw new Error(`${path} lacks its marks ${BEGIN} and ${END}.`);
  return `${text.slice(0, from + BEGIN.length)}\n${table}\n${text.slice(to)}`;
}

/** The figures that have a target, in short: what must be none is one sentence. */
export function renderSummary(results: readonly Result[]): string {
  if (results.length === 0) return 'No results yet.';
  const targets = results.flatMap((result) => result.targets.map((target) => ({ result, target })));
  const rows = targets
    .filter(({ target }) => target.atMost !== 0)
    .map(({ result, target }) => [
      `${result.scenario}${result.aof ? '' : ', AOF off'}`,
      `\`${target.figure}\``,
      formatFigure(target.figure, target.value),
      describeTarget(target),
      target.met ? 'met' : '**missed**',
    ]);
  const isExact = targets.every(({ target }) => target.atMost !== 0 || target.met);
  const exactness = isExact ? 'Nothing was lost or doubled in any of them.' : '**Occurrences were lost or doubled.**';
  return [
    '',
    ...alignTable(['scenario', 'figure', 'value', 'target', ''], rows),
    '',
    `${exactness} ${placesOf(results)}`,
    '',
  ].join('\n');
}

/** Every figure that has a target and some that have none, then where and when they were taken. */
export function renderTable(results: readonly Result[]): string {
  if (results.length === 0) return 'No results yet.';
  const rows = results.flatMap((result) => {
    const place = [result.scenario, result.aof ? 'on' : 'off'];
    const limit = `${formatFigure('limit_per_s', result.limit.per_s)}, ${formatFigure('limit_share', result.limit.ratio)}`;
    const shown = SCENARIOS.find((scenario) => scenario.name === result.scenario)?.shown ?? [];
    return [
      ...result.targets.map((target) => {
        const judged = [describeTarget(target), target.met ? 'met' : '**missed**'];
        return [...place, `\`${target.figure}\``, formatFigure(target.figure, target.value), ...judged, limit];
      }),
      ...shown.map((name) => [
        ...place,
        `\`${name}\``,
        formatFigure(name, result.figures[name] ?? Number.NaN),
        '',
        '',
        limit,
      ]),
    ];
  });
  const columns = ['scenario', 'AOF', 'figure', 'value', 'target', '', 'limit, share of it'];
  return ['', ...alignTable(columns, rows), '', placesOf(results), ''].join('\n');
}

function placesOf(results: readonly Result[]): string {
  const places = results.map(
    ({ machine, date }) =>
      `${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, Redis ${machine.redis}; ${date.slice(0, 10)}`,
  );
  return `Taken on: ${[...new Set(places)].join(' / ')}.`;
}

/** A Markdown table with its columns aligned, as the formatter wants it. */
function alignTable(columns: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = columns.map((name, column) =>
    Math.max(3, name.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column]!)).join(' | ')} |`;
  return [line(columns), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)];
}
