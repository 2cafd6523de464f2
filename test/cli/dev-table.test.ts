import { PassThrough } from 'node:stream';
import t from 'tap';
import { lineOf, Output, type Scene, shownNodes, tableOf } from '../../cli/dev-table.ts';

const LATENESS = { p50: 1, p99: 3.25, p999: 4, max: 128 };

const SCENE: Scene = {
  seconds: 12,
  forSeconds: 60,
  rate: 15_001.4,
  system: {
    atMs: 0,
    schedules: 150_000,
    overdue: 0,
    dispatched: 180_000,
    lateness: LATENESS,
    refused: 0,
    misfired: 0,
    recovered: 0,
    nodes: [
      { id: 'host-1', pid: 11, shards: 6, rate: 5_000 },
      { id: 'host-2', pid: 12, shards: 5, rate: 5_000 },
      { id: 'elsewhere', pid: 99, shards: 5, rate: 5_001 },
    ],
    queues: [{ name: 'celery', length: 1_234 }],
  },
  worker: { finished: 150_000, failed: 0, rate: 15_000, startLateness: { p50: 2, p99: 5, p999: 8, max: 10 } },
  names: new Map([
    [11, 'beat-1'],
    [12, null],
  ]),
};

t.test('a beat that has ended is left out at once, others keep their place', async (t) => {
  t.same(
    shownNodes(SCENE.system!, SCENE.names).map(({ id }) => id),
    ['beat-1', 'elsewhere'],
  );
});

t.test('the table shows rate, lateness, queue, nodes and worker', async (t) => {
  const table = tableOf(SCENE).join('\n');
  for (const part of ['12 of 60 s', '150,000', '15001/s', '3.3', '128', 'celery 1,234', 'beat-1', '15000/s']) {
    t.ok(table.includes(part), part);
  }
});

t.test('a line says the same, in one line', async (t) => {
  const line = lineOf(SCENE);
  t.notOk(line.includes('\n'));
  for (const part of ['12 s', 'rate 15001/s', 'p99 3.3', 'queue 1234', 'beat-1 6 shards'])
    t.ok(line.includes(part), part);
});

t.test('nobody answering is said, and breaks nothing', async (t) => {
  const nobody = { ...SCENE, system: null, worker: null };
  t.match(lineOf(nobody), /no beat node answers/);
  t.match(tableOf(nobody).join('\n'), /no beat node answers/);
  t.match(lineOf({ ...SCENE, worker: null }), /worker does not answer/);
});

t.test('on a terminal the table is drawn over within its size, and lines go above it', async (t) => {
  const terminal = Object.assign(new PassThrough({ encoding: 'utf8' }), { isTTY: true, rows: 6, columns: 20 });
  const output = new Output(terminal as unknown as NodeJS.WriteStream);
  output.show(SCENE);
  const first = String(terminal.read());
  t.equal(first.split('\n').length, 6, 'five rows and the line of the cursor');
  t.ok(first.split('\n').every((row) => row.length < 20));
  output.say('beat-2 has ended');
  t.match(String(terminal.read()), /^\x1b\[5A\x1b\[Jbeat-2 has ended\n/);
  output.leaveTable();
  output.say('summary');
  t.equal(String(terminal.read()), 'summary\n');
});
