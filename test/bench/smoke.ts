import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { Result } from '../../bench/result.ts';
import type { Scenario } from '../../bench/scenario.ts';
import { runBench } from './bench-process.ts';

// Those of these lists have a test file each: one for all would take too long.

/** Of the bundled worker and its peers. */
export const WORKER_SCENARIOS: readonly string[] = [
  'end-to-end',
  'worker',
  'awaiting',
  'threads',
  'processes',
  'worker-memory',
  'events',
];

/** Of what may go wrong, and of what there is beside dispatch. */
export const UPKEEP_SCENARIOS: readonly string[] = [
  'failover',
  'churn',
  'journal-restore',
  'journal-cost',
  'memory',
  'start',
  'idle',
];

/** Where several beat nodes make a difference to what a scenario does. */
const WITH_NODES: readonly string[] = ['spread', 'sustain', 'loops', 'failover', 'journal-restore', 'end-to-end'];

const NEVER = ['doubled', 'overlapped', 'strange', 'early', 'missing_results'];

/** Takes a scenario with small parameters and looks at what it wrote. */
export async function measuresWhatItPromises(t: Test, scenario: Scenario): Promise<void> {
  const out = join(t.testdir(), 'result.json');
  const every = scenario.name === 'burst' ? scenario.defaults.every : 1;
  // `sustain` then still tries the rate it begins with, the next one, and the middle.
  const rounds = scenario.name === 'sustain' ? 3 : 1;
  const nodes = WITH_NODES.includes(scenario.name) ? 2 : 1;
  const small = [
    '--schedules',
    '60',
    '--every',
    `${every}`,
    '--seconds',
    '1',
    '--nodes',
    `${nodes}`,
    '--rounds',
    `${rounds}`,
    '--limit-messages',
    '1000',
  ];
  const { code, output } = await runBench(t, [scenario.name, ...small, '--no-aof', '--out', out]);
  if (!t.equal(code, 0, output)) return;
  const result: Result = JSON.parse(readFileSync(out, 'utf8'));
  t.match(result, {
    scenario: scenario.name,
    aof: false,
    date: /^\d{4}-\d\d-\d\dT[\d:.]+Z$/,
    parameters: { schedules: 60, every, seconds: 1, nodes, rounds },
    machine: { cpu: String, cores: Number, node: process.versions.node, redis: /^\d+\.\d+/ },
    limit: { per_s: Number, ratio: Number },
  });
  t.equal(result.runs.length, 1);
  for (const [name, value] of Object.entries(result.figures)) t.ok(Number.isFinite(value), `${name} is a number`);
  t.same(
    result.targets.map((target) => target.figure),
    scenario.targets.map((target) => target.figure),
  );
  // Whether a target of speed is met says nothing here, but what must never happen must not happen here either.
  const { lost = 0, misfired = lost } = result.figures;
  for (const name of NEVER) t.equal(result.figures[name] ?? 0, 0, name);
  // A machine that stalls for more than a second makes runs misfire; then, and only then, some never come.
  t.ok(lost <= misfired, `${lost} lost, ${misfired} misfired`);
  t.match(output, `written to ${out}`);
}
