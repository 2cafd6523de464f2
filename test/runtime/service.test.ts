import { pino } from 'pino';
import t from 'tap';
import { Loop } from '../../runtime/service.ts';
import { until } from '../support/eventually.ts';

function logOf(): { log: pino.Logger; lines: Record<string, unknown>[] } {
  const lines: Record<string, unknown>[] = [];
  return { log: pino({}, { write: (line: string) => lines.push(JSON.parse(line)) }), lines };
}

const NEVER_MS = 3_600_000;

t.test('a step is called again when it wants to be, never twice at once, and not after the stop', async (t) => {
  let calls = 0;
  let running = 0;
  let most = 0;
  const loop = new Loop('test', logOf().log, async () => {
    calls += 1;
    running += 1;
    most = Math.max(most, running);
    loop.wake();
    await new Promise((resolve) => setImmediate(resolve));
    running -= 1;
    return 1;
  });
  loop.start();
  await until(() => calls >= 20, '20 calls');
  await loop.stop();
  const before = calls;
  t.equal(running, 0, 'stop waits for the step that runs');
  loop.wake();
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.equal(calls, before);
  t.equal(most, 1);
});

t.test('a wake-up ends the sleep', async (t) => {
  let calls = 0;
  const loop = new Loop('test', logOf().log, async () => {
    calls += 1;
    return NEVER_MS;
  });
  t.teardown(() => loop.stop());
  loop.start();
  await until(() => calls === 1, 'the first call');
  loop.wake();
  await until(() => calls === 2, 'the second call');
  loop.wake(5);
  await until(() => calls === 3, 'the third call');
});

t.test('a later wake-up does not put off an earlier one', async (t) => {
  let calls = 0;
  const loop = new Loop('test', logOf().log, async () => {
    calls += 1;
    return NEVER_MS;
  });
  t.teardown(() => loop.stop());
  loop.start();
  await until(() => calls === 1, 'the first call');
  loop.wake(10);
  loop.wake(NEVER_MS);
  await until(() => calls === 2, 'the second call');
});

t.test('a wake-up while the step runs makes it look again', async (t) => {
  let calls = 0;
  let release: () => void = () => {};
  const loop = new Loop('test', logOf().log, async () => {
    calls += 1;
    await new Promise<void>((resolve) => {
      release = resolve;
    });
    return NEVER_MS;
  });
  t.teardown(async () => {
    const stopped = loop.stop();
    release();
    await stopped;
  });
  loop.start();
  await until(() => calls === 1, 'the first call');
  loop.wake();
  loop.wake(NEVER_MS);
  release();
  await until(() => calls === 2, 'the second call');
});

t.test('a step that fails is tried again, ever more slowly, and logged ever more rarely', async (t) => {
  let calls = 0;
  const { log, lines } = logOf();
  const loop = new Loop('test', log, async () => {
    calls += 1;
    if (calls <= 3) throw new Error('no luck');
    return NEVER_MS;
  });
  t.teardown(() => loop.stop());
  loop.start();
  await until(() => calls === 4, 'it works at last');
  t.same(
    lines.map(({ event, loop, failures, level }) => ({ event, loop, failures, level })),
    [1, 2].map((failures) => ({ event: 'loop_failed', loop: 'test', failures, level: 40 })),
  );
});

t.test('a step that throws before it awaits anything is no different', async (t) => {
  let calls = 0;
  const loop = new Loop('test', logOf().log, (): Promise<number> => {
    calls += 1;
    if (calls === 1) throw new Error('at once');
    return Promise.resolve(NEVER_MS);
  });
  t.teardown(() => loop.stop());
  loop.start();
  await until(() => calls === 2, 'it is tried again');
});

t.test('stop may be called twice, and without a start', async (t) => {
  const loop = new Loop('test', logOf().log, async () => 1);
  await loop.stop();
  loop.start();
  await loop.stop();
  await loop.stop();
  t.pass('nothing hangs');
});
