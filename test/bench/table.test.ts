import t from 'tap';
import type { Result } from '../../bench/result.ts';
import { checkTable, renderTable } from '../../bench/table.ts';

t.test('the figures in bench/README.md are those of bench/results', async (t) => {
  t.ok(checkTable(), 'otherwise run: npm run bench -- table');
});

t.test('every target of a result is a row, with whether it was met', async (t) => {
  const result: Result = {
    scenario: 'spread',
    date: '2026-11-21T05:00:00.000Z',
    aof: true,
    parameters: { schedules: 10, every: 1, seconds: 1, nodes: 1 },
    machine: { cpu: 'Any CPU', cores: 2, memoryGib: 4, node: '20.0.0', redis: '7.0.0', ringbeat: '0.0.0' },
    load_before: 0,
    figures: { dispatch_p99_ms: 3, lost: 1 },
    targets: [
      { figure: 'dispatch_p99_ms', atMost: 5, value: 3, met: true },
      { figure: 'lost', atMost: 0, value: 1, met: false },
    ],
    limit: { per_s: 300_000, batched_per_s: 400_000, message_bytes: 900, ratio: 0.05 },
    runs: [],
  };
  const table = renderTable([result]).replace(/ +/g, ' ');
  t.match(table, '| spread | on | `dispatch_p99_ms` | 3 ms | <= 5 ms | met | 300,000/s, 5 % |');
  t.match(table, '| spread | on | `lost` | 1 | <= 0 | **missed** |');
  t.match(table, 'Any CPU, 2 cores, Node 20.0.0, Redis 7.0.0; 2026-11-21');
});
