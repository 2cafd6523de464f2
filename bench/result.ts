import { describeMachine, type Machine } from './machine.ts';
import { median } from './median.ts';
import type { Percentiles } from './percentiles.ts';
import type { Figures, Limit, Measurement, Parameters, Scenario, Target } from './scenario.ts';

export interface JudgedTarget extends Target {
  readonly value: number;
  readonly met: boolean;
}

/** What a result file holds. */
export interface Result {
  readonly scenario: string;
  readonly date: string;
  /** Whether Redis wrote its append-only file. */
  readonly aof: boolean;
  readonly parameters: Parameters;
  readonly machine: Machine;
  /** How many processes wanted a core in the minute before: what else this machine was doing. */
  readonly load_before: number;
  /** Of several runs: the median, and the worst of what should be nothing at all. */
  readonly figures: Figures;
  readonly targets: readonly JudgedTarget[];
  /** Raw pipelined LPUSH of the same bytes in the same run, and this scenario's rate as a share of it. */
  readonly limit: {
    readonly per_s: number;
    readonly batched_per_s: number;
    readonly message_bytes: number;
    readonly ratio: number;
  };
  readonly runs: readonly { readonly figures: Figures; readonly percentiles: Readonly<Record<string, Percentiles>> }[];
}

export function judge(
  scenario: Scenario,
  taken: { readonly parameters: Parameters; readonly aof: boolean; readonly loadBefore: number },
  runs: readonly Measurement[],
  limit: Limit,
): Result {
  const { parameters, aof, loadBefore } = taken;
  const combined = combine(scenario, runs);
  const ratio = (combined[scenario.rate] ?? 0) / limit.perSecond;
  const figures: Figures = { ...combined, limit_share: ratio };
  return {
    scenario: scenario.name,
    date: new Date().toISOString(),
    aof,
    parameters,
    machine: describeMachine(),
    load_before: loadBefore,
    figures,
    targets: scenario.targets.map((target) => judgeTarget(target, figures[target.figure])),
    limit: {
      per_s: limit.perSecond,
      batched_per_s: limit.batchedPerSecond,
      message_bytes: limit.messageBytes,
      ratio,
    },
    runs: runs.map(({ figures, percentiles }) => ({ figures, percentiles })),
  };
}

/** A figure that is missing has not met its target. */
function judgeTarget(target: Target, value = Number.NaN): JudgedTarget {
  const met = value <= (target.atMost ?? Infinity) && value >= (target.atLeast ?? -Infinity);
  return { ...target, value, met };
}

function combine(scenario: Scenario, runs: readonly Measurement[]): Figures {
  const forbidden = new Set(scenario.targets.filter((target) => target.atMost === 0).map((target) => target.figure));
  const combined: Record<string, number> = {};
  for (const name of Object.keys(runs[0]?.figures ?? {})) {
    const values = runs.map((run) => run.figures[name] ?? Number.NaN);
    combined[name] = forbidden.has(name) ? Math.max(...values) : median(values);
  }
  return combined;
}
