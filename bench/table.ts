import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describeTarget, formatFigure } from './report.ts';
import type { Result } from './result.ts';
import { SCENARIOS } from './scenarios/index.ts';

/** The repository's folder, from wherever this was compiled to. */
const ROOT = new URL('../../', import.meta.url);
const README = new URL('bench/README.md', ROOT);
const RESULTS = new URL('bench/results/', ROOT);
const BEGIN = '<!-- figures: begin -->';
const END = '<!-- figures: end -->';

/** Whether the README's figures are those of the result files. */
export function checkTable(): boolean {
  const readme = readFileSync(README, 'utf8');
  return readme === withTable(readme, readResults());
}

export function writeTable(): void {
  writeFileSync(README, withTable(readFileSync(README, 'utf8'), readResults()));
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

function withTable(readme: string, results: readonly Result[]): string {
  const from = readme.indexOf(BEGIN);
  const to = readme.indexOf(END);
  if (from < 0 || to < from) throw new Error(`bench/README.md lacks its marks ${BEGIN} and ${END}.`);
  return `${readme.slice(0, from + BEGIN.length)}\n${renderTable(results)}\n${readme.slice(to)}`;
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
  const places = new Set(
    results.map(
      ({ machine, date }) =>
        `${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, Redis ${machine.redis}; ${date.slice(0, 10)}`,
    ),
  );
  const columns = ['scenario', 'AOF', 'figure', 'value', 'target', '', 'limit, share of it'];
  return ['', ...alignTable(columns, rows), '', `Taken on: ${[...places].join(' / ')}.`, ''].join('\n');
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
