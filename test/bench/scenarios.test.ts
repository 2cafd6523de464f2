import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { SCENARIOS } from '../../bench/scenarios/index.ts';
import { until } from '../support/eventually.ts';
import { runBench, startBench } from './bench-process.ts';
import { measuresWhatItPromises, UPKEEP_SCENARIOS, WORKER_SCENARIOS } from './smoke.ts';

// Each one mostly waits.
t.jobs = 3;

const ELSEWHERE = [...WORKER_SCENARIOS, ...UPKEEP_SCENARIOS];

for (const scenario of SCENARIOS.filter(({ name }) => !ELSEWHERE.includes(name))) {
  t.test(`${scenario.name} measures what it promises and writes it down`, { buffered: true, timeout: 200_000 }, (t) =>
    measuresWhatItPromises(t, scenario),
  );
}

t.test('an unknown scenario is a usage error with a suggestion', { buffered: true }, async (t) => {
  const { code, output } = await runBench(t, ['spraed']);
  t.equal(code, 2);
  t.match(output, 'spread');
});

t.test('an option out of range is a usage error', { buffered: true }, async (t) => {
  t.equal((await runBench(t, ['spread', '--nodes', '0'])).code, 2);
});

t.test('interrupted under load it leaves no process behind', { buffered: true }, async (t) => {
  const mark = `BENCH_TEST=${randomUUID()}`;
  const bench = startBench(
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
