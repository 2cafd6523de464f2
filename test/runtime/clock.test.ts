import t from 'tap';
import { monotonicMs, RedisClock } from '../../runtime/clock.ts';
import { until } from '../support/eventually.ts';

const REDIS = 1_800_000_000_000;

function clockWithJumps(): { clock: RedisClock; jumps: number[] } {
  const jumps: number[] = [];
  return { clock: new RedisClock((jumpMs) => jumps.push(jumpMs)), jumps };
}

/** What the clock adds to this process's own, ms; read again while something came between the two readings. */
function offsetOf(clock: RedisClock): number {
  for (;;) {
    const before = monotonicMs();
    const redisNow = clock.nowMs();
    if (monotonicMs() - before < 0.2) return redisNow - before;
  }
}

t.test('each reply narrows what is known of the offset between the two clocks', async (t) => {
  const { clock, jumps } = clockWithJumps();
  const now = monotonicMs();
  clock.observe(REDIS, now - 100, now);
  const wide = offsetOf(clock);
  t.ok(Math.abs(wide - (REDIS - now + 50)) < 1);
  clock.observe(REDIS + 10, now + 9, now + 11);
  const narrow = offsetOf(clock);
  t.ok(Math.abs(narrow - (REDIS - now)) <= 1);
  clock.observe(REDIS + 20, now - 10_000, now + 10_000);
  t.ok(Math.abs(offsetOf(clock) - narrow) <= 0.5, 'a slow reply takes nothing away');
  t.same(jumps, []);
});

const STEPS: readonly (readonly [string, number])[] = [
  ['forward', 5_000],
  ['back', -5_000],
];
for (const [direction, ms] of STEPS) {
  t.test(`a step ${direction} is seen with the next reply, once`, async (t) => {
    const { clock, jumps } = clockWithJumps();
    const now = monotonicMs();
    t.equal(clock.observe(REDIS, now, now + 1), 0);
    const jump = clock.observe(REDIS + ms + 2, now + 2, now + 3);
    t.ok(Math.abs(jump - ms) <= 2);
    t.equal(clock.observe(REDIS + ms + 4, now + 4, now + 5), 0);
    t.same(jumps, [jump]);
    t.ok(Math.abs(offsetOf(clock) - (REDIS + ms - now)) <= 2);
  });
}

t.test('a suspension of this process, or a slow Redis, is no jump', async (t) => {
  const { clock, jumps } = clockWithJumps();
  const now = monotonicMs();
  clock.observe(REDIS, now, now + 1);
  // Sent before 30 s of suspension, answered at once, read afterwards.
  clock.observe(REDIS + 2, now + 2, now + 30_000);
  // Sent, held back by Redis for 30 s, read at once.
  clock.observe(REDIS + 60_000, now + 30_000, now + 60_001);
  t.same(jumps, []);
});

t.test('slow drift is no jump', async (t) => {
  const { clock, jumps } = clockWithJumps();
  let now = monotonicMs();
  let redis = REDIS;
  for (let i = 0; i < 1_000; i++) {
    now += 1_000;
    redis += 1_001;
    clock.observe(redis, now, now + 1);
  }
  t.same(jumps, []);
  t.ok(Math.abs(offsetOf(clock) - (redis - now)) <= 2, 'and is followed');
});

const QUIET_MS = 50;

/** Whether the clock is steady for so long just after this; done again where this process was held up for as long meanwhile. */
function isSteadyAfter(clock: RedisClock, disturbance: () => void): boolean {
  for (;;) {
    const before = monotonicMs();
    disturbance();
    const isSteady = clock.steadyFor(QUIET_MS);
    if (monotonicMs() - before < QUIET_MS) return isSteady;
  }
}

t.test('leases are judged only after a quiet time, which a jump and an outage end', async (t) => {
  const { clock } = clockWithJumps();
  t.equal(clock.steadyFor(60_000), false);
  t.equal(clock.steadyFor(0), true);
  const quiet = () => until(() => clock.steadyFor(QUIET_MS), 'steady');
  await quiet();
  t.equal(
    isSteadyAfter(clock, () => clock.disturbed()),
    false,
  );
  await quiet();
  const now = monotonicMs();
  let redis = REDIS;
  clock.observe(redis, now, now);
  t.equal(clock.steadyFor(QUIET_MS), true, 'an ordinary reply changes nothing');
  const jump = () => {
    redis += 5_000;
    clock.observe(redis, now, now);
  };
  t.equal(isSteadyAfter(clock, jump), false);
});

t.test('a long silence begins the quiet time anew: perhaps the whole machine stood still', async (t) => {
  const { clock, jumps } = clockWithJumps();
  await until(() => clock.steadyFor(QUIET_MS), 'steady');
  const now = monotonicMs();
  const silence = () => clock.observe(REDIS, now - 10_000, now - 10_000);
  silence();
  t.equal(clock.steadyFor(0), false, 'while nothing is heard');
  const heardAgain = () => {
    silence();
    clock.observe(REDIS + 10_000, now, now);
  };
  t.equal(isSteadyAfter(clock, heardAgain), false, 'nor when it is heard again');
  t.equal(clock.steadyFor(0), true);
  t.same(jumps, []);
});

t.test('before the first reply the clock of this machine has to do', async (t) => {
  t.ok(Math.abs(new RedisClock().nowMs() - Date.now()) < 1_000);
});
