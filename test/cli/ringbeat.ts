import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { NODE_FLAGS } from '../../runtime/node-flags.ts';
import { CLI } from '../support/processes.ts';

export interface CommandOptions {
  /** What it reads on standard input; default: nothing. */
  readonly input?: string | Buffer;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a `ringbeat` command that ends by itself, with none of this process's RINGBEAT_ variables. */
export async function ringbeat(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('RINGBEAT_'));
  const child = spawn(process.execPath, [...NODE_FLAGS, CLI, ...args], {
    env: { ...Object.fromEntries(own), ...options.env },
    timeout: 120_000,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  // A command that ends early does not read it all.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
}
