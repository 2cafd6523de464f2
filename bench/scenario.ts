import type { Percentiles } from './percentiles.ts';

/** What a scenario can be asked for; each has defaults of its own. */
export interface Parameters {
  readonly schedules: number;
  /** Interval of each schedule, s. */
  readonly every: number;
  /** How long is measured, s. */
  readonly seconds: number;
  /** Beat nodes. */
  readonly nodes: number;
  /** How often scenarios that measure something several times do so, or search at most. Default: the scenario's own. */
  readonly rounds?: number;
}

/** Figures by name; the name ends in the unit: `_ms`, `_s`, `_bytes`, `_per_s`, `_cores`, `_share`, `_ratio`, or nothing for a count. */
export type Figures = Readonly<Record<string, number>>;

export interface Measurement {
  readonly figures: Figures;
  /** Distributions behind the figures, by what was measured. */
  readonly percentiles: Readonly<Record<string, Percentiles>>;
  /** Where the limit itself was measured, so that it is not taken again. */
  readonly limit?: Limit;
}

export interface Limit {
  /** Pipelined LPUSH, one message a command: what every other scenario is compared with. */
  readonly perSecond: number;
  /** The same with 500 messages a command. */
  readonly batchedPerSecond: number;
  readonly messageBytes: number;
}

/** A bound that a figure should keep. */
export interface Target {
  readonly figure: string;
  readonly atMost?: number;
  readonly atLeast?: number;
}

export interface Scenario {
  readonly name: string;
  /** One line for `--help`. */
  readonly doc: string;
  readonly defaults: Parameters;
  /** Whether Redis writes its append-only file, unless that is asked for; `both` takes it twice. Default: on. */
  readonly aof?: 'on' | 'off' | 'both';
  readonly targets: readonly Target[];
  /** Figures that the README shows beside those with a target. */
  readonly shown?: readonly string[];
  /** The figure, in messages or schedules per second, that is compared with the limit. */
  readonly rate: string;
  run(parameters: Parameters, aof: boolean, say: (line: string) => void): Promise<Measurement>;
}
