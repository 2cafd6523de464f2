import assert from 'node:assert/strict';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { AsyncPool } from '../../worker/pools/async-pool.ts';
import { Autoscaler } from '../../worker/pools/autoscaler.ts';
import { eventually } from '../support/eventually.ts';

/** An autoscaler whose load is what the test says. */
function scaled(t: Test, max: number, min: number, keepaliveMs: number) {
  const log = pino({ level: 'silent' });
  const pool = new AsyncPool('async', Math.max(1, min), {
    hostname: 'w@h',
    log,
    nowMs: () => 0,
    storeState: async () => {},
    extendLease: async () => {},
    sendEvent: () => {},
  });
  const state = { load: 0, resized: 0 };
  const scaler = new Autoscaler({
    pool,
    scale: { max, min },
    keepaliveMs,
    log,
    load: () => state.load,
    onResize: () => {
      state.resized += 1;
    },
  });
  t.teardown(() => scaler.stop());
  return { pool, scaler, state };
}

t.test('it grows at once with the work, up to its greatest size', async (t) => {
  const { pool, scaler, state } = scaled(t, 8, 2, 3_600_000);
  scaler.start();
  state.load = 5;
  scaler.loaded();
  t.equal(pool.size, 5);
  state.load = 100;
  scaler.loaded();
  t.equal(pool.size, 8);
  t.equal(state.resized, 2);
  t.same(scaler.info(), { max: 8, min: 2, current: 8, qty: 100 });
});

t.test('it gives up slots that were idle for a while, down to what was used meanwhile', async (t) => {
  const { pool, scaler, state } = scaled(t, 8, 2, 100);
  state.load = 8;
  scaler.loaded();
  scaler.start();
  state.load = 4;
  await eventually(() => assert.equal(pool.size, 4));
  state.load = 0;
  await eventually(() => assert.equal(pool.size, 2));
});

t.test('with a least size of 0 one slot stays', async (t) => {
  const { pool, scaler, state } = scaled(t, 3, 0, 50);
  state.load = 3;
  scaler.loaded();
  state.load = 0;
  scaler.start();
  await eventually(() => assert.equal(pool.size, 1));
});

t.test('new sizes hold at once', async (t) => {
  const { pool, scaler, state } = scaled(t, 8, 2, 3_600_000);
  state.load = 8;
  scaler.loaded();
  t.same(scaler.update(3, null), { max: 3, min: 2 });
  t.equal(pool.size, 3);
  t.same(scaler.update(10, 5), { max: 10, min: 5 });
  t.equal(pool.size, 8, 'as many as there is work for');
  t.same(scaler.update(null, 9), { max: 10, min: 9 });
  t.equal(pool.size, 9);
});
