import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { RevokedTasks } from '../../protocol/revoked-tasks.ts';
import { monotonicMs } from '../../runtime/clock.ts';
import { StateFile } from '../../worker/state-file.ts';
import { ringbeat } from '../cli/ringbeat.ts';
import { until } from '../support/eventually.ts';

const TASKS = fileURLToPath(new URL('sample-tasks.js', import.meta.url));
const HOUR_MS = 3_600_000;
const NOW_MS = 1_900_000_000_000;

function folderOf(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbeat-test-state-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function openFile(file: string, nowMs = NOW_MS): Promise<{ revoked: RevokedTasks; state: StateFile }> {
  const revoked: RevokedTasks = new RevokedTasks(() => state.changed());
  const startedAtMs = monotonicMs();
  const log = pino({ level: 'silent' });
  const state = new StateFile({ file, revoked, log, nowMs: () => nowMs + monotonicMs() - startedAtMs });
  await state.open();
  return { revoked, state };
}

t.test('what was revoked is known after a restart, until it is three hours old', async (t) => {
  const file = join(folderOf(t), 'worker.state');
  const first = await openFile(file);
  first.revoked.add(['a', 'b'], monotonicMs());
  first.revoked.addStamps([['batch', 'x\0y"']]);
  await first.state.close();
  const second = await openFile(file, NOW_MS + HOUR_MS);
  second.revoked.add(['c'], monotonicMs());
  t.same(
    ['a', 'b', 'c', 'd'].map((id) => second.revoked.has(id)),
    [true, true, true, false],
  );
  t.ok(second.revoked.covers({ id: 'z', headers: { stamped_headers: ['batch'], stamps: { batch: ['w', 'x\0y"'] } } }));
  await second.state.close();
  const third = await openFile(file, NOW_MS + 3.5 * HOUR_MS);
  t.same(
    ['a', 'b', 'c'].map((id) => third.revoked.has(id)),
    [false, false, true],
  );
  await third.state.close();
  const fourth = await openFile(file, NOW_MS - 1_000 * HOUR_MS);
  t.same([...fourth.revoked.entries()].length, 1, 'a clock that was set back loses nothing');
  await fourth.state.close();
});

t.test('a change is written without being asked for, and nothing else lies beside the file', async (t) => {
  const folder = folderOf(t);
  const file = join(folder, 'worker.state');
  const { revoked, state } = await openFile(file);
  revoked.add(['a'], monotonicMs());
  await until(() => readFileSync(file, 'utf8').includes('"a"'), 'it is written');
  await state.close();
  t.same(readdirSync(folder), ['worker.state']);
});

t.test('a file that cannot be used is named and left as it is', async (t) => {
  const folder = folderOf(t);
  const file = join(folder, 'worker.state');
  for (const text of [
    '',
    '{"format": 1, "revoked": [["a", 1]',
    '[]',
    '{"format": 2}',
    '{"format": 1, "revoked": [["a"]], "stamps": []}',
  ]) {
    writeFileSync(file, text);
    await t.rejects(openFile(file), { code: 'STATE_FILE', message: new RegExp(file) });
    t.equal(readFileSync(file, 'utf8'), text);
  }
  const { code, stderr } = await ringbeat([
    'worker',
    '--tasks',
    TASKS,
    '--statedb',
    file,
    '--redis',
    'redis://127.0.0.1:1',
  ]);
  t.equal(code, 1);
  t.match(
    stderr,
    new RegExp(`Cannot use the state file ${file}: it is not a state file of this version\\. Nothing was changed`),
  );
  await t.rejects(openFile(folder), { code: 'STATE_FILE' });
  await t.rejects(openFile(join(folder, 'nowhere', 'worker.state')), { code: 'STATE_FILE' });
  t.same(readdirSync(folder), ['worker.state']);
});
