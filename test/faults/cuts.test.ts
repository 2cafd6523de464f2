import assert from 'node:assert/strict';
import t, { type Test } from 'tap';
import '../../lua/dispatch.ts';
import '../../lua/heartbeat.ts';
import '../../lua/put-schedules.ts';
import '../../lua/sweep-shard.ts';
import { definedScripts } from '../../lua/script.ts';
import { eventually, until } from '../support/eventually.ts';
import { spawnBeat } from '../support/processes.ts';
import { type CommandMatcher, runsScript, startProxy } from '../support/proxy.ts';
import { withRedis } from '../support/redis-server.ts';
import { account, ask, goesOn, PATIENT, ringIs, startLoad } from './ledger.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 3;

function script(name: string): CommandMatcher {
  const found = definedScripts().find((script) => script.name === name);
  assert.ok(found, name);
  return runsScript(found);
}

async function setUp(t: Test) {
  const server = await withRedis(t);
  const redis = server.connect();
  t.teardown(() => redis.disconnect());
  const proxy = await startProxy(t, server.port);
  return { server, redis, proxy };
}

for (const when of ['cutAfter', 'cutBefore'] as const) {
  const moment = when === 'cutAfter' ? 'after Redis has executed a script' : 'before Redis has seen a script';
  t.test(`each run is sent once while connections break ${moment}`, { timeout: 600_000 }, async (t) => {
    const { redis, proxy } = await setUp(t);
    const beats = await Promise.all([spawnBeat(t, proxy.url, PATIENT), spawnBeat(t, proxy.url, PATIENT)]);
    await startLoad(beats[0], redis, 300);
    const dispatches = proxy[when](script('dispatch'), 100);
    const heartbeats = proxy[when](script('heartbeat'), 3);
    const sweeps = proxy[when](script('sweep-shard'), 3);
    await until(() => dispatches.count === 100, 'all dispatches were cut');
    await until(() => heartbeats.count === 3 && sweeps.count === 3, 'all others were cut');
    await ringIs(beats);
    await goesOn(redis, 1_500);
    t.same(await account(redis), { schedules: 300, doubled: [], missing: [] });
  });
}

t.test('a registration whose connections break is stored whole, and nothing runs twice', async (t) => {
  const { redis, proxy } = await setUp(t);
  const beat = await spawnBeat(t, proxy.url, PATIENT);
  const cut = proxy.cutAfter(script('put-schedules'), 3);
  const lines = Array.from({ length: 300 }, (_, i) =>
    JSON.stringify({ id: `s${i}`, task: 'ledger', schedule: { every: 1, phase: 'now' } }),
  );
  const headers = { 'content-type': 'application/x-ndjson' };
  // Where the node is so slow that its commands time out, it says that it does not know: then one asks again.
  const { created, updated, unchanged, failed } = await eventually(() =>
    ask(beat, '/v1/schedules', { method: 'POST', headers, body: lines.join('\n') }),
  );
  t.equal(cut.count, 3);
  // Where the answer was lost, the script ran again and found what it had stored.
  t.same({ stored: created + unchanged, updated, failed }, { stored: 300, updated: 0, failed: 0 });
  await goesOn(redis, 1_500);
  t.same(await account(redis), { schedules: 300, doubled: [], missing: [] });
});

t.test('a creation whose answer was lost on the way is still answered 201, and is there once', async (t) => {
  const { proxy } = await setUp(t);
  const beat = await spawnBeat(t, proxy.url, PATIENT);
  const cut = proxy.cutAfter(script('put-schedules'), 2);
  const create = () =>
    fetch(`${beat.api}/v1/schedules`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': 'key-1' },
      body: JSON.stringify({ id: 'a', task: 'x', schedule: { in: 60 } }),
    });
  const first = await create();
  t.equal(first.status, 201);
  t.equal(cut.count, 2);
  const again = await create();
  t.equal(again.status, 201);
  t.same(await again.json(), await first.json());
});
