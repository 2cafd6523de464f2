import type { Test } from 'tap';
import { freePort } from '../../runtime/embedded-redis.ts';
import { spawnCelery, virtualEnvironment } from './celery.ts';
import { until } from './eventually.ts';

/** A flower of one test's own, as its HTTP API shows it (https://flower.readthedocs.io/en/latest/api.html). */
export interface Flower {
  /** What it answers to GET, read as JSON; throws with its status when that is not 2xx. */
  get(path: string): Promise<unknown>;
  /** What it answers to one of its buttons. */
  post(path: string): Promise<{ readonly status: number; readonly text: string }>;
  /** The text of one of its pages, with its status. */
  page(path: string): Promise<{ readonly status: number; readonly text: string }>;
}

/** A Python that has flower; null, with the reason as a comment of `t`, where pip cannot get it. */
export async function flowerPython(t: Test): Promise<string | null> {
  try {
    return await virtualEnvironment('flower', ['flower', 'celery[redis]']);
  } catch (error) {
    t.comment(`There is no flower: ${error instanceof Error ? error.message.trim().split('\n').at(-1) : error}`);
    return null;
  }
}

/** Flower on this Redis; resolves when it answers. */
export async function startFlower(t: Test, python: string, redisUrl: string): Promise<Flower> {
  const port = await freePort();
  const flower = await spawnCelery(
    t,
    { python },
    redisUrl,
    ['flower', '--address=127.0.0.1', `--port=${port}`, '--inspect_timeout=2000'],
    { FLOWER_UNAUTHENTICATED_API: 'true' },
  );
  const base = `http://127.0.0.1:${port}`;
  const ask = async (path: string, method: 'GET' | 'POST') => {
    const answer = await fetch(base + path, { method });
    return { status: answer.status, text: await answer.text() };
  };
  await until(
    async () => {
      if (flower.hasExited()) throw new Error(`flower ended:\n${flower.stdout}${flower.stderr}`);
      return (await fetch(`${base}/healthcheck`)).ok;
    },
    `flower answers at ${base}`,
    { deadlineMs: 60_000 },
  );
  return {
    async get(path) {
      const { status, text } = await ask(path, 'GET');
      if (status >= 300) throw new Error(`flower answered ${status} to ${path}: ${text}`);
      return JSON.parse(text);
    },
    post: (path) => ask(path, 'POST'),
    page: (path) => ask(path, 'GET'),
  };
}
