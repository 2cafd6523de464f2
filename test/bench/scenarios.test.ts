import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { Result } from '../../bench/result.ts';
import { SCENARIOS } from '../../bench/scenarios/index.ts';
import { until } from '../support/eventually.ts';

const MAIN = fileURLToPath(new URL('../../bench/main.js', import.meta.url));

// Each one mostly waits.
t.jobs = 3;

for (const scenario of SCENARIOS) {
  t.test(
    `${scenario.name} measures what it promises and writes it down`,
    { buffered: true, timeout: 200_000 },
    async (t) => {
      const out = join(t.testdir(), 'result.json');
      const every = scenario.name === 'burst' ? scenario.defaults.every : 1;
      const small = [
        '--schedules',
        '60',
        '--every',
        `${every}`,
        '--seconds',
        '1',
        '--nodes',
        '2',
        '--limit-messages',
        '1000',
      ];
      const { code, output } = await run(t, [scenario.name, ...small, '--no-aof', '--out', out]);
      if (!t.equal(code, 0, output)) return;
      const result: Result = JSON.parse(readFileSync(out, 'utf8'));
      t.match(result, {
        scenario: scenario.name,
        aof: false,
        date: /^\d{4}-\d\d-\d\dT[\d:.]+Z$/,
        parameters: { schedules: 60, every, seconds: 1, nodes: 2 },
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
      const { doubled = 0, overlapped = 0, strange = 0, early = 0, lost = 0, misfired = lost } = result.figures;
      t.same({ doubled, overlapped, strange, early }, { doubled: 0, overlapped: 0, strange: 0, early: 0 });
      // A machine that stalls for more than a second makes runs misfire; then, and only then, some never come.
      t.ok(lost <= misfired, `${lost} lost, ${misfired} misfired`);
      t.match(output, `written to ${out}`);
    },
  );
}

t.test('an unknown scenario is a usage error with a suggestion', { buffered: true }, async (t) => {
  const { code, output } = await run(t, ['spraed']);
  t.equal(code, 2);
  t.match(output, 'spread');
});

t.test('an option out of range is a usage error', { buffered: true }, async (t) => {
  t.equal((await run(t, ['spread', '--nodes', '0'])).code, 2);
});

t.test('interrupted under load it leaves no process behind', { buffered: true }, async (t) => {
  const mark = `BENCH_TEST=${randomUUID()}`;
  const bench = start(
    t,
    ['spread', '--schedules', '500', '--every', '1', '--nodes', '2', '--out', join(t.testdir(), 'result.json')],
    mark,
  );
  await until(() => bench.output().includes('registered 500'), 'it registers its load');
  t.ok(processesMarked(mark).length >= 5, 'bench, Redis, two nodes and a consumer are there');
  bench.child.kill('SIGINT');
  t.equal(await bench.exited, 1);
  await until(() => processesMarked(mark).length === 0, 'every process is gone');
});

/** Processes of this machine that inherited this variable. */
function processesMarked(mark: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(mark);
    } catch {
      // It ended between our two looks, or is somebody else's.
      return false;
    }
  });
}

async function run(t: Test, args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const bench = start(t, args);
  const code = await bench.exited;
  return { code, output: bench.output() };
}

interface RunningBench {
  readonly child: ChildProcess;
  /** All that it has printed so far. */
  output(): string;
  readonly exited: Promise<number | null>;
}

/** `variable` is `NAME=value`, added to its environment. */
function start(t: Test, args: readonly string[], variable = ''): RunningBench {
  const [name = '', value = ''] = variable.split('=');
  const env = name === '' ? process.env : { ...process.env, [name]: value };
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env });
  t.teardown(() => child.kill('SIGTERM'));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  return { child, output: () => output, exited: new Promise((resolve) => child.once('close', resolve)) };
}
