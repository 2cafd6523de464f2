import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';

const MAIN = fileURLToPath(new URL('../../bench/main.js', import.meta.url));

/** Runs the bench to its end. */
export async function runBench(t: Test, args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const bench = startBench(t, args);
  const code = await bench.exited;
  return { code, output: bench.output() };
}

export interface RunningBench {
  readonly child: ChildProcess;
  /** All that it has printed so far. */
  output(): string;
  readonly exited: Promise<number | null>;
}

/** Starts the bench; `variable` is `NAME=value`, added to its environment. */
export function startBench(t: Test, args: readonly string[], variable = ''): RunningBench {
  const [name = '', value = ''] = variable.split('=');
  const env = name === '' ? process.env : { ...process.env, [name]: value };
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env });
  t.teardown(() => child.kill('SIGTERM'));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  return { child, output: () => output, exited: new Promise((resolve) => child.once('close', resolve)) };
}
