import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { ringbeat } from '../cli/ringbeat.ts';
import { type CeleryPython, celeryPythons, runPython, startCeleryWorker } from '../support/celery.ts';
import { type Spawned, spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const TASKS = fileURLToPath(new URL('../worker/sample-tasks.js', import.meta.url));
const OURS = 'ours@host1';

function startOurs(t: Test, server: RedisServer, ...args: string[]): Promise<Spawned> {
  const own = ['--tasks', TASKS, '-n', OURS, '-c', '4', ...args];
  return spawnWorker(t, server.url, own, { env: { RINGBEAT_TEST_REDIS: server.url } });
}

interface Said {
  readonly code: number;
  readonly text: string;
}

/** Runs `celery -A app …` for each of these command lines, one after the other, in one process. */
async function celeryCommands(
  t: Test,
  celery: CeleryPython,
  server: RedisServer,
  lines: readonly (readonly string[])[],
): Promise<Said[]> {
  const code = `
import json
from click.testing import CliRunner
from celery.bin.celery import celery
said = []
for line in json.loads(${JSON.stringify(JSON.stringify(lines))}):
    result = CliRunner().invoke(celery, ['-A', 'ringbeat_test_app', '--no-color', *line])
    said.append({'code': result.exit_code, 'text': result.output})
print(json.dumps(said))
`;
  return JSON.parse((await runPython(t, celery, server.url, code, { deadlineMs: 120_000 })).trim().split('\n').at(-1)!);
}

async function nameOfTheirs(server: RedisServer): Promise<string> {
  const { stdout } = await ringbeat(['status', '--redis', server.url, '--json']);
  const name = Object.keys(JSON.parse(stdout)).find((node) => node !== OURS);
  assert.ok(name);
  return name;
}

/** Python's json writes what JSON does not have. */
// biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever came.
function parsed(text: string): any {
  return JSON.parse(text.replace(/: Infinity\b/g, ': 1e999'));
}

/** Types of a reply and of what is right in it. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.length === 0 ? [] : [typeof value[0]];
  if (typeof value !== 'object' || value === null) return typeof value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, typeof member]));
}

/** Commands that our worker and Celery's answer alike, values of their own aside. */
const ALIKE = [
  ['inspect', 'ping'],
  ['inspect', 'clock'],
  ['inspect', 'report'],
  ['inspect', 'active'],
  ['inspect', 'reserved'],
  ['inspect', 'scheduled'],
  ['inspect', 'revoked'],
  ['inspect', 'registered'],
  ['inspect', 'active_queues'],
  ['inspect', 'query_task', 'nobody'],
  ['inspect', 'memdump'],
  ['control', 'revoke', 'id1', 'id2'],
  ['control', 'terminate', 'KILL', 'id1'],
  ['control', 'rate_limit', 'add', '10/m'],
  ['control', 'rate_limit', 'nobody', '10/m'],
  ['control', 'rate_limit', 'add', 'often'],
  ['control', 'time_limit', 'add', '10', '20'],
  ['control', 'add_consumer', 'other'],
  ['control', 'cancel_consumer', 'other'],
  ['control', 'pool_grow', '1'],
  ['control', 'pool_shrink', '1'],
  ['control', 'pool_restart'],
  ['control', 'autoscale', '5', '2'],
  ['control', 'enable_events'],
  ['control', 'enable_events'],
  ['control', 'disable_events'],
  ['control', 'disable_events'],
  ['control', 'heartbeat'],
];

/** Of these, the replies are the same to the letter. */
const SAME = /^(inspect (ping|active|reserved|scheduled|query_task)|control (?!revoke))/;

for (const celery of await celeryPythons(t)) {
  t.test(`Celery ${celery.version}: both command lines see a mixed fleet, and are answered alike`, async (t) => {
    const server = await withRedis(t);
    const redis = server.connect();
    t.teardown(() => redis.disconnect());
    const ours = await startOurs(t, server);
    await startCeleryWorker(t, celery, server.url, { pool: 'prefork', concurrency: 1 });
    const theirs = await nameOfTheirs(server);
    const both = ['-d', `${OURS},${theirs}`];
    const lines = ALIKE.map(([kind, ...rest]) => [kind!, ...both, '--json', ...rest]);
    const said = await celeryCommands(t, celery, server, lines);
    for (const [i, line] of ALIKE.entries()) {
      const name = line.join(' ');
      const { code, text } = said[i]!;
      if (!t.equal(code, 0, `${name}: ${text}`)) continue;
      const answer = parsed(text);
      const replies = Array.isArray(answer) ? Object.assign({}, ...answer) : answer;
      t.same(Object.keys(replies).sort(), [OURS, theirs].sort(), name);
      t.same(shapeOf(replies[OURS]), shapeOf(replies[theirs]), name);
      if (SAME.test(name)) t.same(replies[OURS], replies[theirs], name);
    }

    t.comment('what differs between two kinds of workers');
    const [stats, conf, memsample, stamped, objgraph] = (
      await celeryCommands(t, celery, server, [
        ['inspect', ...both, '--json', 'stats'],
        ['inspect', ...both, '--json', 'conf', 'yes'],
        ['inspect', '-d', OURS, '--json', 'memsample'],
        ...(celery.name === 'newest'
          ? [
              ['control', ...both, '--json', 'revoke_by_stamped_headers', 'k=v'],
              ['inspect', '-d', OURS, '--json', '-t', '60', 'objgraph'],
            ]
          : []),
      ])
    ).map(({ text }) => parsed(text));
    for (const part of ['total', 'broker', 'pool', 'rusage'])
      t.equal(typeof stats[OURS][part], typeof stats[theirs][part], part);
    for (const key of Object.keys(stats[theirs])) t.ok(key in stats[OURS], key);
    for (const key of Object.keys(stats[theirs].broker)) t.ok(key in stats[OURS].broker, key);
    t.equal(conf[OURS].worker_concurrency, 4);
    t.match(memsample[OURS], /MB$/);
    if (stamped !== undefined) {
      const [one, other] = stamped.map((reply: object) => Object.values(reply)[0]);
      t.same(one, other);
      rmSync(join(objgraph[OURS].filename, '..'), { recursive: true });
    }

    t.comment('our command line');
    const shown = [
      ['inspect', '-d', theirs, 'ping'],
      ['inspect', '-d', theirs, 'active_queues'],
      ['inspect', '-d', theirs, 'active'],
      ['inspect', '-d', theirs, 'query_task', 'nobody'],
      ['inspect', '-d', OURS, 'registered'],
      ['control', '-d', theirs, 'heartbeat'],
      ['control', '-d', theirs, 'rate_limit', 'nobody', '1/s'],
    ];
    for (const [i, { code, text }] of (await celeryCommands(t, celery, server, shown)).entries()) {
      const own = await ringbeat([...shown[i]!, '--redis', server.url]);
      t.same({ code: own.code, text: own.stdout }, { code, text }, shown[i]!.join(' '));
    }
    const json = await ringbeat(['inspect', 'registered', '--redis', server.url, '--json']);
    t.match(JSON.parse(json.stdout), { [OURS]: [/add/], [theirs]: [/add/] });
    t.match(await ringbeat(['status', '--redis', server.url]), { code: 0, stdout: /\n2 nodes online\.\n$/ });
    const nobody = await ringbeat(['inspect', '-d', 'nobody@host1', '-t', '0.1', 'ping', '--redis', server.url]);
    t.same(nobody, { code: 69, stdout: '', stderr: 'Error: No nodes replied within time constraint\n' });
    t.match(await ringbeat(['inspect', 'revoke', '--redis', server.url]), {
      code: 2,
      stderr: /revoke is none of active/,
    });
    t.match(await ringbeat(['control', 'pool_grow', 'x']), { code: 2, stderr: /n must be a whole number, got "x"/ });
    t.match(await ringbeat(['control', '--list']), { code: 0, stdout: / rate_limit <task_name>/ });
    const line = ['control', ...both, 'global_rate_limit', 'add', '5/s', '--json', '--redis', server.url];
    t.match(Object.assign({}, ...JSON.parse((await ringbeat(line)).stdout)), {
      [OURS]: { ok: 'new global rate limit set successfully' },
      [theirs]: { error: /^KeyError/ },
    });
    t.equal(await redis.exists('_kombu.binding.reply.celery.pidbox'), 0, 'nothing is left of any call');
    t.same(await redis.keys('*.reply.celery.pidbox*'), []);

    t.comment('the end');
    await celeryCommands(t, celery, server, [['control', '-d', OURS, '-t', '0.1', 'shutdown']]);
    t.equal((await ours.exited).code, 0);
    t.match(await ringbeat(['status', '--redis', server.url]), { stdout: /\n1 node online\.\n$/ });
  });
}
