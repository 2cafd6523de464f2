import { hostname as machineName } from 'node:os';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import t from 'tap';
import { RingbeatError } from '../../protocol/errors.ts';
import { nodeName, type WorkerOptions, workerConfig } from '../../worker/config.ts';
import { WORKER_OPTIONS } from '../../worker/options.ts';
import { Worker } from '../../worker/worker.ts';

/** Nobody answers there. */
const REDIS = 'redis://127.0.0.1:1/0';

const MODULES = [fileURLToPath(new URL('./pool-tasks.js', import.meta.url))];

/** As a program without types gives them. */
function make(options: unknown): Worker {
  return new Worker(options as WorkerOptions);
}

const REFUSED: readonly (readonly [object, typeof TypeError | typeof RangeError, RegExp])[] = [
  [{ concurency: 5 }, TypeError, /^A worker has no option concurency\. Its options are redis, .*\bconcurrency\b/],
  [{ constructor: 5 }, TypeError, /no option constructor/],
  [{ redis: undefined }, TypeError, /needs the URL of its Redis: give redis/],
  [{ redis: 6379 }, TypeError, /^redis must be a text, got 6379\.$/],
  [{ namespace: '' }, TypeError, /^namespace must be a text/],
  [{ queues: [] }, TypeError, /at least one queue/],
  [{ queues: 'celery' }, TypeError, /^queues must be a list of queue names, got "celery"\.$/],
  [{ queues: ['a"b'] }, TypeError, /^queues: "a\\"b" is no queue name/],
  [{ excludeQueues: [7] }, TypeError, /^excludeQueues must be a list of queue names, got \[7\]/],
  [
    { queues: ['a', 'b'], excludeQueues: ['b', 'a'] },
    TypeError,
    /name one in queues that excludeQueues does not leave/,
  ],
  [{ defaultQueue: 'a\x06\x16b' }, TypeError, /^defaultQueue: .* is no queue name/],
  [{ pool: 'prefork' }, TypeError, /^pool must be one of async, solo, threads, processes, got "prefork"\.$/],
  [{ hostname: '' }, TypeError, /^hostname must be a text/],
  [{ statedb: 1 }, TypeError, /^statedb must be a text, got 1/],
  [{ tasks: 'tasks.mjs' }, TypeError, /^tasks must be a list of texts, got "tasks\.mjs"/],
  [{ acksLate: 1 }, TypeError, /^acksLate must be true or false, got 1\.$/],
  [{ withoutGossip: 'yes' }, TypeError, /^withoutGossip must be true or false, got "yes"/],
  [{ concurrency: '5' }, TypeError, /^concurrency must be a whole number from 1 to 100000, or null, got "5"\.$/],
  [{ concurrency: 0 }, RangeError, /^concurrency must be a whole number from 1 to 100000, or null, got 0\.$/],
  [{ concurrency: 2.5 }, RangeError, /whole number .* got 2\.5/],
  [{ prefetch: Number.NaN }, RangeError, /^prefetch must be .* got NaN\.$/],
  [{ resultExpires: Number.POSITIVE_INFINITY }, RangeError, /^resultExpires must be .* got Infinity/],
  [{ maxCrashes: null }, TypeError, /^maxCrashes must be a whole number from 1 to 1000, got null\.$/],
  [{ autoscale: 5 }, TypeError, /^autoscale must be \{ max, min \}/],
  [{ autoscale: { max: 5 } }, TypeError, /^autoscale must be \{ max, min \}/],
  [
    { autoscale: { max: 0, min: 9 } },
    RangeError,
    /max from 1 to 100000 and min from 0 to max, .*got \{"max":0,"min":9\}/,
  ],
  [{ autoscale: { max: 2, min: 3 } }, RangeError, /min from 0 to max/],
  [{ autoscale: { max: 2.5, min: 1 } }, RangeError, /whole numbers/],
  [{ autoscale: { max: Number.NaN, min: 1 } }, RangeError, /whole numbers/],

  [{ pool: 'threads' }, TypeError, /^pool "threads" needs the modules that define the tasks.* give tasks\.$/],
  [{ maxTasksPerChild: 5 }, TypeError, /^maxTasksPerChild .* pool "async" has none\. Use pool "processes", or leave/],
  [
    { maxMemoryPerChild: 5, pool: 'threads', tasks: MODULES },
    TypeError,
    /^maxMemoryPerChild .* pool "threads" has none/,
  ],
  [{ autoscale: { max: 2, min: 1 }, pool: 'solo' }, TypeError, /^pool "solo" runs one .* or leave autoscale out\.$/],
  [
    { concurrency: 2, pool: 'solo' },
    TypeError,
    /^pool "solo" runs one .* Use pool "async", or leave concurrency out\.$/,
  ],
  [
    { concurrency: 2, autoscale: { max: 2, min: 1 } },
    TypeError,
    /^autoscale and concurrency both .* Leave concurrency/,
  ],
  [{ softTimeLimit: 10, timeLimit: 5 }, TypeError, /^softTimeLimit must not be above timeLimit, got 10 and 5/],
  [{ withoutHeartbeat: true, heartbeatInterval: 5 }, TypeError, /^withoutHeartbeat .* Leave out one of them\.$/],
];

for (const [options, kind, text] of REFUSED) {
  t.test(`new Worker() refuses ${inspect(options, { breakLength: Infinity })}`, async (t) => {
    t.throws(() => make({ redis: REDIS, ...options }), { name: kind.name, message: text });
  });
}

t.test('new Worker() refuses what are no options', async (t) => {
  for (const options of [undefined, null, REDIS]) t.throws(() => make(options), /needs its options as an object/);
  t.throws(() => make({}), /needs the URL of its Redis/);
});

t.test('a namespace that cannot be is refused in the words of every other part', async (t) => {
  t.throws(() => make({ redis: REDIS, namespace: 'a{b}' }), { constructor: RingbeatError, code: 'BAD_NAMESPACE' });
});

const RANGES = Object.entries(WORKER_OPTIONS).flatMap(([name, { min, max, whole }]) =>
  min === undefined || max === undefined || name === 'metricsPort'
    ? []
    : [{ name, min, max, step: whole ? 1 : min / 2 }],
);

t.test('numbers have the same range in new Worker() as on the command line', async (t) => {
  t.ok(RANGES.length >= 8);
  for (const { name, min, max, step } of RANGES) {
    const isOfChildren = name.endsWith('PerChild');
    const rest = { redis: REDIS, ...(isOfChildren ? { pool: 'processes', tasks: MODULES } : {}) };
    for (const value of [min, max]) t.doesNotThrow(() => make({ ...rest, [name]: value }), `${name}: ${value}`);
    for (const value of [min - step, max + step, -1]) {
      const text = new RegExp(`^${name} must be .* from ${min} to ${max}.* got `);
      t.throws(() => make({ ...rest, [name]: value }), { name: 'RangeError', message: text }, `${name}: ${value}`);
    }
  }
});

t.test('every option of the command line is one of new Worker(), but those of its process', async (t) => {
  const { pidfile: _, metricsPort: __, metricsHost: ___, ...specs } = WORKER_OPTIONS;
  const defaults = Object.entries(specs).map(([name, spec]) => [name, spec.default]);
  t.same(make({ redis: REDIS, ...Object.fromEntries(defaults) }).config, make({ redis: REDIS }).config);
});

t.test('what is undefined is not given', async (t) => {
  const given = {
    redis: REDIS,
    pool: undefined,
    concurrency: undefined,
    autoscale: undefined,
    maxTasksPerChild: undefined,
  };
  t.same(make(given).config, make({ redis: REDIS }).config);
});

t.test('options that say the same as others, or nothing, contradict nothing', async (t) => {
  const ACCEPTED: readonly Partial<WorkerOptions>[] = [
    { pool: 'solo', concurrency: 1, autoscale: null },
    { pool: 'threads', tasks: MODULES, autoscale: { max: 4, min: 0 }, concurrency: null },
    { pool: 'processes', tasks: MODULES, maxTasksPerChild: 5, maxMemoryPerChild: 200_000, concurrency: 2 },
    { softTimeLimit: 5, timeLimit: 5 },
    { withoutHeartbeat: true, heartbeatInterval: 2 },
    { excludeQueues: ['elsewhere'] },
  ];
  for (const options of ACCEPTED) t.doesNotThrow(() => make({ redis: REDIS, ...options }), JSON.stringify(options));
});

t.test('a pool that scales begins with its least size, or one slot', async (t) => {
  const sizeOf = (min: number) => workerConfig({ redis: REDIS, autoscale: { max: 9, min } }).concurrency;
  t.same([sizeOf(3), sizeOf(0)], [3, 1]);
});

t.test('excluded queues are left out, in the order of the others', async (t) => {
  const { queues } = workerConfig({ redis: REDIS, queues: ['a', 'b', 'a', 'c'], excludeQueues: ['b', 'd'] });
  t.same(queues, ['a', 'c']);
});

t.test("a worker's name has its host filled in as Celery does", async (t) => {
  const names = [
    ['w1@%h', 'w1@box.example.org'],
    ['w1@%n', 'w1@box'],
    ['%n@%d', 'box@example.org'],
    ['100%%@%h', '100%@box.example.org'],
    ['w1@here', 'w1@here'],
    ['w1', 'w1@box.example.org'],
    ['%x@%h', '%x@box.example.org'],
  ] as const;
  for (const [pattern, name] of names) t.equal(nodeName(pattern, 'box.example.org'), name);
  t.equal(nodeName('%n@%d', 'box'), 'box@');
  t.equal(workerConfig({ redis: REDIS }).hostname, `ringbeat@${machineName()}`);
});

t.test('AUTOSCALE_KEEPALIVE is heeded where the pool scales, and refused where it is no duration', async (t) => {
  const before = process.env.AUTOSCALE_KEEPALIVE;
  t.teardown(() => {
    if (before === undefined) delete process.env.AUTOSCALE_KEEPALIVE;
    else process.env.AUTOSCALE_KEEPALIVE = before;
  });
  const autoscale = { max: 2, min: 1 };
  const keepalive = (text: string) => {
    process.env.AUTOSCALE_KEEPALIVE = text;
    return workerConfig({ redis: REDIS, autoscale }).autoscaleKeepaliveMs;
  };
  t.same([keepalive('0.5'), keepalive('120'), keepalive('')], [500, 120_000, 30_000]);
  for (const text of ['abc', '0', '-1', 'Infinity', '5 s']) {
    t.throws(() => keepalive(text), { name: 'RangeError', message: new RegExp(`seconds from .* got "${text}".*30 s`) });
  }
  process.env.AUTOSCALE_KEEPALIVE = 'abc';
  t.doesNotThrow(() => workerConfig({ redis: REDIS }), 'it is nothing to a pool of one size');
});

t.test('a program can leave the loading of its tasks to the worker, which refuses to start without them', async (t) => {
  const worker = make({ redis: REDIS, tasks: ['/no/such.mjs'] });
  await t.rejects(worker.start(), { code: 'TASKS_MODULE', message: /there is no such file/ });
});
