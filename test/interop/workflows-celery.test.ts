import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { type CeleryPython, celeryPythons, runPython, startCeleryWorker } from '../support/celery.ts';
import { spawnWorker } from '../support/processes.ts';
import { type RedisServer, withRedis } from '../support/redis-server.ts';

// Each test has a Redis of its own, and mostly waits.
t.jobs = 2;

const TASKS = fileURLToPath(new URL('../worker/workflow-tasks.js', import.meta.url));

/** Sends each canvas and prints what its result came to. */
const PRODUCER = `
import json, time
from datetime import datetime, timezone
from celery import chain, chord, group
from celery.exceptions import TimeoutError
from ringbeat_test_app import app, connection, add, boom, echo, failed, tsum

def outcome(result):
    try:
        return result.get(timeout=20)
    except Exception as error:
        return [type(error).__name__, str(error)]

def body_outcome(result):
    deadline = time.time() + 20
    while not result.ready() and time.time() < deadline:
        time.sleep(0.01)
    return [result.state, type(result.result).__name__, str(result.result)]

def with_link(link):
    return add.apply_async((2, 3), link=link)

# Celery's client subscribes on one connection and then looks on another: what is stored after the look and before Redis
# comes to the subscription it never hears of, and waits in vain for what is there.
def got(child):
    try:
        return child.get(timeout=20)
    except TimeoutError:
        meta = child.backend.get_task_meta(child.id, cache=False)
        assert meta['status'] == 'SUCCESS', meta
        return meta['result']

def children_of(result):
    result.get(timeout=20)
    return sorted(json.dumps(got(child)) for child in result.children)

def failing_chain():
    result = chain(boom.s('bang'), add.s(3), add.s(4)).apply_async()
    return [body_outcome(result), body_outcome(result.parent), body_outcome(result.parent.parent)]

def dead():
    return boom.si('bang').set(task_id='the-failing-member')

def noted(key):
    deadline = time.time() + 20
    while connection.llen(key) == 0 and time.time() < deadline:
        time.sleep(0.01)
    return connection.delete(key)

def errback_of(canvas):
    return [outcome(canvas.apply_async(link_error=failed.s())), noted('failed')]

CANVASES = {
    'chain': lambda: outcome(chain(add.s(1, 2), add.s(3), add.s(4))()),
    'chain with immutable task': lambda: outcome(chain(add.s(1, 1), add.si(5, 5), add.s(1))()),
    'chain in chain': lambda: outcome(chain(add.s(1, 1), chain(add.s(2), add.s(3)), add.s(4))()),
    'chain of many': lambda: outcome(chain(add.s(0, 1), *[add.s(1) for _ in range(20)])()),
    'chain that waits': lambda: outcome(chain(add.s(1, 1), add.s(2).set(countdown=0.3))()),
    'group': lambda: outcome(group(add.s(i, i) for i in range(5))()),
    'group in group': lambda: outcome(group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3)))()),
    'group of chains': lambda: outcome(group(chain(add.s(1, 1), add.s(2)), chain(add.s(3, 3), add.s(4)))()),
    'chain that ends in a group': lambda: outcome(chain(add.s(1, 1), group(add.s(2), add.s(3)))()),
    'chord': lambda: outcome(chord([add.s(1, 1), add.s(2, 2)])(tsum.s())),
    'chord of many': lambda: outcome(chord([add.s(i, i) for i in range(50)])(echo.s())),
    'chord without header': lambda: outcome(chord([])(echo.s())),
    'chord with a chain as body': lambda: outcome(chord([add.s(1, 1), add.s(2, 2)])(tsum.s() | add.s(100))),
    'chord with chains in its header': lambda: outcome(chord([chain(add.s(1, 1), add.s(10)), add.s(2, 2)])(echo.s())),
    'chord with a group in its header': lambda: outcome(chord([add.s(1, 1), group(add.s(2, 2), add.s(3, 3)), add.s(4, 4)])(echo.s())),
    'chord in chord': lambda: outcome(chord([chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(3, 3)])(echo.s())),
    'group in the middle of a chain': lambda: outcome(chain(add.s(1, 1), group(add.s(2), add.s(3)), echo.s())()),
    'groups in a chain': lambda: outcome(chain(group(add.s(1, 1), add.s(2, 2)), tsum.s(), group(add.s(1), add.s(2)), tsum.s(), add.s(3))()),
    'chain behind a chord': lambda: outcome(chain(chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(1), group(add.s(1), add.s(2)))()),
    'chord with a group as body': lambda: outcome(chord([add.s(1, 1), add.s(2, 2)])(group(echo.s(), tsum.s()))),
    'one callback': lambda: children_of(with_link(add.s(10))),
    'two callbacks': lambda: children_of(with_link([add.s(10), add.si(1, 1)]))[-1:],
    'a callback that is a chain': lambda: children_of(with_link(chain(add.s(10), add.s(20)))),
    'map': lambda: outcome(tsum.map([[1, 2], [3, 4]]).apply_async()),
    'starmap': lambda: outcome(add.starmap([(1, 2), (3, 4)]).apply_async()),
    'chunks': lambda: outcome(add.chunks([(1, 1), (2, 2), (3, 3)], 2)()),
    'chunks in a chain': lambda: outcome(chain(add.si(1, 1), add.starmap([(1, 2), (3, 4)]), tsum.s())()),
    'failing chain': failing_chain,
    'failing member of a chord': lambda: body_outcome(chord([add.s(1, 1), dead()])(tsum.s())),
    'errback of a chord': lambda: [body_outcome(chord([add.s(1, 1), dead()])(tsum.s().on_error(failed.s())))[:2], noted('failed')],
    'failing member of a chord in a chain': lambda: body_outcome(chain(add.s(1, 1), group(add.s(2), dead()), tsum.s())()),
    'failing body of a chord': lambda: outcome(chord([add.s(1, 1), add.s(2, 2)])(boom.si('bang'))),
    'errback of a task': lambda: errback_of(boom.s('bang')),
    'errback of a chain': lambda: errback_of(chain(add.s(1, 1), boom.si('bang'), add.s(1))),
    'texts and numbers': lambda: outcome(chain(echo.s([1.5, 'ü', None, {'a': [True]}]), echo.s())()),
    'a time': lambda: str(outcome(chain(echo.s(datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)), echo.s())())).replace('T', ' ').replace('Z', '+00:00').replace('.000', ''),
}
`;

