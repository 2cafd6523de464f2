import t from 'tap';
import { RevokedTasks } from '../../protocol/revoked-tasks.ts';

const HOUR_MS = 3_600_000;

t.test('a revoked task is remembered for three hours from when it was last revoked', async (t) => {
  const revoked = new RevokedTasks();
  revoked.add(['a', 'b'], 0);
  revoked.add(['a'], HOUR_MS);
  revoked.add(['c'], 3 * HOUR_MS);
  t.same(
    ['a', 'b', 'c', 'd'].map((id) => revoked.has(id)),
    [true, false, true, false],
  );
  t.same(
    [...revoked.entries()],
    [
      ['a', HOUR_MS],
      ['c', 3 * HOUR_MS],
    ],
  );
});

t.test('of more than 50,000 the newest are remembered', async (t) => {
  const revoked = new RevokedTasks();
  for (let n = 0; n < 50_010; n++) revoked.add([`id-${n}`], n);
  t.equal(revoked.size, 50_000);
  t.notOk(revoked.has('id-9'));
  t.ok(revoked.has('id-10'));
});
