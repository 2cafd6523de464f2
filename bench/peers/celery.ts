import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { spawnGuarded } from '../../runtime/guarded-child.ts';
import { awaitEmptyQueue } from '../drain.ts';
import { awaitValue } from '../processes.ts';
import { QUEUE, type Stage } from '../stage.ts';
import { fillList } from '../task-messages.ts';

/** Debian's packages python3-celery and python3-redis belong to this one; another `python3` may come first on PATH. */
const PYTHON = '/usr/bin/python3';
/** The sources' folder, from wherever this was compiled to. */
const FOLDER = fileURLToPath(new URL('../../../bench/peers/', import.meta.url));
const PROCESSES = 2;

/** Which Celery that is, such as `5.2.6`. Throws where there is none. */
export function celeryVersion(): string {
  const { status, stdout } = spawnSync(PYTHON, ['-c', 'import celery, redis; print(celery.__version__)'], {
    encoding: 'utf8',
  });
  if (status === 0) return stdout.trim();
  throw new Error(`No Celery for ${PYTHON} to compare with. Run: node tools/setup.mjs celery`);
}

/** Messages per second: Celery's worker with two processes, which runs before the queue is filled, drains it; no results. */
export async function celeryRate(stage: Stage, sample: string, messages: number): Promise<number> {
  const { redis } = stage;
  await fillList(stage, `${QUEUE}-ahead`, { sample, task: 'bench.noop', results: false, messages });
  const args = ['-m', 'celery', '-A', 'celery_noop', 'worker', '-P', 'prefork', '-c', String(PROCESSES), '-l', 'ERROR'];
  const child = await spawnGuarded(PYTHON, args, {
    graceSec: 5,
    stdout: 'ignore',
    stderr: 'ignore',
    cwd: stage.makeFolder(),
    env: {
      ...process.env,
      BENCH_REDIS: stage.server.url,
      PYTHONPATH: FOLDER,
      PYTHONDONTWRITEBYTECODE: '1',
      C_FORCE_ROOT: '1',
    },
  });
  stage.onClose(() => child.stop(5_000));
  await awaitValue('Celery waiting for messages', async () => {
    if (child.hasExited()) throw new Error('The Celery worker ended at once.');
    return String(await redis.client('LIST')).includes('cmd=brpop') ? true : null;
  });
  const startedAtMs = performance.now();
  await redis.rename(`${QUEUE}-ahead`, QUEUE);
  await awaitEmptyQueue(stage);
  const seconds = (performance.now() - startedAtMs) / 1_000;
  await child.stop(5_000);
  await redis.flushall();
  return messages / seconds;
}