/** What waits for a chord that cannot run. Celery 5.2 leaves it waiting for ever. */
const BEHIND_CHORDS = `
CANVASES = {
    'what follows a chord with a failing member': lambda: body_outcome(chain(chord([add.s(1, 1), dead()], tsum.s()), add.s(1))()),
    'failing member of a chord in a chord': lambda: body_outcome(chord([chord([add.s(1, 1), dead()], tsum.s()) | add.s(1), add.s(1, 1)])(tsum.s()).parent.results[0]),
    'a group at the end of a chain in the header': lambda: outcome(chord([add.s(1, 1), chain(add.s(1, 1), group(add.s(1), add.s(2)))])(echo.s())),
}
`;

const RUN = 'print(json.dumps({name: canvas() for name, canvas in CANVASES.items()}))';

async function outcomes(t: Test, celery: CeleryPython, server: RedisServer, canvases = ''): Promise<unknown> {
  const code = [PRODUCER, canvases, RUN].join('\n');
  return JSON.parse(await runPython(t, celery, server.url, code, { deadlineMs: 120_000 }));
}

function startOurs(t: Test, server: RedisServer) {
  return spawnWorker(t, server.url, ['--tasks', TASKS], { env: { RINGBEAT_TEST_REDIS: server.url } });
}

/** Each fleet runs every canvas, and Python starts five times. */
t.setTimeout(240_000);

for (const celery of await celeryPythons(t)) {
  t.test(`workflows of Celery ${celery.version} come to what Celery's own worker makes of them`, async (t) => {
    const theirs = await withRedis(t);
    await startCeleryWorker(t, celery, theirs.url, { pool: 'threads', concurrency: 4 });
    const expected = await outcomes(t, celery, theirs);

    const ours = await withRedis(t);
    await startOurs(t, ours);
    t.same(await outcomes(t, celery, ours), expected, 'on the bundled worker');

    const failed = ['FAILURE', 'ChordError', "Dependency the-failing-member raised ValueError('bang')"];
    t.same(
      await outcomes(t, celery, ours, BEHIND_CHORDS),
      {
        'what follows a chord with a failing member': failed,
        'failing member of a chord in a chord': failed,
        'a group at the end of a chain in the header': [2, [3, 4]],
      },
      'on the bundled worker alone',
    );

    const mixed = await withRedis(t);
    await startOurs(t, mixed);
    await startCeleryWorker(t, celery, mixed.url, {
      pool: 'threads',
      concurrency: 2,
      args: ['--prefetch-multiplier', '1'],
    });
    t.same(await outcomes(t, celery, mixed), expected, 'on a bundled worker and one of Celery together');
  });
}
