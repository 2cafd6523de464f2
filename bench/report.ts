import type { JudgedTarget, Result } from './result.ts';
import type { Target } from './scenario.ts';

/** The result as a table for a terminal. */
export function renderResult(result: Result): string {
  const { machine, parameters, limit } = result;
  const targets = new Map<string, JudgedTarget[]>();
  for (const target of result.targets) targets.set(target.figure, [...(targets.get(target.figure) ?? []), target]);
  const rows = Object.entries(result.figures).map(([name, value]) => [
    name,
    formatFigure(name, value),
    ...(targets.get(name) ?? []).map((target) => `${describeTarget(target)}  ${target.met ? 'met' : 'MISSED'}`),
  ]);
  rows.push([
    'limit_per_s',
    formatFigure('limit_per_s', limit.per_s),
    `raw pipelined LPUSH of the same ${limit.message_bytes} bytes`,
  ]);
  const used = Object.entries(parameters).map(([name, value]) => `${name} ${value}`);
  return [
    `${result.scenario}: AOF ${result.aof ? 'on' : 'off'}, ${used.join(', ')}, ${result.runs.length} run${result.runs.length === 1 ? '' : 's'}`,
    `${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, Redis ${machine.redis}; load before ${result.load_before.toFixed(1)}`,
    ...alignColumns(rows),
  ].join('\n');
}

export function describeTarget(target: Target): string {
  if (target.atLeast !== undefined) return `>= ${formatFigure(target.figure, target.atLeast)}`;
  return `<= ${formatFigure(target.figure, target.atMost ?? Number.NaN)}`;
}

/** A figure with as many digits as are worth reading, and its unit. */
export function formatFigure(name: string, value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (name.endsWith('_share')) return `${trimmed(value * 100, 1)} %`;
  if (name.endsWith('_per_s')) return `${Math.round(value).toLocaleString('en')}/s`;
  if (name.endsWith('_cores')) return `${trimmed(value, 3)} cores`;
  if (name.endsWith('_ratio')) return `${trimmed(value, 2)} x`;
  if (name.endsWith('_mib')) return `${trimmed(value, 1)} MiB`;
  if (name.endsWith('_bytes')) return `${trimmed(value, 1)} B`;
  if (name.endsWith('_ms')) return `${trimmed(value, value < 10 ? 2 : 1)} ms`;
  if (name.endsWith('_s')) return `${trimmed(value, 2)} s`;
  return trimmed(value, 2);
}

function trimmed(value: number, digits: number): string {
  return Number(value.toFixed(digits)).toLocaleString('en', { maximumFractionDigits: digits });
}

function alignColumns(rows: readonly (readonly string[])[]): string[] {
  const width = (column: number) => Math.max(...rows.map((row) => row[column]?.length ?? 0));
  const [first, second] = [width(0), width(1)];
  return rows.map(([name = '', value = '', ...rest]) =>
    `  ${name.padEnd(first)}  ${value.padStart(second)}  ${rest.join(', ')}`.trimEnd(),
  );
}
