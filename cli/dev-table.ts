import type { NodeFigures, Percentiles, Snapshot, WorkerProgress } from './dev-watch.ts';

/** One second of `ringbeat dev`, as it is shown. */
export interface Scene {
  /** Since the table began, s. */
  readonly seconds: number;
  /** Null: until Ctrl-C. */
  readonly forSeconds: number | null;
  /** Null when no beat answered. */
  readonly system: Snapshot | null;
  /** Dispatches a second over the last 10 s, or since the table began. */
  readonly rate: number;
  /** The last 10 s; null when it does not answer. */
  readonly worker: WorkerProgress | null;
  /** Our own beats by pid; null for one that has ended. */
  readonly names: ReadonlyMap<number, string | null>;
}

/** The scene as a table, one string a line. */
export function tableOf(scene: Scene): string[] {
  const { system, worker } = scene;
  const time = scene.forSeconds === null ? `${scene.seconds} s` : `${scene.seconds} of ${scene.forSeconds} s`;
  const head = ['', `ringbeat dev   ${time}   Ctrl-C ends it`, ''];
  if (system === null) return [...head, 'no beat node answers'];
  return [
    ...head,
    `schedules   ${count(system.schedules)}`,
    `dispatched  ${count(system.dispatched)}   ${perSecond(scene.rate)}   overdue ${count(system.overdue)}   misfired ${count(system.misfired)}   refused ${count(system.refused)}`,
    `queues      ${system.queues.map(({ name, length }) => `${name} ${count(length)}`).join('   ') || 'none yet'}`,
    '',
    `lateness, last 10 s      p50      p99    p99.9      max   ms`,
    `  dispatch          ${columns(system.lateness)}`,
    `  start             ${columns(worker?.startLateness ?? null)}`,
    '',
    'node                     pid   shards        rate',
    ...shownNodes(system, scene.names).map(
      ({ id, pid, shards, rate }) =>
        `  ${id.padEnd(18)}${String(pid).padStart(8)}${String(shards).padStart(9)}${perSecond(rate).padStart(12)}`,
    ),
    worker === null
      ? '  worker            does not answer'
      : `  worker            ${' '.repeat(17)}${perSecond(worker.rate).padStart(12)}   failed ${count(worker.failed)}`,
  ];
}

/** The scene in one line, for a log file or a pipe. */
export function lineOf(scene: Scene): string {
  const { system, worker } = scene;
  if (system === null) return `${scene.seconds} s  no beat node answers`;
  const queued = system.queues.reduce((sum, queue) => sum + queue.length, 0);
  const shards = shownNodes(system, scene.names).map(
    ({ id, shards, rate }) => `${id} ${shards} shards ${perSecond(rate)}`,
  );
  return [
    `${scene.seconds} s`,
    `rate ${perSecond(scene.rate)}`,
    `dispatch lateness ms ${inline(system.lateness)}`,
    `start lateness ms ${inline(worker?.startLateness ?? null)}`,
    `queue ${queued}`,
    `overdue ${system.overdue}`,
    `worker ${worker === null ? 'does not answer' : perSecond(worker.rate)}`,
    ...shards,
  ].join('  ');
}

/** A rate as it is shown: 15001/s, 0.2/s. */
export function perSecond(rate: number): string {
  return `${rate < 10 ? rate.toFixed(1).replace(/\.0$/, '') : Math.round(rate)}/s`;
}

/** Whole numbers with separators: 150,000. */
function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

export function inline(values: Percentiles | null): string {
  if (values === null || values.max === null) return 'none';
  return `p50 ${ms(values.p50)} p99 ${ms(values.p99)} p99.9 ${ms(values.p999)} max ${ms(values.max)}`;
}

function columns(values: Percentiles | null): string {
  return [values?.p50, values?.p99, values?.p999, values?.max].map((value) => ms(value ?? null).padStart(9)).join('');
}

function ms(value: number | null): string {
  if (value === null) return '-';
  return value < 100 ? value.toFixed(1).replace(/\.0$/, '') : String(Math.round(value));
}

/** Everybody's beats, ours by the names they were started under; one of ours that has ended is left out at once. */
export function shownNodes(system: Snapshot, names: Scene['names']): NodeFigures[] {
  return system.nodes
    .filter(({ pid }) => names.get(pid) !== null)
    .map((node) => ({ ...node, id: names.get(node.pid) ?? node.id }))
    .sort((a, b) => a.id.localeCompare(b.id, 'en', { numeric: true }));
}

/** Standard output: on a terminal a table at its end that is drawn over, otherwise one line a scene. */
export class Output {
  readonly #stream: NodeJS.WriteStream;
  #table: readonly string[] = [];

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** On a terminal the line goes above the table. */
  say(line: string): void {
    this.#stream.write(`${this.#back()}${line}\n${this.#table.map((row) => `${row}\n`).join('')}`);
  }

  show(scene: Scene): void {
    if (!this.#stream.isTTY) {
      this.say(lineOf(scene));
      return;
    }
    const back = this.#back();
    // What does not fit would scroll or wrap, and could not be drawn over.
    this.#table = tableOf(scene)
      .slice(0, (this.#stream.rows || 24) - 1)
      .map((row) => row.slice(0, (this.#stream.columns || 80) - 1));
    this.#stream.write(`${back}${this.#table.map((row) => `${row}\n`).join('')}`);
  }

  /** The table stays as it is; what is said from now on goes below it. */
  leaveTable(): void {
    this.#table = [];
  }

  /** To the beginning of the table, clearing everything from there. */
  #back(): string {
    return this.#table.length === 0 ? '' : `\x1b[${this.#table.length}A\x1b[J`;
  }
}
